"""One run on disk: its place, its files, its status, and the lock that gives it one owner.

    <runs>/<study>/<model>__<dataset>/<method>-lr<lr>-s<seed>-<id8>/
      config.yaml  overrides.yaml  env.json  status.json  metrics.jsonl  training.json
      results.json  samples/  model/  adapter/  checkpoints/  wandb/

Does not know how a run is trained or scored, nor which config values make its identity.
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
from talr_cli.runs.atomic import BUILDING, append_json_line, read_object, write_json, write_text
from talr_cli.runs.damage import warn_once
from talr_cli.runs.disk import make_folder, writing
from talr_cli.runs.environment import collect_environment
from talr_cli.runs.lease import Owner, hold, owner
from talr_cli.runs.manifest import MANIFEST
from talr_cli.runs.metrics import read_metrics
from talr_cli.runs.names import earlier_name, file_name, of_another, run_name
from talr_cli.runs.plain_yaml import as_yaml, from_yaml
from talr_cli.runs.process import process_start
from talr_cli.runs.reading import read_text
from talr_cli.runs.results import read_results
from talr_cli.runs.status import State, Status

REASON_LINES = 20
LONGEST_NAME = 255  # bytes: of most file systems
LOCK = ".lock"
MODEL_REMEDY = (
    "delete it and make it again with `talr train ... eval=false`, or delete its "
    f"{MANIFEST} to use it as it is"
)
# What a killed process leaves in a run, as patterns.
UNFINISHED = (f"{BUILDING}*", ".*.tmp", "samples/.*.tmp")
DAMAGED = ".damaged"  # what the name of a thing ends with that was put aside
_IDENTITY = re.compile(r"# run identity: ([0-9a-f]{64})$")
log = logging.getLogger(__name__)


class RunDirectory:
    """The files of one run. Making the object touches nothing on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
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
        """The directory that belongs to this run; the base model has neither lr nor seed.

        One that an earlier version of talr has named is found.
        """
        folder = study_path(runs_dir, study) / pair_name(model, dataset)
        now, before = (
            folder / name(method, lr, seed, at, identity) for name in (run_name, earlier_name)
        )
        return cls(before if before.is_dir() and not now.exists() else now)

    def prepare(self, config: Mapping[str, Any], overrides: Sequence[str], identity: str) -> None:
        """Make the directory and write what the run is; refuse one that holds another run.

        What is damaged of what it goes on from is named and put out of the way: a checkpoint for
        the one before, model/ for a training from the start.
        """
        held = self._held_identity(identity)
        if held is not None and held != identity:
            raise UserError(
                f"{self.path} holds a different run (identity {held[:8]}, not {identity[:8]}): "
                "delete it or choose another study"
            )
        make_folder(self.path)
        write_text(self.config, f"# run identity: {identity}\n{as_yaml(dict(config))}")
        write_text(self.overrides, as_yaml(list(overrides)))
        write_json(self.environment, collect_environment())
        if not self.status.exists():
            self.write_status("pending")
        self._drop_damaged_model()
        self.check_own_model()
        checkpoints.keep_whole(self.checkpoints)

    def _held_identity(self, expected: str) -> str | None:
        try:
            return self.read_identity()
        except UserError as error:
            if not self.path.name.endswith(expected[:8]):
                raise
            log.warning("%s; it is written again", error)
            return None

    def read_config(self) -> dict[str, Any]:
        """The resolved config that was written, as plain data.

        Raises:
            UserError: It cannot be read, or is of another run.
        """
        text, found = from_yaml(self.config, dict)
        held = _IDENTITY.match(text.partition("\n")[0])
        if held and (stranger := of_another(self.path.absolute().name, held[1])):
            raise UserError(f"{self.config} {stranger}")
        return found

    def read_overrides(self) -> list[str]:
        """What was typed; raises as `read_config`."""
        return [str(one) for one in from_yaml(self.overrides, list)[1]]

    def read_identity(self) -> str | None:
        """The full identity of the run that lies here; None where there is none yet."""
        if not self.config.exists():
            return None
        try:
            content = read_text(self.config, "replace")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.config} cannot be read ({error}): delete {self.path}"
            ) from error
        match = _IDENTITY.match(content.partition("\n")[0])
        if match is None:
            raise UserError(
                f"{self.config} does not begin with its run identity: delete {self.path}"
            )
        return match[1]

    # Status

    def write_status(self, state: State, reason: str | None = None) -> None:
        """Record a step of the run's life by this process; of `reason` the last lines are kept."""
        times = dict((self._written_status() or Status()).times)
        times[state] = datetime.now(UTC).isoformat(timespec="seconds")
        if reason is not None:
            reason = "\n".join(reason.strip().splitlines()[-REASON_LINES:])
        pid = os.getpid()
        status = Status(state, reason, pid, process_start(pid), socket.gethostname(), times)
        write_json(self.status, asdict(status))

    def read_status(self) -> Status:
        """The status, corrected for a trainer of this host that died without a word.

        In place of a damaged one, what the other files say.
        """
        status = self._written_status() or Status(self._state_of_files())
        if status.state != "training" or status.host != socket.gethostname():
            return status
        if status.pid is None or process_start(status.pid) != status.process_start:
            status.state = "interrupted"
        return status

    def _written_status(self) -> Status | None:
        """As it was written, or as the files say; None for a damaged one, with a warning."""
        try:
            return Status.of(json.loads(read_text(self.status)))
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

    def keep_metrics(self) -> None:
        """The rows so far outlive a power loss: a training may go on after them."""
        if self.metrics.exists():
            manifest.fsync(self.metrics)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole rows; a last line torn by a crash is left out, damaged ones with a warning."""
        return read_metrics(self.metrics)

    def cut_metrics(self, step: int) -> None:
        """Going on from `step`: drop the rows after it, which are about to be written again."""
        if self.metrics.exists():
            if not os.access(self.metrics, os.R_OK):
                raise UserError(f"{self.metrics} cannot be read: its permissions forbid it")
            kept = [row for row in self.read_metrics() if row["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    # Model and checkpoints

    def check_model(self) -> None:
        """Refuse a model/ that is damaged, or another run's, before it is used."""
        manifest.check(self.model, MODEL_REMEDY)
        self.check_own_model()

    def check_own_model(self) -> None:
        """Refuse a model/ that is not the one which training.json says was saved."""
        saved = (self.read_training() or {}).get("model")
        now = manifest.digest(self.model)
        if saved is not None and now is not None and now != saved:
            raise UserError(
                f"{self.model} is not what {self.training} is of, but another run's: put back its "
                "own, or delete both and train this run again"
            )

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """Step and folder of the newest finished checkpoint; `prepare` has left whole ones only."""
        return next(iter(checkpoints.finished(self.checkpoints)), None)

    def _drop_damaged_model(self) -> None:
        if not (self.model / MANIFEST).exists():
            return  # there is none, or one of an older version
        found = manifest.damage(self.model)
        if found is not None:
            aside = _put_aside(self.model)
            log.warning(
                "%s is damaged: %s; it is kept as %s, and made again",
                self.model,
                found,
                aside.name,
            )

    # Results

    def write_results(self, results: Mapping[str, Any]) -> None:
        write_json(self.results, results)

    def read_results(self) -> dict[str, Any] | None:
        """The scores; None where there are none, or none that can be read: the log says so."""
        if not self.results.exists():
            return None
        try:
            return read_results(self.results)
        except UserError as error:
            warn_once(str(error))
            return None

    def read_training(self) -> dict[str, Any] | None:
        """The content of training.json: {training, weights, setting}; None where there is none.

        Raises:
            UserError: It is damaged.
        """
        if not self.training.exists():
            return None
        again = "put back a copy, or delete it and model/ and train this run again"
        found = read_object(self.training, again)
        if not {"training", "weights"} <= found.keys():
            raise UserError(f"{self.training} lacks what a training has taken: {again}")
        return found

    # Ownership

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the run while inside; InUseError where another process does.

        What earlier owners left when they were killed is removed first, and what can be made again
        and is damaged is put aside.
        """
        with hold(self.path / LOCK):
            self._clean()
            yield

    def _clean(self) -> None:
        for left in (
            path for pattern in (*UNFINISHED, TRACEBACK) for path in self.path.glob(pattern)
        ):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        if self.model.exists() and self.training.exists():
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        try:
            if self.results.exists():
                read_results(self.results)
        except UserError as error:
            log.warning("%s; it is kept as %s", error, _put_aside(self.results).name)
        if self._written_status() is None:
            if self.status.is_dir():
                _put_aside(self.status)
            else:
                self.status.unlink()
            self.write_status(self._state_of_files())

    def owner(self) -> Owner | None:
        """The process that makes this run now."""
        return owner(self.path / LOCK)


def study_path(runs_dir: Path, study: str) -> Path:
    """The folder of a study."""
    if not study or file_name(study) != study:
        raise UserError(f"study={study!r} must be a folder name: letters, digits and . _ + - only")
    if len(study) > LONGEST_NAME:
        raise UserError(
            f"study={study[:20]}... has {len(study)} characters, a folder's name at most "
            f"{LONGEST_NAME}: choose a shorter one"
        )
    return runs_dir / study


def pair_name(model: str, dataset: str) -> str:
    """The folder of the runs of one model on one dataset."""
    return f"{file_name(model)}__{file_name(dataset)}"


def _put_aside(path: Path) -> Path:
    """Rename something damaged, so that it can be made again; the new path."""
    aside = path.with_name(path.name + DAMAGED)
    with writing(path):
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        path.rename(aside)
    return aside
