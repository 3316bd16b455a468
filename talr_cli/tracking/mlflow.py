"""Logs to MLflow: a run in an experiment named after the study, on a server or in a local file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from talr_cli.tracking.base import RunInfo, Samples, Scores, Tasks

STORE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
RUN_ID = "talr.id"
MAX_CHARS = 500  # of a parameter, which every store accepts
MAX_METRICS = 1000  # per call
MAX_PARAMS = 100  # per call

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

    def finish(self, scores: Scores, tasks: Tasks, samples: Samples, plot: Path | None) -> None:
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
        for first in range(0, len(points), MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=points[first : first + MAX_METRICS])


def start(info: RunInfo) -> Mlflow:
    """Create the run anew, with its history, as a resumed run would log some steps twice."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Param, RunTag

    study = info.directory.parents[1].resolve()
    own_store = f"sqlite:///{study / STORE}"
    client = MlflowClient(info.logger.uri or os.environ.get("MLFLOW_TRACKING_URI") or own_store)
    is_local = client.tracking_uri == own_store
    experiment = _experiment(client, info.group, (study / ARTIFACTS).as_uri() if is_local else None)
    for earlier in client.search_runs([experiment], f"tags.`{RUN_ID}` = '{info.run_id}'"):
        client.delete_run(earlier.info.run_id)
    run = client.create_run(experiment, run_name=info.name, tags={RUN_ID: info.run_id})
    backend = Mlflow(client, run.info.run_id)
    parameters = [Param(key, text[:MAX_CHARS]) for key, text in _flat("", info.config)]
    tags = [RunTag("talr.directory", str(info.directory))]
    client.log_batch(run.info.run_id, params=parameters[:MAX_PARAMS], tags=tags)
    for first in range(MAX_PARAMS, len(parameters), MAX_PARAMS):
        client.log_batch(run.info.run_id, params=parameters[first : first + MAX_PARAMS])
    backend._log_all(info.history_curves())
    log.info("MLflow: experiment %s at %s", info.group, client.tracking_uri)
    return backend


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    """The id of the experiment, which is created if it does not exist."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id  # another run of the study may have created it just now


def _flat(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, text) of each value of a config."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", str(value)
