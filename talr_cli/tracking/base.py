"""The interface of trackers (W&B, MLflow, TensorBoard): start, log and finish.

Tracking is a convenience, as `metrics.jsonl` and `results.json` hold everything already. So errors
here are only warnings.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from talr_cli.errors import UserError, install_command, kind_and_reason
from talr_cli.fields import value

TRAINING = "train/"  # the prefix of the training's curves
SAMPLES = 50  # answers in a tracker's table
# Metrics that are renamed so that a tracker's curves show their unit.
_UNITS = {
    "loss": "loss_nats_per_token",
    "weighted_loss": "weighted_loss_nats_per_token",
    "validation_loss": "validation_loss_nats_per_token",
    "penalty": "penalty_nats_per_token",
    "tau": "tau_nats_per_token",
    "lr": "learning_rate",
}
# {logger: extra} of the loggers that talr does not install by default.
EXTRAS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}

log = logging.getLogger(__name__)

# What a tracker gets at a run's end: scores by path, general tasks, answers to the domain's rows.
Scores = Mapping[str, float]
Tasks = Mapping[str, Any]
Samples = Sequence[Mapping[str, Any]]


class Ending(Enum):
    """How a run ended, as the exit code of its command."""

    DONE = 0
    FAILED = 1
    STOPPED = 130


@dataclass
class LoggerConfig:
    """`auto` means online for a user who is logged in, else offline, unless WANDB_MODE is set."""

    name: str = value(
        "where curves and scores are logged",
        "wandb",
        choices=("wandb", "tensorboard", "mlflow", "none"),
    )
    project: str = value("the W&B project", "talr")
    entity: str | None = value("the W&B user or team; null: your default one", None)
    mode: str = value(
        "the W&B mode; auto: online when logged in, else offline",
        "auto",
        choices=("auto", "online", "offline"),
    )
    uri: str | None = value(
        "MLflow's server or store; null: MLFLOW_TRACKING_URI, or else mlflow.db in the "
        "study's folder",
        None,
        may_be_empty=False,
    )


@dataclass(frozen=True)
class RunInfo:
    """What a tracker needs to know about a run at its start.

    Attributes:
        group: The study.
        job_type, tags: For sorting and filtering runs; empty tags are left out.
        directory: The run's directory, STUDY/MODEL__DATASET/RUN.
        history: The rows of metrics that a resumed run has logged before, each with its "step".
    """

    logger: LoggerConfig
    run_id: str
    name: str
    group: str
    job_type: str
    tags: Sequence[str]
    config: Mapping[str, Any]
    directory: Path
    history: Sequence[Mapping[str, Any]] = ()

    def history_curves(self) -> list[tuple[int, dict[str, Any]]]:
        """(step, {name in a tracker: value}) for each row of the history."""
        return [
            (row["step"], curves({key: one for key, one in row.items() if key != "step"}))
            for row in self.history
        ]


class Backend(Protocol):
    """A started run of a tracker; it may raise anything."""

    title: str

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add one point to each curve."""
        ...

    def finish(
        self, scores: Scores, tasks: Tasks, samples: Samples, plot: Path | None, ending: Ending
    ) -> None:
        """Log scores by path, general tasks, answers to the domain's rows and the plot; close.

        The tracker shows the run as `ending` says.
        """
        ...


class Tracker:
    """Passes calls on to a backend, turning errors into warnings; without one, does nothing."""

    def __init__(self, backend: Backend | None = None) -> None:
        self._backend = backend

    @property
    def is_on(self) -> bool:
        """Whether there is a backend, which has not failed."""
        return self._backend is not None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add one point to each curve of the training."""
        self._add(step, curves(metrics))

    def log_point(self, results: Mapping[str, Any]) -> None:
        """Add the scores of a point along the training, with standard errors, at its step."""
        self._add(results["training"]["steps"], point_scores(results))

    def _add(self, step: int, values: Mapping[str, Any]) -> None:
        if self._backend is None:
            return
        try:
            self._backend.log(step, values)
        except Exception as error:  # a library may raise anything, and no run may fail for that
            self._give_up(self._backend, error)

    def finish(
        self,
        results: Mapping[str, Any] | None = None,
        plot: Path | None = None,
        changes: Scores | None = None,
        samples: Samples = (),
        ending: Ending = Ending.DONE,
    ) -> None:
        """Log the final scores, the tables of tasks and answers and the plot; close the run.

        Args:
            changes: Differences of the scores from the base model's.
            samples: The records of the domain from samples/, of which the first are shown.
        """
        if self._backend is None:
            return
        backend, scores, tasks = self._backend, {}, {}
        if results is not None:
            scores = {**flat_scores(results), **(changes or {})}
            tasks = (results["general"] or {}).get("tasks", {})
        try:
            backend.finish(scores, tasks, samples[:SAMPLES], plot, ending)
            self._backend = None
        except Exception as error:  # as above
            self._give_up(backend, error)

    def _give_up(self, backend: Backend, error: Exception) -> None:
        log.warning("%s failed, going on without it: %s", backend.title, kind_and_reason(error))
        self._backend = None


def check_installed(logger: LoggerConfig) -> None:
    """Raise UserError if the tracker is not installed."""
    extra = EXTRAS.get(logger.name)
    if extra is not None and importlib.util.find_spec(logger.name) is None:
        raise UserError(f"logger={logger.name} is not installed: {install_command(extra)}")


def curves(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a training step, by their names in a tracker."""
    return {f"{TRAINING}{_UNITS.get(name, name)}": one for name, one in metrics.items()}


def point_scores(results: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a point along a training and their standard errors, by name in a tracker."""
    sections = {"domain": results["domain"]}
    if results["general"]:
        sections[f"general/{results['general']['suite']}"] = results["general"]
    if results["drift"]:
        sections["kl_nats_per_token"] = results["drift"].get("kl_from_base")
    found = {}
    for name, section in sections.items():
        if section and section.get("score") is not None:
            found[f"points/{name}"] = section["score"]
            if section.get("stderr") is not None:
                found[f"points/{name}_stderr"] = section["stderr"]
    return found


def flat_scores(results: Mapping[str, Any]) -> dict[str, float]:
    """{path, such as general/score: number} of the results, without the scores of items.

    The names of drift include its unit.
    """

    def numbers(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key != "items":
                    yield from numbers(f"{prefix}/{key}", item)
        elif isinstance(value, int | float):
            drift, _, key = prefix.rpartition("/")
            if drift.startswith("drift/") and key in ("score", "stderr"):
                prefix = f"{drift}/{'stderr_' if key == 'stderr' else ''}nats_per_token"
            yield prefix, value

    return {
        key: number
        for section in ("general", "domain", "drift", "weights", "training")
        for key, number in numbers(section, results[section])
    }
