"""The config class of every command; those of `train` and `eval` are in run/."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.data.base import Dataset
from talr_cli.errors import UserError
from talr_cli.fields import part, value
from talr_cli.methods.base import Objective
from talr_cli.models.config import ModelConfig
from talr_cli.ranks import DEVICE, DEVICES
from talr_cli.run.config import QUIET, EvalConfig, TrainConfig

A_PATH: dict[str, Any] = {"may_be_empty": False, "is_path": True}
RUNS_DIR: dict[str, Any] = {"doc": "the folder that holds the studies", **A_PATH}
RUN: dict[str, Any] = {"doc": "the run: its directory, or the beginning of its name", **A_PATH}
MAX_GENERAL_LOSS: dict[str, Any] = {
    "doc": "the largest acceptable loss of general score against the base model",
    **{"at_least": 0, "at_most": 1},
}
JSON: dict[str, Any] = {
    "doc": "also write the result to this file as JSON (docs/json.md); - prints it instead of the "
    "text",
    "default": None,
    **A_PATH,
}


@dataclass(kw_only=True)
class StudyConfig:
    """The values of commands that read a study."""

    study: str = value("the study: a folder in runs_dir", may_be_empty=False)
    runs_dir: str = value(**RUNS_DIR)


@dataclass(kw_only=True)
class ReadingConfig(StudyConfig):
    """The values of commands that read a study and show a table."""

    json: str | None = value(**JSON)


@dataclass(kw_only=True)
class AnyStudyConfig:
    """The values of commands that read runs of one study or of all."""

    study: str | None = value(
        "the study: a folder in runs_dir; null: all of them", None, may_be_empty=False
    )
    runs_dir: str = value(**RUNS_DIR)


@dataclass(kw_only=True)
class ReadingAnyConfig(AnyStudyConfig):
    """The values of commands that show runs of one study or of all."""

    json: str | None = value(**JSON)


@dataclass(kw_only=True)
class ListConfig(ReadingAnyConfig):
    """`talr list`."""


@dataclass(kw_only=True)
class ShowConfig(ReadingAnyConfig):
    """`talr show RUN`."""

    run: str | None = value(**RUN, default=None)
    samples: int = value("how many answers to show", 2, at_least=0)


@dataclass(kw_only=True)
class CleanConfig(ReadingAnyConfig):
    """`talr clean`."""

    dry_run: bool = value("show what would be deleted, but delete nothing", False)
    unused_days: float = value(
        "delete cache entries that have not been read for this many days", 30.0, at_least=0
    )
    models: bool = value(
        "also delete the models and adapters of scored runs, and unused models of the cache", False
    )


@dataclass(kw_only=True)
class DoctorConfig:
    """`talr doctor`."""

    runs_dir: str = value("the folder that holds the studies; its disk is checked", **A_PATH)
    json: str | None = value(**JSON)


@dataclass(kw_only=True)
class FetchConfig:
    """`talr fetch`, in addition to the values of `talr train`."""

    folder: str | None = value(
        "the folder for all downloads; null: the usual caches", None, **A_PATH
    )


@dataclass(kw_only=True)
class StatusConfig(ReadingConfig):
    """`talr status`."""


@dataclass(kw_only=True)
class LogsConfig(AnyStudyConfig):
    """`talr logs RUN`."""

    run: str | None = value(**RUN, default=None)
    lines: int = value("how many of the last lines are shown", 40, at_least=1)
    follow: bool = value("keep showing new lines until Ctrl-C", False)


@dataclass(kw_only=True)
class StopConfig(StudyConfig):
    """`talr stop`."""

    now: bool = value(
        "stop running jobs at once; the work since their last checkpoint is lost", False
    )


@dataclass(kw_only=True)
class AnalyzeConfig(StudyConfig):
    """`talr analyze`."""

    ckpt: str | None = value(
        "what to analyze: a run, a checkpoint or an adapter on disk, or a hub id; null: the "
        "base model",
        None,
        **A_PATH,
    )
    device: str = value(DEVICE, "auto", choices=DEVICES)
    quiet: bool = value(QUIET, False)
    rows: int | None = value(
        "number of training rows, from the first one; null: all", None, at_least=1
    )
    max_length: int = value(
        "maximum number of tokens of a row; longer rows are cut", 4096, at_least=2
    )
    model: ModelConfig
    dataset: Dataset = part("the rows")
    objective: Objective = part("the objective whose token weights are shown")


@dataclass(kw_only=True)
class ReportConfig(ReadingConfig):
    """`talr report`."""

    claims: bool | None = value(
        "test the claims of the TALR paper (arXiv 2509.20758); null: if runs were made with "
        "claims=true",
        None,
    )


@dataclass(kw_only=True)
class RecommendConfig(ReadingConfig):
    """`talr recommend`."""

    max_general_loss: float = value(**MAX_GENERAL_LOSS)


@dataclass(kw_only=True)
class ExportConfig(AnyStudyConfig):
    """`talr export`."""

    run: str = value(**RUN)
    out: str = value("the folder to create", **A_PATH)


@dataclass(kw_only=True)
class SlurmConfig:
    """The resources of each job of a detached sweep on SLURM."""

    partition: str | None = value(
        "the partition of the jobs; null: the cluster's default", None, may_be_empty=False
    )
    account: str | None = value(
        "the account that is charged; null: your default one", None, may_be_empty=False
    )
    minutes: int = value(
        "time limit in minutes; a job that reaches it is queued again and resumes", 1440, at_least=1
    )
    nodes: int = value("nodes of one run; several need distributed=ddp or fsdp2", 1, at_least=1)
    gpus: int = value("GPUs of each node", 1, at_least=0)
    gpu_memory: float | None = value(
        "memory of each GPU in GiB, so that the plan can check it: a login node cannot see it",
        None,
        above=0,
    )
    cpus: int = value("CPU cores of each node", 8, at_least=1)
    memory: str | None = value(
        "memory of each node, such as 64G; null: the partition's default", None, may_be_empty=False
    )
    grace: int = value(
        "seconds before the time limit at which a run is told to end its step and write a "
        "checkpoint",
        120,
        at_least=1,
        at_most=65535,
    )
    requeues: int = value(
        "how often a job may be queued again after its time limit", 100, at_least=0
    )
    options: list[str] = value(
        "more options for sbatch, such as [--qos=high,--exclusive]", factory=list
    )
    template: str | None = value(
        "your own batch script instead of talr's: docs/clusters.md", None, **A_PATH
    )

    def __post_init__(self) -> None:
        if self.grace >= 60 * self.minutes:
            raise UserError(
                f"slurm.grace={self.grace} s is no shorter than slurm.minutes={self.minutes}"
            )
        for option in self.options:
            if not option.startswith("-") or "\n" in option:
                raise UserError(f"slurm.options: {option!r} is no option: write --NAME=VALUE")


@dataclass(kw_only=True)
class SweepConfig:
    """`talr sweep`, in addition to the values of `talr train`."""

    launcher: str = value(
        "where runs are started: on this machine or a cluster (docs/clusters.md)",
        "local",
        choices=("local", "slurm", "submitit", "ray"),
    )
    workers: int = value(
        "how many runs at a time; each gets one GPU, or a share of the CPU cores", 1, at_least=1
    )
    quiet: bool = value(QUIET, False)
    retry_failed: bool = value("try runs again that failed or diverged before", False)
    keep: str = value(
        "which models are kept: all (final), those of whole trainings (ends), those on the "
        "Pareto front of each model and dataset (best), or none",
        "final",
        choices=("final", "ends", "best", "none"),
    )
    detach: bool = value("with launcher=slurm: submit the jobs and return", False)
    slurm: SlurmConfig = value("resources of a detached job on SLURM", factory=SlurmConfig)

    def __post_init__(self) -> None:
        if self.detach and self.launcher != "slurm":
            raise UserError(f"detach=true needs launcher=slurm, not launcher={self.launcher}")
        if self.detach and self.keep != "final":
            raise UserError(
                f"keep={self.keep} deletes models during a sweep, which a detached sweep cannot "
                "do: leave it out; `talr clean models=true` deletes them later"
            )


@dataclass(kw_only=True)
class SearchConfig:
    """`talr search`, in addition to the values of `talr train`."""

    n_trials: int = value(
        "how many trials in all, over all processes that share the search", 20, at_least=1
    )
    max_general_loss: float = value(**MAX_GENERAL_LOSS, default=0.02)
    prune: bool = value(
        "stop a trial at a point of score_at if it is worse than the median trial", True
    )
    search_seed: int = value("random seed of the values that are tried", 0, at_least=0)
    quiet: bool = value(QUIET, False)


@dataclass(kw_only=True)
class CompareConfig(ReadingAnyConfig):
    """`talr compare A B`."""

    a: str | None = value(**RUN, default=None)
    b: str | None = value("the run to compare with it", None, **A_PATH)
    examples: int = value(
        "how many flipped items to show for the domain and for each task", 2, at_least=0
    )
    flips: str | None = value(
        "write all flipped items to this file (JSON lines), with prompts and both outputs",
        None,
        is_path=True,
    )


COMMANDS: dict[str, type] = {  # in the order of docs/config.md
    "train": TrainConfig,
    "sweep": SweepConfig,
    "search": SearchConfig,
    "eval": EvalConfig,
    "analyze": AnalyzeConfig,
    "compare": CompareConfig,
    "report": ReportConfig,
    "recommend": RecommendConfig,
    "export": ExportConfig,
    "list": ListConfig,
    "show": ShowConfig,
    "clean": CleanConfig,
    "doctor": DoctorConfig,
    "fetch": FetchConfig,
    "status": StatusConfig,
    "logs": LogsConfig,
    "stop": StopConfig,
}
OF_GRIDS = ("sweep", "search", "fetch")  # also take the values of `train`


def conf_dir() -> Path:
    """The folder conf/: inside the package if installed from a wheel, else in the checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"
