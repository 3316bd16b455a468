"""The configs of `talr train` and `talr eval`.

They are here and not in config/, so that a run can be made from a config that was composed in any
way. Their parts are declared in the packages that read them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from talr_cli.data.base import Dataset
from talr_cli.errors import UserError
from talr_cli.evaluation.config import DomainEvalConfig, SuiteConfig
from talr_cli.fields import part, value
from talr_cli.methods.base import Adapter, Merge, Objective, Regulariser
from talr_cli.methods.method import Method
from talr_cli.methods.optimizers import Optimizer
from talr_cli.methods.replay import ReplayedRows
from talr_cli.methods.schedules import Schedule
from talr_cli.models.config import ModelConfig
from talr_cli.ranks import DEVICE, DEVICES, DistributedConfig
from talr_cli.tracking.base import LoggerConfig
from talr_cli.training.config import TrainerConfig

STUDY = "the study: runs to compare with each other; a folder in runs_dir, a group in W&B"
QUIET = "print warnings and results only, no progress"
LIMIT = (
    "score only the first N items of each task, and N test rows over all categories: a "
    "quick look, noted in the results"
)


@dataclass(kw_only=True)
class EvalConfig:
    """`talr eval`."""

    ckpt: str | None = value(
        "what to score: a run, a checkpoint or an adapter on disk, or a hub id; null: the "
        "base model",
        None,
        may_be_empty=False,
        is_path=True,
        identity=False,
    )
    study: str = value(STUDY, may_be_empty=False, identity=False)
    runs_dir: str = value(
        "the folder that holds the studies", may_be_empty=False, is_path=True, identity=False
    )
    limit: int | None = value(LIMIT, None, at_least=1, identity=False)
    apart: bool = value(
        "write the scores to a folder of their own, named after the suite, and keep those of "
        "other suites",
        False,
        identity=False,
    )
    device: str = value(DEVICE, "auto", choices=DEVICES, identity=False)
    quiet: bool = value(QUIET, False, identity=False)
    model: ModelConfig
    dataset: Dataset = part("the rows, and how answers to them are scored")
    suite: SuiteConfig = value("the tasks that measure general ability", identity=False)
    domain: DomainEvalConfig = value(
        "how the model answers the test rows", factory=DomainEvalConfig, identity=False
    )
    distributed: DistributedConfig = value("the processes of the evaluation", identity=False)
    logger: LoggerConfig = value("where curves and scores are logged", identity=False)


@dataclass(kw_only=True)
class TrainConfig:
    """`talr train`."""

    lr: float = value("peak learning rate", above=0)
    seed: int = value(
        "random seed for the order of rows, initialisation and dropout",
        at_least=0,
        at_most=2**32 - 1,
    )
    study: str = value(STUDY, may_be_empty=False, identity=False)
    runs_dir: str = value(
        "the folder that holds the studies", may_be_empty=False, is_path=True, identity=False
    )
    eval: bool = value(
        "score the model after the training; false: only train and save it", True, identity=False
    )
    score_at: Any = value(
        "also score the weights along the training: after these shares of its steps, such as "
        "[0.25,0.5], or after each `epoch`",
        None,
        identity=False,
    )
    score_during: bool = value(
        "score each point of score_at when it is reached; false: all of them after the training",
        False,
        identity=False,
    )
    score_suite: Any = value(
        "the suite for the points of score_at, such as mini; null: the same as at the end",
        None,
        identity=False,
    )
    at: float = value(
        "take the weights after this share of the steps; the learning rate follows the "
        "schedule of the whole training",
        1.0,
        above=0,
        at_most=1,
    )
    limit: int | None = value(LIMIT, None, at_least=1, identity=False)
    claims: bool = value(
        "let the study's report test the claims of the TALR paper (arXiv 2509.20758)",
        False,
        identity=False,
    )
    device: str = value(DEVICE, "auto", choices=DEVICES, identity=False)
    quiet: bool = value(QUIET, False, identity=False)
    model: ModelConfig
    dataset: Dataset = part("the rows, and how answers to them are scored")
    method: str = value(
        "the method's name in tables; empty: built from the names of its parts", "", identity=False
    )
    objective: Objective = part("how much each target token counts in the loss")
    adapter: Adapter | None = part("weights trained in place of the model's own", None)
    regulariser: Regulariser | None = part("what holds the model to its base", None)
    merge: Merge | None = part("how the base and the tuned model are combined", None)
    replay: ReplayedRows | None = part("rows trained on besides the domain's own", None)
    schedule: Schedule = part("how the learning rate changes over the steps")
    optimizer: Optimizer = part("how gradients change the weights")
    trainer: TrainerConfig
    distributed: DistributedConfig = value("the processes of one run", identity=False)
    suite: SuiteConfig = value("the tasks that measure general ability", identity=False)
    domain: DomainEvalConfig = value(
        "how the model answers the test rows", factory=DomainEvalConfig, identity=False
    )
    logger: LoggerConfig = value("where curves and scores are logged", identity=False)

    def __post_init__(self) -> None:
        self.method = self.method or self.parts.name
        self.score_at = self._shares(self.score_at)
        names = [field.name for field in fields(SuiteConfig)]
        if isinstance(self.score_suite, Mapping) and set(self.score_suite) <= set(names):
            self.score_suite = SuiteConfig(**self.score_suite)
        if not isinstance(self.score_suite, SuiteConfig | None):
            raise UserError(f"score_suite={self.score_suite} must be the name of a suite")
        if self.at < 1 and self.score_suite is not None:
            self.suite, self.score_suite = self.score_suite, None

    def _shares(self, wanted: Any) -> list[float]:
        """`score_at` as ascending shares of the steps, without 1 (the whole training)."""
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
            raise UserError(f"score_at is for the whole training: leave out at={self.at:g}")
        return sorted({float(share) for share in found if share < 1})

    @property
    def parts(self) -> Method:
        """The parts as a method."""
        return Method(
            self.objective, self.adapter, self.regulariser, self.merge, self.replay, self.schedule
        )
