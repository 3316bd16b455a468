"""What one run is: the configs of `talr train` and `talr eval`.

They stand here and not in config/, which is above this room: a run is made from one of them, and
whoever composed it. Their parts stand in the rooms that read them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from talr_cli.data.base import Dataset
from talr_cli.errors import UserError
from talr_cli.evaluation.config import DomainEvalConfig, SuiteConfig
from talr_cli.fields import part, value
from talr_cli.methods.base import Adapter, Merge, Objective, Regulariser
from talr_cli.methods.method import Method
from talr_cli.methods.optimizers import Optimizer
from talr_cli.methods.replay import OtherRows
from talr_cli.methods.schedules import Schedule
from talr_cli.models.config import ModelConfig
from talr_cli.ranks import DEVICE, DEVICES, DistributedConfig
from talr_cli.tracking.base import LoggerConfig
from talr_cli.training.config import TrainerConfig

STUDY = "runs that are compared: a folder in runs_dir, a group in W&B"
QUIET = "no progress and no notices: warnings and results only"
LIMIT = "the first items of every task, and an even share of test rows: a quick look, recorded"


@dataclass(kw_only=True)
class EvalConfig:
    """`talr eval`."""

    ckpt: str | None = value(
        "a run, a checkpoint or an adapter on disk, a hub id; null: the base model",
        None,
        is_path=True,
        identity=False,
    )
    study: str = value(STUDY, may_be_empty=False, identity=False)
    runs_dir: str = value("where studies lie", may_be_empty=False, is_path=True, identity=False)
    limit: int | None = value(LIMIT, None, at_least=1, identity=False)
    apart: bool = value(
        "true: in a folder of its own, by the suite's name, beside scores by another suite",
        False,
        identity=False,
    )
    device: str = value(DEVICE, "auto", choices=DEVICES, identity=False)
    quiet: bool = value(QUIET, False, identity=False)
    model: ModelConfig
    dataset: Dataset = part("the rows and how answers to them are judged")
    suite: SuiteConfig = value("general ability", identity=False)
    domain: DomainEvalConfig = value(
        "how the test rows are answered", factory=DomainEvalConfig, identity=False
    )
    distributed: DistributedConfig = value("the processes of the evaluation", identity=False)
    logger: LoggerConfig = value("where curves and scores go", identity=False)


@dataclass(kw_only=True)
class TrainConfig:
    """`talr train`."""

    lr: float = value("peak learning rate", above=0)
    seed: int = value(
        "of everything: order of the rows, initialisation, dropout", at_least=0, at_most=2**32 - 1
    )
    study: str = value(STUDY, may_be_empty=False, identity=False)
    runs_dir: str = value("where studies lie", may_be_empty=False, is_path=True, identity=False)
    eval: bool = value("false: train and save only", True, identity=False)
    score_at: Any = value(
        "where along the training to score too: shares of its steps, as [0.25,0.5], or `epoch`",
        None,
        identity=False,
    )
    score_during: bool = value(
        "score each point of score_at as soon as it is reached; false: after the training",
        False,
        identity=False,
    )
    score_suite: Any = value(
        "a suite for the points of score_at, by its name, as mini; null: that of the end",
        None,
        identity=False,
    )
    at: float = value(
        "share of the steps after which the weights are taken, under the schedule of all of them",
        1.0,
        above=0,
        at_most=1,
    )
    limit: int | None = value(LIMIT, None, at_least=1, identity=False)
    claims: bool = value(
        "the study's report tests the claims of arXiv 2509.20758", False, identity=False
    )
    device: str = value(DEVICE, "auto", choices=DEVICES, identity=False)
    quiet: bool = value(QUIET, False, identity=False)
    model: ModelConfig
    dataset: Dataset = part("the rows and how answers to them are judged")
    method: str = value(
        "the method's name in tables; empty: made of the names of its parts", "", identity=False
    )
    objective: Objective = part("what each target token weighs in the loss")
    adapter: Adapter | None = part("weights trained in the place of the model's own", None)
    regulariser: Regulariser | None = part("what holds the model to its base", None)
    merge: Merge | None = part("what is made of the base and the tuned model", None)
    replay: OtherRows | None = part("rows trained on beside the domain's own", None)
    schedule: Schedule = part("how the learning rate goes from step to step")
    optimizer: Optimizer = part("how the weights follow the gradients")
    trainer: TrainerConfig
    distributed: DistributedConfig = value("the processes of one run", identity=False)
    suite: SuiteConfig = value("general ability", identity=False)
    domain: DomainEvalConfig = value(
        "how the test rows are answered", factory=DomainEvalConfig, identity=False
    )
    logger: LoggerConfig = value("where curves and scores go", identity=False)

    def __post_init__(self) -> None:
        self.method = self.method or self.parts.name
        self.score_at = self._shares(self.score_at)
        if isinstance(self.score_suite, Mapping):
            self.score_suite = SuiteConfig(**self.score_suite)
        if not isinstance(self.score_suite, SuiteConfig | None):
            raise UserError(f"score_suite={self.score_suite} must be the name of a suite")
        if self.at < 1 and self.score_suite is not None:
            self.suite, self.score_suite = self.score_suite, None

    def _shares(self, wanted: Any) -> list[float]:
        """`score_at` as ascending shares of the steps, without 1, the whole training."""
        trainer = self.trainer
        if wanted == "epoch":
            if trainer.max_steps is not None:
                raise UserError("score_at=epoch needs trainer.epochs: leave trainer.max_steps out")
            wanted = [epoch / trainer.epochs for epoch in range(1, math.ceil(trainer.epochs))]
        found = wanted if isinstance(wanted, Sequence) else [] if wanted is None else [wanted]
        for share in found:
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
                raise UserError(
                    f"score_at={wanted} must be `epoch`, or shares of the steps within (0, 1]"
                )
        if found and self.at != 1:
            raise UserError(f"score_at goes along the whole training: leave at={self.at:g} out")
        return sorted({float(share) for share in found if share < 1})

    @property
    def parts(self) -> Method:
        """The method that the parts make together."""
        return Method(
            self.objective,
            self.adapter,
            self.regulariser,
            self.merge,
            self.replay,
            schedule=self.schedule,
        )
