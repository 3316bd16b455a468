"""The directory of a run: its path, files and status, and the lock that gives it one owner.

    <runs>/<study>/<model>__<dataset>/<method>-lr<lr>-s<seed>-<id8>/
      config.yaml  overrides.yaml  env.json  status.json  metrics.jsonl  training.json
      results.json  samples/  model/  adapter/  checkpoints/  wandb/

Does not know how a run is trained or scored, nor which config values its identity depends on.
"""

import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from talr_cli.errors import TRACEBACK, UserError
from talr_cli.runs import checkpoints, manifest
from talr_cli.runs.atomic import (
    BUILDING,
    append_json_line,
    read_json_object,
    write_json,
    write_text,
)
from talr_cli.runs.damage import put_aside, warn_once
from talr_cli.runs.disk import make_folder
from talr_cli.runs.environment import collect_environment
from talr_cli.runs.lease import Owner, hold, owner
from talr_cli.runs.manifest import MANIFEST
from talr_cli.runs.metrics import read_metrics
from talr_cli.runs.names import run_name, safe_name, wrong_identity
from talr_cli.runs.places import CONFIG, IDENTITY
from talr_cli.runs.plain_yaml import read_yaml, to_yaml
from talr_cli.runs.process import process_start
from talr_cli.runs.reading import read_text
from talr_cli.runs.results import read_results
from talr_cli.runs.status import State, Status

REASON_LINES = 20
LONGEST_NAME = 255  # bytes, on most file systems
LOCK = ".lock"
MODEL_REMEDY = (
    "delete it and make it again with `talr train ... eval=false`, or delete its "
    f"{MANIFEST} to use it as it is"
)
# Patterns of the files that a killed process leaves in a run.
_UNFINISHED = (f"{BUILDING}*", ".*.tmp", "samples/.*.tmp")
_IDENTITY = re.compile(rf"{IDENTITY}([0-9a-f]{{64}})$")
log = logging.getLogger(__name__)


