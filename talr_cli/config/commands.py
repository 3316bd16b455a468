"""The config class of every command. Those of `train` and `eval` are in run/, which makes runs."""

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
    """The values of commands that read a study."""

    study: str = value("the study: a folder in runs_dir", may_be_empty=False)
    runs_dir: str = value("the folder that holds the studies", may_be_empty=False, is_path=True)


JSON = "also write the result to this file as JSON (docs/json.md); - prints it instead of the text"


@dataclass(kw_only=True)
class ReadingConfig(StudyConfig):
    """The values of commands that read a study and show a table."""

    json: str | None = value(JSON, None, may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class AnyStudyConfig:
    """The values of commands that show runs of one study or of all."""

    study: str | None = value(
        "the study: a folder in runs_dir; null: all of them", None, may_be_empty=False
    )
    runs_dir: str = value("the folder that holds the studies", may_be_empty=False, is_path=True)
    json: str | None = value(JSON, None, may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class ListConfig(AnyStudyConfig):
    """`talr list`."""


@dataclass(kw_only=True)
class ShowConfig(AnyStudyConfig):
    """`talr show RUN`."""

    run: str | None = value(
        "the run: its directory, or the beginning of its name",
        None,
        is_path=True,
        may_be_empty=False,
    )
    samples: int = value("how many answers are shown", 2, at_least=0)


@dataclass(kw_only=True)
class CleanConfig(AnyStudyConfig):
    """`talr clean`."""

    dry_run: bool = value("show what would be deleted, but delete nothing", False)
    unused_days: float = value(
        "delete entries of the caches that were not read for this many days", 30.0, at_least=0
    )
    models: bool = value(
        "also delete the models and adapters of scored runs, and unused models of the cache", False
    )


@dataclass(kw_only=True)
class DoctorConfig:
    """`talr doctor`."""

    runs_dir: str = value(
        "the folder that holds the studies; its disk is checked", may_be_empty=False, is_path=True
    )
    json: str | None = value(JSON, None, may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class FetchConfig:
    """`talr fetch`, beside the values of `talr train`."""

    folder: str | None = value(
        "where to put all of it; null: the usual caches", None, is_path=True, may_be_empty=False
    )


@dataclass(kw_only=True)
class StatusConfig(ReadingConfig):
    """`talr status`."""


@dataclass(kw_only=True)
class LogsConfig:
    """`talr logs RUN`."""

    run: str | None = value(
        "the run: its directory, or the beginning of its name",
        None,
        is_path=True,
        may_be_empty=False,
    )
    study: str | None = value(
        "the study: a folder in runs_dir; null: all of them", None, may_be_empty=False
    )
    runs_dir: str = value("the folder that holds the studies", may_be_empty=False, is_path=True)
    lines: int = value("how many lines of the end are shown", 40, at_least=1)
    follow: bool = value("go on showing new lines, until Ctrl-C", False)


@dataclass(kw_only=True)
class StopConfig(StudyConfig):
    """`talr stop`."""

    now: bool = value(
        "end running jobs at once: the work since their last checkpoint is lost", False
    )


@dataclass(kw_only=True)
class AnalyzeConfig(StudyConfig):
    """`talr analyze`."""

    ckpt: str | None = value(
        "what to analyze: a run, a checkpoint or an adapter on disk, or a hub id; null: the "
        "base model",
        None,
        is_path=True,
    )
    device: str = value(DEVICE, "auto", choices=DEVICES)
    quiet: bool = value(QUIET, False)
    rows: int | None = value(
        "how many of the training rows, from the first on; null: all", None, at_least=1
    )
    max_length: int = value("the most tokens of a row; longer rows are cut", 4096, at_least=2)
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

    max_general_loss: float = value(
        "how much of the base's general score the run to ship may lose at most",
        at_least=0,
        at_most=1,
    )


@dataclass(kw_only=True)
class ExportConfig:
    """`talr export`."""

    run: str = value(
        "a run: its directory, or the beginning of its name", may_be_empty=False, is_path=True
    )
    study: str | None = value(
        "the study: a folder in runs_dir; null: all of them", None, may_be_empty=False
    )
    runs_dir: str = value("the folder that holds the studies", may_be_empty=False, is_path=True)
    out: str = value("the folder to create", may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class SlurmConfig:
    """What each job of a detached sweep asks of SLURM."""

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
        "how often a job that reached its time limit is queued again at most", 100, at_least=0
    )
    options: list[str] = value(
        "more options for sbatch, such as [--qos=high,--exclusive]", factory=list
    )
    template: str | None = value(
        "a batch script of your own to use instead of talr's: docs/clusters.md",
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
    slurm: SlurmConfig = value("what a detached job asks of SLURM", factory=SlurmConfig)

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

    n_trials: int = value(
        "how many trials in all, over all processes that share the search", 20, at_least=1
    )
    max_general_loss: float = value(
        "how much of the base's general score a trial may lose", 0.02, at_least=0, at_most=1
    )
    prune: bool = value(
        "stop a trial at a point of score_at where it is worse than the median trial", True
    )
    search_seed: int = value("random seed of the values that are tried", 0, at_least=0)
    quiet: bool = value(QUIET, False)


@dataclass(kw_only=True)
class CompareConfig(AnyStudyConfig):
    """`talr compare A B`."""

    a: str | None = value(
        "a run: its directory, or the beginning of its name", None, is_path=True, may_be_empty=False
    )
    b: str | None = value("the run to compare with it", None, is_path=True, may_be_empty=False)
    examples: int = value(
        "how many flipped items are shown of the domain and of each task", 2, at_least=0
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
OF_GRIDS = ("sweep", "search", "fetch")  # they take the values of `train` too


def conf_dir() -> Path:
    """conf/: inside the package when installed from a wheel, else at the top of a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"
