"""MLflow: a run of the experiment named after the study, on a server or in a file of the study."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from talr_cli.tracking.base import About

STORE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
RUN_ID = "talr.id"
LONGEST = 500  # characters of a parameter that every store takes
AT_ONCE = 1000  # metrics that a call takes

log = logging.getLogger(__name__)


class Mlflow:
    """A run of MLflow."""

    title = "MLflow"

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._step = 0

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._step = step
        self._log_all([(step, metrics)])

    def finish(
        self,
        scores: Mapping[str, float],
        tasks: Mapping[str, Any],
        samples: Sequence[Mapping[str, Any]],
        plot: Path | None,
    ) -> None:
        self._log_all([(self._step, scores)])
        if tasks:
            self._client.log_dict(self._run_id, dict(tasks), "tasks.json")
        if samples:
            self._client.log_dict(self._run_id, list(samples), "answers.json")
        if plot is not None:
            self._client.log_artifact(self._run_id, str(plot))
        self._client.set_terminated(self._run_id)

    def _log_all(self, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [
            Metric(name, number, now, step)
            for step, metrics in rows
            for name, number in metrics.items()
            if isinstance(number, int | float)
        ]
        for first in range(0, len(points), AT_ONCE):
            self._client.log_batch(self._run_id, metrics=points[first : first + AT_ONCE])


def start(about: About) -> Mlflow:
    """Make the run anew, with its history: a resumed run would log some steps twice."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Param, RunTag

    study = about.directory.parents[1].resolve()
    own_store = f"sqlite:///{study / STORE}"
    client = MlflowClient(about.logger.uri or os.environ.get("MLFLOW_TRACKING_URI") or own_store)
    kept_here = client.tracking_uri == own_store
    number = _experiment(client, about.group, (study / ARTIFACTS).as_uri() if kept_here else None)
    for before in client.search_runs([number], f"tags.`{RUN_ID}` = '{about.run_id}'"):
        client.delete_run(before.info.run_id)
    run = client.create_run(number, run_name=about.name, tags={RUN_ID: about.run_id})
    own = Mlflow(client, run.info.run_id)
    parameters = [Param(key, text[:LONGEST]) for key, text in _flat("", about.config)]
    tags = [RunTag("talr.directory", str(about.directory))]
    client.log_batch(run.info.run_id, params=parameters[:100], tags=tags)
    for first in range(100, len(parameters), 100):
        client.log_batch(run.info.run_id, params=parameters[first : first + 100])
    own._log_all(about.past())
    log.info("MLflow: experiment %s at %s", about.group, client.tracking_uri)
    return own


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """The number of the experiment, which is made where it is not there."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id  # perhaps made by another run of the study in this moment


def _flat(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, text) of each value of a config."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", str(value)
