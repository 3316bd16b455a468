"""One run on disk: its place, its files, its status, and the lock that gives it one owner.

    <runs>/<study>/<model>__<dataset>/<method>-lr<lr>-s<seed>-<id8>/
      config.yaml  overrides.yaml  env.json  status.json  metrics.jsonl  training.json
      results.json  samples/  model/  adapter/  checkpoints/  wandb/

Does not know how a run is trained or scored, nor which config values make its identity.
"""

import json
import math
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from talr_cli.errors import UserError
from talr_cli.runs.atomic import append_json_line, write_json, write_text
from talr_cli.runs.damage import warn_of_lines, warn_once
from talr_cli.runs.environment import collect_environment
from talr_cli.runs.lease import Owner, hold, owner
from talr_cli.runs.process import process_start
from talr_cli.runs.results import read_results

State = Literal["pending", "training", "trained", "evaluated", "interrupted", "failed", "diverged"]

REASON_LINES = 20
CHECKPOINT_MARKER = "talr_state.json"  # written into a checkpoint after everything else
LOCK = ".lock"
_IDENTITY = re.compile(r"# run identity: ([0-9a-f]{64})$")


@dataclass
class Status:
    """Where a run stands, who said so, and since when (UTC, per state)."""

    state: State = "pending"
    reason: str | None = None
    pid: int | None = None
    process_start: str | None = None
    host: str | None = None
    times: dict[str, str] = field(default_factory=dict)


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
        self.wandb = path / "wandb"

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
        identity: str,
    ) -> "RunDirectory":
        """The directory that belongs to this run; the base model has neither lr nor seed."""
        folder = study_path(runs_dir, study) / pair_name(model, dataset)
        return cls(folder / run_name(method, lr, seed, identity))

    def prepare(self, config: Mapping[str, Any], overrides: Sequence[str], identity: str) -> None:
        """Make the directory and write what the run is; refuse one that holds another run."""
        held = self.read_identity()
        if held is not None and held != identity:
            raise UserError(
                f"{self.path} holds a different run (identity {held[:8]}, not {identity[:8]}): "
                "delete it or choose another study"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, f"# run identity: {identity}\n{_as_yaml(dict(config))}")
        write_text(self.overrides, _as_yaml(list(overrides)))
        write_json(self.environment, collect_environment())
        if not self.status.exists():
            self.write_status("pending")

    def read_config(self) -> dict[str, Any]:
        """The resolved config that was written, as plain data.

        Raises:
            UserError: It cannot be read.
        """
        return _from_yaml(self.config, dict)

    def read_overrides(self) -> list[str]:
        """What was typed; raises as `read_config`."""
        return [str(one) for one in _from_yaml(self.overrides, list)]

    def read_identity(self) -> str | None:
        """The full identity of the run that lies here; None where there is none yet."""
        if not self.config.exists():
            return None
        first_line = self.config.read_text(encoding="utf-8").partition("\n")[0]
        match = _IDENTITY.match(first_line)
        if match is None:
            raise UserError(
                f"{self.config} does not begin with its run identity: delete {self.path}"
            )
        return match[1]

    # Status

    def write_status(self, state: State, reason: str | None = None) -> None:
        """Record a step of the run's life by this process; of `reason` the last lines are kept."""
        times = dict(self._written_status().times)
        times[state] = datetime.now(UTC).isoformat(timespec="seconds")
        if reason is not None:
            reason = "\n".join(reason.strip().splitlines()[-REASON_LINES:])
        pid = os.getpid()
        status = Status(state, reason, pid, process_start(pid), socket.gethostname(), times)
        write_json(self.status, asdict(status))

    def read_status(self) -> Status:
        """The status, corrected for a trainer of this host that died without a word."""
        status = self._written_status()
        if status.state != "training" or status.host != socket.gethostname():
            return status
        if status.pid is None or process_start(status.pid) != status.process_start:
            status.state = "interrupted"
        return status

    def _written_status(self) -> Status:
        if not self.status.exists():
            return Status()
        return Status(**json.loads(self.status.read_text(encoding="utf-8")))

    # Metrics

    def append_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add the row of one optimiser step."""
        append_json_line(self.metrics, {"step": step, **metrics})

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole rows; a last line torn by a crash is left out.

        So is a damaged line before it, and a line of the log says so.
        """
        if not self.metrics.exists():
            return []
        # Without its newline the last line is torn, even where it happens to parse.
        whole, newline, _ = self.metrics.read_bytes().rpartition(b"\n")
        rows = [_metrics_row(line) for line in whole.split(b"\n")] if newline else []
        damaged = [number for number, row in enumerate(rows, 1) if row is None]
        warn_of_lines(self.metrics, damaged)
        return [row for row in rows if row is not None]

    def cut_metrics(self, step: int) -> None:
        """Going on from `step`: drop the rows after it, which are about to be written again."""
        kept = [row for row in self.read_metrics() if row["step"] <= step]
        if self.metrics.exists():
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))

    # Checkpoints

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """Step and folder of the newest whole checkpoint; its marker is written last."""
        whole = [
            (int(marker.parent.name.rpartition("-")[2]), marker.parent)
            for marker in self.checkpoints.glob(f"checkpoint-*/{CHECKPOINT_MARKER}")
        ]
        return max(whole, default=None)

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

    # Ownership

    def lock(self) -> AbstractContextManager[None]:
        """Own the run while inside; InUseError where another process does."""
        return hold(self.path / LOCK)

    def owner(self) -> Owner | None:
        """The process that makes this run now."""
        return owner(self.path / LOCK)


def _metrics_row(line: bytes) -> dict[str, Any] | None:
    """A row of metrics.jsonl; None where it is none: a step, and numbers or nulls by name."""
    try:
        row = json.loads(line.decode("utf-8"))
        if type(row["step"]) is int and all(
            value is None or math.isfinite(value) for value in row.values()
        ):
            return row
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        pass
    return None


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _from_yaml(path: Path, kind: type) -> Any:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise ValueError("it holds something else")
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({reason}): restore or delete its run") from error
    return content


def study_path(runs_dir: Path, study: str) -> Path:
    """The folder of a study."""
    if not study or _file_name(study) != study:
        raise UserError(f"study={study!r} must be a folder name: letters, digits and . _ + - only")
    return runs_dir / study


def run_name(method: str, lr: float | None, seed: int | None, identity: str) -> str:
    """The name of a run's directory."""
    parts = [_file_name(method)]
    if lr is not None:
        parts.append(f"lr{lr:g}")
    if seed is not None:
        parts.append(f"s{seed}")
    return "-".join([*parts, identity[:8]])


def pair_name(model: str, dataset: str) -> str:
    """The folder of the runs of one model on one dataset."""
    return f"{_file_name(model)}__{_file_name(dataset)}"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip(".-")
