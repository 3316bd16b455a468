"""The config of every command by its name, made of the parts that stand in the rooms.

Those of `train` and `eval` stand in run/, which makes runs of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from talr_cli.data.base import Dataset
from talr_cli.errors import UserError
from talr_cli.fields import part, value
from talr_cli.methods.base import Objective
from talr_cli.models.config import ModelConfig
from talr_cli.ranks import DEVICE, DEVICES
from talr_cli.run.config import QUIET, EvalConfig, TrainConfig


@dataclass(kw_only=True)
class StudyConfig:
    """What the commands that read a study have in common."""

    study: str = value("a folder in runs_dir", may_be_empty=False)
    runs_dir: str = value("where studies lie", may_be_empty=False, is_path=True)


JSON = "the same as JSON (docs/json.md) in this file; - prints it in the place of the text"


@dataclass(kw_only=True)
class ReadingConfig(StudyConfig):
    """What those have in common that only read, and have a table to show."""

    json: str | None = value(JSON, None, may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class AnyStudyConfig:
    """What the commands have in common that look at the runs of one study or of all."""

    study: str | None = value("a folder in runs_dir; null: each of them", None, may_be_empty=False)
    runs_dir: str = value("where studies lie", may_be_empty=False, is_path=True)
    json: str | None = value(JSON, None, may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class ListConfig(AnyStudyConfig):
    """`talr list`."""


@dataclass(kw_only=True)
class ShowConfig(AnyStudyConfig):
    """`talr show RUN`."""

    run: str | None = value(
        "its directory, or how its name begins", None, is_path=True, may_be_empty=False
    )
    samples: int = value("answers that are shown", 2, at_least=0)


@dataclass(kw_only=True)
class CleanConfig(AnyStudyConfig):
    """`talr clean`."""

    dry_run: bool = value("show what would be deleted, delete nothing", False)
    unused_days: float = value(
        "entries of the caches that nobody has read for so long are deleted", 30.0, at_least=0
    )
    models: bool = value(
        "delete model/ and adapter/ of scored runs too, and unused models of the cache", False
    )


@dataclass(kw_only=True)
class DoctorConfig:
    """`talr doctor`."""

    runs_dir: str = value("whose disk is looked at", may_be_empty=False, is_path=True)
    json: str | None = value(JSON, None, may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class FetchConfig:
    """`talr fetch`, beside the values of `talr train`."""

    folder: str | None = value(
        "where all of it goes; null: the usual caches", None, is_path=True, may_be_empty=False
    )


@dataclass(kw_only=True)
class StatusConfig(ReadingConfig):
    """`talr status`."""


@dataclass(kw_only=True)
class LogsConfig:
    """`talr logs RUN`."""

    run: str | None = value(
        "its directory, or how its name begins", None, is_path=True, may_be_empty=False
    )
    study: str | None = value("a folder in runs_dir; null: each of them", None, may_be_empty=False)
    runs_dir: str = value("where studies lie", may_be_empty=False, is_path=True)
    lines: int = value("of its end that are shown", 40, at_least=1)
    follow: bool = value("go on with what is added, until Ctrl-C", False)


@dataclass(kw_only=True)
class StopConfig(StudyConfig):
    """`talr stop`."""

    now: bool = value("end the jobs at once: the work since the last checkpoint is lost", False)


@dataclass(kw_only=True)
class AnalyzeConfig(StudyConfig):
    """`talr analyze`."""

    ckpt: str | None = value(
        "a run, a checkpoint or an adapter on disk, a hub id; null: the base model",
        None,
        is_path=True,
    )
    device: str = value(DEVICE, "auto", choices=DEVICES)
    quiet: bool = value(QUIET, False)
    rows: int | None = value("the first training rows; null: all", None, at_least=1)
    max_length: int = value("tokens; longer rows are cut", 4096, at_least=2)
    model: ModelConfig
    dataset: Dataset = part("the rows")
    objective: Objective = part("whose weights are shown")


@dataclass(kw_only=True)
class ReportConfig(ReadingConfig):
    """`talr report`."""

    claims: bool | None = value(
        "test the claims of arXiv 2509.20758; null: where runs were made with claims=true", None
    )


@dataclass(kw_only=True)
class RecommendConfig(ReadingConfig):
    """`talr recommend`."""

    max_general_loss: float = value(
        "of the general score, the most that the run to ship may lose", at_least=0, at_most=1
    )


@dataclass(kw_only=True)
class ExportConfig:
    """`talr export`."""

    run: str = value(
        "a run: its directory, or how its name begins", may_be_empty=False, is_path=True
    )
    study: str | None = value("a folder in runs_dir; null: each of them", None, may_be_empty=False)
    runs_dir: str = value("where studies lie", may_be_empty=False, is_path=True)
    out: str = value("the folder to make", may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class SlurmConfig:
    """What each job of a detached sweep asks of SLURM."""

    partition: str | None = value("null: the cluster's default", None, may_be_empty=False)
    account: str | None = value("who pays for it", None, may_be_empty=False)
    minutes: int = value(
        "time limit; a job that reaches it is queued again and goes on", 1440, at_least=1
    )
    nodes: int = value("of one run; several need distributed=ddp or fsdp2", 1, at_least=1)
    gpus: int = value("of each node", 1, at_least=0)
    gpu_memory: float | None = value(
        "GiB of each GPU, for the plan: nobody can see it from a login node", None, above=0
    )
    cpus: int = value("cores of each node", 8, at_least=1)
    memory: str | None = value(
        "of each node, as 64G; null: the partition's default", None, may_be_empty=False
    )
    grace: int = value(
        "seconds before the limit in which a run ends its step and writes a checkpoint",
        120,
        at_least=1,
        at_most=65535,
    )
    requeues: int = value("how often a job is queued again for its time limit", 100, at_least=0)
    options: list[str] = value("more options of sbatch, as [--qos=high,--exclusive]", factory=list)
    template: str | None = value(
        "a file in the place of talr's batch script: docs/clusters.md",
        None,
        is_path=True,
        may_be_empty=False,
    )

    def __post_init__(self) -> None:
        if self.grace >= 60 * self.minutes:
            raise UserError(
                f"slurm.grace={self.grace} s leave nothing of slurm.minutes={self.minutes}"
            )
        for option in self.options:
            if not option.startswith("-") or "\n" in option:
                raise UserError(f"slurm.options: {option!r} is no option: write --NAME=VALUE")


@dataclass(kw_only=True)
class SweepConfig:
    """`talr sweep`, beside the values of `talr train`."""

    launcher: str = value(
        "where runs are made: docs/clusters.md",
        "local",
        choices=("local", "slurm", "submitit", "ray"),
    )
    workers: int = value("runs at a time: one GPU each, or a share of the cores", 1, at_least=1)
    quiet: bool = value(QUIET, False)
    retry_failed: bool = value("make runs again that failed or diverged before", False)
    keep: str = value(
        "models: all | those of the ends of trainings | those on the Pareto front of each model "
        "and dataset | none",
        "final",
        choices=("final", "ends", "best", "none"),
    )
    detach: bool = value("submit the jobs to SLURM and return: launcher=slurm", False)
    slurm: SlurmConfig = value("what a detached job asks for", factory=SlurmConfig)

    def __post_init__(self) -> None:
        if self.detach and self.launcher != "slurm":
            raise UserError(f"detach=true needs launcher=slurm, not launcher={self.launcher}")
        if self.detach and self.keep != "final":
            raise UserError(
                f"keep={self.keep} deletes models while a sweep goes on, and a detached one has "
                "nobody to do it: leave it out, `talr clean models=true` deletes them later"
            )


@dataclass(kw_only=True)
class SearchConfig:
    """`talr search`, beside the values of `talr train`."""

    n_trials: int = value("trials, of all processes that make them together", 20, at_least=1)
    max_general_loss: float = value(
        "of the general score, what a trial may give up", 0.02, at_least=0, at_most=1
    )
    prune: bool = value(
        "stop a trial at a point of score_at where it is worse than the usual one", True
    )
    search_seed: int = value("of what is tried", 0, at_least=0)
    quiet: bool = value(QUIET, False)


@dataclass(kw_only=True)
class CompareConfig(AnyStudyConfig):
    """`talr compare A B`."""

    a: str | None = value(
        "a run: its directory, or how its name begins", None, is_path=True, may_be_empty=False
    )
    b: str | None = value("the run to compare with it", None, is_path=True, may_be_empty=False)
    examples: int = value("flipped items shown of the domain and each task", 2, at_least=0)
    flips: str | None = value(
        "a file (JSON lines) for all of them, with prompts and both outputs", None, is_path=True
    )


COMMANDS: dict[str, type] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "analyze": AnalyzeConfig,
    "report": ReportConfig,
    "recommend": RecommendConfig,
    "export": ExportConfig,
    "sweep": SweepConfig,
    "search": SearchConfig,
    "compare": CompareConfig,
    "list": ListConfig,
    "show": ShowConfig,
    "clean": CleanConfig,
    "doctor": DoctorConfig,
    "fetch": FetchConfig,
    "status": StatusConfig,
    "logs": LogsConfig,
    "stop": StopConfig,
}


def conf_dir() -> Path:
    """conf/: inside the package when installed from a wheel, at the top of a checkout otherwise."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"
