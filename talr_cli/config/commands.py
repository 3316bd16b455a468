"""The config of every command by its name, made of the parts that stand in the rooms.

Those of `train` and `eval` stand in run/, which makes runs of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from talr_cli.data.base import Dataset
from talr_cli.fields import part, value
from talr_cli.methods.base import Objective
from talr_cli.models.config import ModelConfig
from talr_cli.ranks import DEVICE, DEVICES
from talr_cli.run.config import EvalConfig, TrainConfig


@dataclass(kw_only=True)
class StudyConfig:
    """What the commands that read a study have in common."""

    study: str = value("a folder in runs_dir", may_be_empty=False)
    runs_dir: str = value("where studies lie", may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class AnalyzeConfig(StudyConfig):
    """`talr analyze`."""

    ckpt: str | None = value(
        "a run, a checkpoint or an adapter on disk, a hub id; null: the base model",
        None,
        is_path=True,
    )
    device: str = value(DEVICE, "auto", choices=DEVICES)
    rows: int | None = value("the first training rows; null: all", None, at_least=1)
    max_length: int = value("tokens; longer rows are cut", 4096, at_least=2)
    model: ModelConfig
    dataset: Dataset = part("the rows")
    objective: Objective = part("whose weights are shown")


@dataclass(kw_only=True)
class ReportConfig(StudyConfig):
    """`talr report`."""


@dataclass(kw_only=True)
class RecommendConfig(StudyConfig):
    """`talr recommend`."""

    max_general_loss: float = value(
        "of the general score, the most that the run to ship may lose", at_least=0, at_most=1
    )


@dataclass(kw_only=True)
class ExportConfig:
    """`talr export`."""

    run: str = value("a run directory", may_be_empty=False, is_path=True)
    out: str = value("the folder to make", may_be_empty=False, is_path=True)


@dataclass(kw_only=True)
class SweepConfig:
    """`talr sweep`, beside the values of `talr train`."""

    launcher: str = value(
        "where runs are made: docs/clusters.md",
        "local",
        choices=("local", "slurm", "submitit", "ray"),
    )
    workers: int = value("runs at a time: one GPU each, or a share of the cores", 1, at_least=1)
    retry_failed: bool = value("make runs again that failed or diverged before", False)
    keep: str = value(
        "models: all | those on the Pareto front of each model and dataset | none",
        "final",
        choices=("final", "best", "none"),
    )


@dataclass(kw_only=True)
class CompareConfig(StudyConfig):
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
    "compare": CompareConfig,
}


def conf_dir() -> Path:
    """conf/: inside the package when installed from a wheel, at the top of a checkout otherwise."""
    package = Path(__file__).parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"
