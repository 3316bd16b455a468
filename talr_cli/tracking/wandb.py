"""Logs to Weights & Biases, without prompting the user or waiting for long."""

from __future__ import annotations

import json
import logging
import netrc
import os
import shlex
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from talr_cli.errors import kind_and_reason
from talr_cli.runs.atomic import read_json_object
from talr_cli.tracking.base import TRAINING, Ending, RunInfo, Samples, Scores, Tasks

INIT_TIMEOUT = 10.0  # seconds, after which an unreachable server means offline
LONGEST_TAG = 64  # characters
FINISH_TIMEOUT = 60.0  # seconds for the last upload; the rest stays on disk
STUCK = 60.0  # seconds more, after which W&B's service is dead or suspended

log = logging.getLogger(__name__)


class Wandb:
    """A run of W&B."""

    title = "W&B"

    def __init__(self, run: Any, uploaded: int) -> None:
        """`uploaded` is the number of rows of the run's history that W&B has: the first ones."""
        self._run = run
        self._uploaded = uploaded

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if self._uploaded and any(name.startswith(TRAINING) for name in metrics):
            self._uploaded -= 1  # rows of the training come before all others
            return
        # The step is a metric, as W&B's own counter only grows and drops points of earlier steps.
        with _service():
            self._run.log({"step": step, **metrics})

    def finish(
        self, scores: Scores, tasks: Tasks, samples: Samples, plot: Path | None, ending: Ending
    ) -> None:
        with _service():
            self._finish(scores, tasks, samples, plot, ending)

    def _finish(
        self, scores: Scores, tasks: Tasks, samples: Samples, plot: Path | None, ending: Ending
    ) -> None:
        if scores:
            self._run.summary.update(dict(scores))
        if samples:
            self._run.log({"answers": _sample_table(samples)})
        if tasks:
            self._run.log({"tasks": _task_table(tasks)})
        if plot is not None:
            import wandb

            self._run.log({"trade-off": wandb.Image(str(plot))})
        try:
            self._run.finish(ending.value)
        except TimeoutError:
            late = f"not all was sent in {FINISH_TIMEOUT:.0f} s; for the rest: {_sync(self._run)}"
            raise TimeoutError(late) from None


@contextmanager
def _service() -> Iterator[None]:
    """W&B's service, a process, within this context; one that is dead or stuck is given up.

    One that is stuck would be waited for without end, here or where this process ends, and one that
    is dead leads to a traceback there.
    """
    stuck = threading.Timer(FINISH_TIMEOUT + STUCK, _kill_service)
    stuck.daemon = True
    stuck.start()
    try:
        yield
    except TimeoutError:
        raise
    except Exception:
        import wandb

        _kill_service()
        with suppress(Exception, SystemExit):
            wandb.teardown()
        raise
    finally:
        stuck.cancel()


def _kill_service() -> None:
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if process.name() == "wandb-core":
                process.kill()


def start(info: RunInfo) -> Wandb | None:
    """Start or resume the run, with its files in wandb/; None if W&B is disabled."""
    # W&B's telemetry connects even for an offline run, and keeps the process from ending.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    _set_up()
    mode, reason = _choose_mode(info.logger.mode)
    if mode == "disabled":
        return None

    if mode == "online":
        try:
            run = _init(info, mode)
        except Exception as error:
            mode, reason = "offline", kind_and_reason(error)
            # W&B's service still holds the id of the run that it could not start.
            wandb.teardown()
            _set_up()
    uploaded = 0
    if mode == "offline":
        uploaded = _uploaded_rows(info)
        run = _init(info, mode)
        log.info("W&B is offline (%s); to upload this run: %s", reason, _sync(run))
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    # After a kill W&B may have more of the history than the checkpoint, or less.
    backend = Wandb(run, run.starting_step if mode == "online" else uploaded)
    for step, metrics in info.history_curves():
        backend.log(step, metrics)
    return backend


class _Terminal:
    """Gets what W&B would print: warnings say what is not uploaded, and nothing else does."""

    def info(self, text: str) -> None:
        pass

    def warning(self, text: str) -> None:
        log.warning("W&B: %s", " ".join(text.split()).removeprefix("wandb: WARNING "))

    def error(self, text: str) -> None:
        pass  # an exception says the same


def _set_up() -> None:
    import wandb

    settings = wandb.Settings(silent=True)
    wandb.setup(settings)
    wandb.termsetup(settings, _Terminal())


def _sync(run: Any) -> str:
    """The command that uploads what is on disk."""
    return f"wandb sync {shlex.quote(run.settings.sync_dir)}"


def _uploaded_rows(info: RunInfo) -> int:
    """How many rows of the run's history W&B has from its earlier parts.

    `wandb sync` appends an offline part to those uploaded before, and writes into each the step
    that it has reached. A part that was not uploaded is deleted: the next one has all of its rows.
    """
    rows = 0
    for part in info.directory.glob(f"wandb/*run-*-{info.run_id}"):
        summary = part / "files/wandb-summary.json"
        if part.name.startswith("offline") and not any(part.glob("*.wandb.synced")):
            shutil.rmtree(part)
        elif summary.exists():
            last = read_json_object(summary, f"delete {part}").get("_step", -1)
            rows = max(rows, last + 1)
    return rows


def _init(info: RunInfo, mode: str) -> Any:
    """The run object of W&B; `mode` is online or offline."""
    import wandb

    return wandb.init(
        id=info.run_id,
        name=info.name,
        group=info.group,
        job_type=info.job_type,
        tags=sorted({tag[:LONGEST_TAG] for tag in info.tags if tag}),
        project=info.logger.project,
        entity=info.logger.entity,
        config=dict(info.config),
        dir=info.directory,
        mode=mode,  # type: ignore[arg-type]
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_stats=True,
        ),
    )


def is_logged_in() -> bool:
    """Whether W&B has a key, as far as that is known without importing it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, ValueError):  # an invalid address or encoding, too
        return False


def _choose_mode(wanted: str) -> tuple[str, str]:
    """(mode, reason); as in wandb itself, the config takes precedence over the environment."""
    import wandb

    if wanted == "offline":
        return "offline", "logger.mode=offline"
    environment = os.environ.get("WANDB_MODE")
    if wanted == "auto" and environment in ("offline", "dryrun"):
        return "offline", f"WANDB_MODE={environment}"
    if wanted == "auto" and environment == "disabled":
        return "disabled", "WANDB_MODE=disabled"
    # Reads the environment, netrc and settings; neither asks the user nor the server.
    if wandb.login(prompt=False, verify=False):
        return "online", "logged in"
    return "offline", "not logged in"


def _task_table(tasks: Tasks) -> Any:
    import wandb

    columns = ["metric", "score", "stderr", "n", "version"]
    rows = [[name, *(task[column] for column in columns)] for name, task in tasks.items()]
    return wandb.Table(columns=["task", *columns], data=rows)


def _sample_table(samples: Samples) -> Any:
    import wandb

    columns: list[str | int] = ["id", "prompt", "answer", "read as", "score", "reference"]
    rows = []
    for one in samples:
        prompt = "\n\n".join(str(turn["content"]) for turn in one["messages"])
        texts = (one["id"], prompt, one["output"], one["parsed"] or "")
        rows.append([*map(str, texts), float(one["correct"]), json.dumps(one["reference"])])
    return wandb.Table(columns=columns, data=rows)
