"""Logs to MLflow: a run in an experiment named after the study, on a server or in a local file."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from talr_cli.errors import kind_and_reason
from talr_cli.runs.atomic import write_bytes
from talr_cli.runs.lease import hold
from talr_cli.tracking.base import Ending, RunInfo, Samples, Scores, Tasks

STORE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
RUN_ID = "talr.id"
MAX_CHARS = 500  # of a parameter, which every store accepts
MAX_METRICS = 1000  # per call
MAX_PARAMS = 100  # per call
MAX_NAME = 240  # characters
PAUSE = 20  # times as long as a call took, before the next one: a twentieth of the training's time
# What MLflow reads when it is imported or called. Its own limits, 120 seconds and eight attempts,
# would have each run of a sweep wait for 20 minutes where the server hangs.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it logs a traceback, and raises the same
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
# The status of a run, which is RUNNING from its start.
STATUSES = {Ending.DONE: "FINISHED", Ending.FAILED: "FAILED", Ending.STOPPED: "KILLED"}
# In the names of metrics: a character that MLflow refuses, or a part of the path that it does.
_REFUSED = re.compile(r"[^\w\-. :/]|(?<![^/])\.{0,2}(?![^/])")

log = logging.getLogger(__name__)


class Mlflow:
    """A run of MLflow."""

    title = "MLflow"

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._step = 0
        self._names: dict[str, str] = {}  # {name in MLflow: ours}
        self._unsent: list[Any] = []
        self._next_call = 0.0
        self._is_late = False

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """What a server that does not answer misses is sent with a later point."""
        self._step = step
        self.add(step, metrics)
        begun = time.monotonic()
        if begun < self._next_call:
            return
        try:
            self.send()
        except Exception as error:  # as any backend, the client may raise anything
            if not self._is_late:
                log.warning("MLflow gets the curves later: %s", kind_and_reason(error))
            self._is_late = True
        ended = time.monotonic()
        self._next_call = ended + PAUSE * (ended - begun)

    def finish(
        self, scores: Scores, tasks: Tasks, samples: Samples, plot: Path | None, ending: Ending
    ) -> None:
        self.add(self._step, scores)
        try:
            self.send()
        finally:  # metrics may be refused
            self._client.set_terminated(self._run_id, STATUSES[ending])
        # Files come last, as they may go to another server.
        if tasks:
            self._client.log_dict(self._run_id, dict(tasks), "tasks.json")
        if samples:
            self._client.log_dict(self._run_id, list(samples), "answers.json")
        if plot is not None:
            self._client.log_artifact(self._run_id, str(plot))

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Note the numbers among the metrics, to be sent."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._unsent += [
            Metric(self.name(one), float(number), now, step)
            for one, number in metrics.items()
            if isinstance(number, int | float)
        ]

    def send(self) -> None:
        """Send all that was not sent; MLflow takes the same point twice for one."""
        while self._unsent:
            self._client.log_batch(self._run_id, metrics=self._unsent[:MAX_METRICS])
            del self._unsent[:MAX_METRICS]

    def name(self, ours: str) -> str:
        """The name in MLflow, which is no other's: it allows few characters."""
        name = _REFUSED.sub("_", ours)[:MAX_NAME]
        while self._names.setdefault(name, ours) != ours:
            name += "_"
        return name


def start(info: RunInfo) -> Mlflow:
    """Create the run anew, with its history, as a resumed run would log some steps twice."""
    for name, text in SETTINGS.items():
        os.environ.setdefault(name, text)
    from mlflow import MlflowClient
    from mlflow.entities import Param, RunTag

    study = info.directory.parents[1].resolve()
    own_store = f"sqlite:///{study / STORE}"
    uri = info.logger.uri or os.environ.get("MLFLOW_TRACKING_URI") or own_store
    artifacts = None
    if uri == own_store:
        artifacts = (study / ARTIFACTS).as_uri()
        _make_store(study / STORE)
    client = MlflowClient(uri)
    experiment = _experiment(client, info.group, artifacts)
    earlier = client.search_runs([experiment], f"tags.`{RUN_ID}` = '{info.run_id}'")
    run = client.create_run(experiment, run_name=info.name, tags={RUN_ID: info.run_id})
    backend = Mlflow(client, run.info.run_id)
    parameters = [
        Param(backend.name(key), _shortened(text)) for key, text in _flat("", info.config)
    ]
    tags = [RunTag("talr.directory", str(info.directory))]
    client.log_batch(run.info.run_id, params=parameters[:MAX_PARAMS], tags=tags)
    for first in range(MAX_PARAMS, len(parameters), MAX_PARAMS):
        client.log_batch(run.info.run_id, params=parameters[first : first + MAX_PARAMS])
    for step, metrics in info.history_curves():
        backend.add(step, metrics)
    backend.send()
    for one in earlier:  # not before the new one has all that they have
        client.delete_run(one.info.run_id)
    log.info("MLflow: experiment %s at %s", info.group, uri)
    return backend


def _make_store(file: Path) -> None:
    """Create the study's own data base, if it does not exist, whole and by one process.

    MLflow creates it in many transactions: of two runs that begin at once one would fail, and a
    kill would leave a data base that no run can use.
    """
    from mlflow import MlflowClient

    with hold(file.with_suffix(".lock"), wait=True), tempfile.TemporaryDirectory() as folder:
        if not file.exists():
            new = Path(folder, STORE)
            MlflowClient(f"sqlite:///{new}")
            write_bytes(file, new.read_bytes())


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


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 4]} ..."


def _flat(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, text) of each value of a config."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", str(value)