class RunDirectory:
    """The files of one run. Creating the object does not touch the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.overrides = path / "overrides.yaml"
        self.environment = path / "env.json"
        self.status = path / "status.json"
        self.metrics = path / "metrics.jsonl"
        self.training = path / "training.json"
        self.results = path / "results.json"
        self.samples = path / "samples"
        self.model = path / "model"
        self.adapter = path / "adapter"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def for_run(
        cls,
        runs_dir: Path,
        *,
        study: str,
        model: str,
        dataset: str,
        method: str,
        lr: float | None,
        seed: int | None,
        at: float = 1.0,
        identity: str,
    ) -> "RunDirectory":
        """The directory of this run; the base model has neither lr nor seed."""
        folder = study_path(runs_dir, study) / pair_name(model, dataset)
        return cls(folder / run_name(method, lr, seed, at, identity))

    def prepare(self, config: Mapping[str, Any], overrides: Sequence[str], identity: str) -> None:
        """Create the directory and write the run's config; refuse a directory of another run.

        A damaged checkpoint or model/ is logged and removed or put aside, so that the run resumes
        from an earlier checkpoint or from the beginning.
        """
        stored = self._stored_identity(identity)
        if stored is not None and stored != identity:
            raise UserError(
                f"{self.path} holds a different run (identity {stored[:8]}, not {identity[:8]}): "
                "delete it or choose another study"
            )
        make_folder(self.path)
        write_text(self.config, f"{IDENTITY}{identity}\n{to_yaml(dict(config))}")
        write_text(self.overrides, to_yaml(list(overrides)))
        write_json(self.environment, collect_environment())
        if not self.status.exists():
            self.write_status("pending")
        self._put_damaged_model_aside()
        self.check_own_model()
        checkpoints.remove_unusable(self.checkpoints)

    def _stored_identity(self, expected: str) -> str | None:
        try:
            return self.read_identity()
        except UserError as error:
            if not self.path.name.endswith(expected[:8]):
                raise
            log.warning("%s; it is written again", error)
            return None

    def read_config(self) -> dict[str, Any]:
        """The stored resolved config, as plain data.

        Raises:
            UserError: It cannot be read, or belongs to another run or to none.
        """
        text, config = read_yaml(self.config, dict)
        if mismatch := wrong_identity(self.path.absolute().name, self._identity_in(text)):
            raise UserError(f"{self.config} {mismatch}")
        return config

    def read_overrides(self) -> list[str]:
        """The overrides that were typed; raises the same as `read_config`."""
        return [str(one) for one in read_yaml(self.overrides, list)[1]]

    def read_identity(self) -> str | None:
        """The full identity of the run in this directory; None if there is no run yet."""
        if not self.config.exists():
            return None
        try:
            content = read_text(self.config, "replace")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.config} cannot be read ({error}): delete {self.path}"
            ) from error
        return self._identity_in(content)

    def _identity_in(self, config: str) -> str:
        match = _IDENTITY.match(config.partition("\n")[0])
        if match is None:
            raise UserError(
                f"{self.config} does not begin with its run identity: delete {self.path}"
            )
        return match[1]

    # Status

    def write_status(self, state: State, reason: str | None = None) -> None:
        """Record the run's new state, set by this process, with the last lines of `reason`."""
        times = dict((self._written_status() or Status()).times)
        times[state] = datetime.now(UTC).isoformat(timespec="seconds")
        if reason is not None:
            reason = "\n".join(reason.strip().splitlines()[-REASON_LINES:])
        pid = os.getpid()
        status = Status(state, reason, pid, process_start(pid), socket.gethostname(), times)
        write_json(self.status, asdict(status))

    def read_status(self) -> Status:
        """The status; `interrupted` if the training process has died without writing it.

        If status.json is damaged, the state follows from the other files.
        """
        status = self._written_status() or Status(self._state_of_files())
        if status.state != "training":
            return status
        if status.host != socket.gethostname():  # or this host had another name then
            lives = self.owner() is not None
        else:
            lives = status.pid is not None and process_start(status.pid) == status.process_start
        if not lives:
            status.state = "interrupted"
        return status

    def _written_status(self) -> Status | None:
        """The content of status.json; by the other files if it is missing; None if damaged."""
        try:
            return Status.from_json(json.loads(read_text(self.status)))
        except (FileNotFoundError, NotADirectoryError):
            return Status(self._state_of_files())
        except (OSError, ValueError, TypeError, RecursionError) as error:
            state = self._state_of_files()
            log.warning("%s is damaged (%s): the other files say %s", self.status, error, state)
            return None

    def _state_of_files(self) -> State:
        if self.results.exists():
            return "evaluated"
        if self.model.exists() and self.training.exists():
            return "trained"
        return "interrupted" if self.metrics.exists() else "pending"

    # Metrics

    def append_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add the row of one optimiser step."""
        append_json_line(self.metrics, {"step": step, **metrics})

    def sync_metrics(self) -> None:
        """Flush the rows to disk, before a checkpoint after which they are not written again."""
        if self.metrics.exists():
            manifest.fsync(self.metrics)

    def read_metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.metrics)

    def drop_metrics_after(self, step: int) -> None:
        """Drop the rows after `step`, from which the training resumes."""
        if self.metrics.exists():
            if not os.access(self.metrics, os.R_OK):
                raise UserError(f"{self.metrics} cannot be read: its permissions forbid it")
            kept = [row for row in self.read_metrics() if row["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    # Model and checkpoints

    def check_model(self) -> None:
        """Raise UserError if model/ is damaged or belongs to another run."""
        manifest.check(self.model, MODEL_REMEDY)
        self.check_own_model()

    def check_own_model(self) -> None:
        """Raise UserError if model/ is not the one that was saved with training.json."""
        saved = (self.read_training() or {}).get("model")
        current = manifest.digest(self.model)
        if saved is not None and current is not None and current != saved:
            raise UserError(
                f"{self.model} does not belong to {self.training}, but to another run: restore the "
                "original, or delete both and train this run again"
            )

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """(step, folder) of the newest finished checkpoint; intact, if `prepare` was called."""
        return next(iter(checkpoints.finished(self.checkpoints)), None)

    def _put_damaged_model_aside(self) -> None:
        if not (self.model / MANIFEST).exists():
            return  # there is no model, or one of an older version
        damage = manifest.find_damage(self.model)
        if damage is not None:
            log.warning(
                "%s is damaged: %s; it is kept as %s, and made again",
                *(self.model, damage, put_aside(self.model).name),
            )

    # Results

    def write_results(self, results: Mapping[str, Any]) -> None:
        write_json(self.results, results)

    def read_results(self) -> dict[str, Any] | None:
        """The content of results.json; None if there is none or, with a warning, a damaged one."""
        if not self.results.exists():
            return None
        try:
            return read_results(self.results)
        except UserError as error:
            warn_once(str(error))
            return None

    def read_training(self) -> dict[str, Any] | None:
        """The content of training.json: {training, weights, setting}; None if there is none.

        Raises:
            UserError: It is damaged.
        """
        if not self.training.exists():
            return None
        remedy = "restore a copy, or delete it and model/ and train this run again"
        found = read_json_object(self.training, remedy)
        if not {"training", "weights"} <= found.keys():
            raise UserError(f"{self.training} lacks `training` or `weights`: {remedy}")
        return found

    # Ownership

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the run within this context; InUseError if another process does.

        First removes what killed processes have left, and puts damaged results and status aside.
        """
        with hold(self.path / LOCK):
            self._clean_up()
            yield

    def unfinished(self) -> list[Path]:
        """What killed processes have left in it, and not where a link in it leads to."""
        found = [path for pattern in _UNFINISHED for path in self.path.glob(pattern)]
        return [path for path in found if path.parent == self.path or not self.samples.is_symlink()]

    def _clean_up(self) -> None:
        for path in (*self.unfinished(), self.path / TRACEBACK):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if self.model.exists() and self.training.exists():
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        try:
            if self.results.exists():
                read_results(self.results)
        except UserError as error:
            log.warning("%s; it is kept as %s", error, put_aside(self.results).name)
        if self._written_status() is None:
            if self.status.is_dir():
                put_aside(self.status)
            else:
                self.status.unlink()
            self.write_status(self._state_of_files())

    def owner(self) -> Owner | None:
        """The process that is working on this run, if any."""
        return owner(self.path / LOCK)


def study_path(runs_dir: Path, study: str) -> Path:
    """The folder of a study."""
    if not study or safe_name(study) != study:
        raise UserError(f"study={study!r} must be a folder name: letters, digits and . _ + - only")
    if len(study) > LONGEST_NAME:
        raise UserError(
            f"study={study[:20]}... has {len(study)} characters, and a folder name may have "
            f"{LONGEST_NAME}: choose a shorter one"
        )
    return runs_dir / study


def pair_name(model: str, dataset: str) -> str:
    """The name of the folder for the runs of one model on one dataset."""
    return f"{safe_name(model)}__{safe_name(dataset)}"
