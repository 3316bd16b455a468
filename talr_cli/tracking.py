"""Weights & Biases: the only place that talks to it, and the only writer of a run's curve.

Tracking is a convenience: `metrics.jsonl` and `results.json` hold everything already, so whatever
goes wrong here is one warning. Nothing prompts, and nothing waits long for a network.
"""

import json
import logging
import netrc
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.fields import value

INIT_TIMEOUT = 10.0  # seconds, after which an unreachable server means offline
FINISH_TIMEOUT = 60.0  # seconds for the last upload; what is left stays on disk
SCORE_SECTIONS = ("general", "domain", "drift", "weights", "training")
SAMPLES = 50  # answers in the table
_LONGEST_TAG = 64  # characters
# What has a unit that its name does not say; in a run's own files the names are shorter.
_UNITS = {
    "loss": "loss_nats_per_token",
    "weighted_loss": "weighted_loss_nats_per_token",
    "validation_loss": "validation_loss_nats_per_token",
    "penalty": "penalty_nats_per_token",
    "tau": "tau_nats_per_token",
    "lr": "learning_rate",
}

log = logging.getLogger(__name__)


@dataclass
class LoggerConfig:
    """`auto` means online for a user who is logged in, else offline, unless WANDB_MODE is set."""

    name: str = value("where curves and scores go", "wandb", choices=("wandb", "none"))
    project: str = value("of W&B", "talr")
    entity: str | None = value("of W&B, a user or a team; null: your default one", None)
    mode: str = value("auto: online when logged in", "auto", choices=("auto", "online", "offline"))


class Tracker:
    """A W&B run, or nothing: without a run every call does nothing."""

    def __init__(self, run: Any = None) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add one point to each curve."""
        if self._run is None:
            return
        try:
            # As a metric of its own: W&B's counter only grows, and drops the steps that a run
            # resumed from a checkpoint writes again.
            self._run.log({"step": step, **curves(metrics)})
        except Exception as error:
            self._give_up(error)

    def log_point(self, results: Mapping[str, Any]) -> None:
        """Add the scores of weights along the training, with their errors, at their step."""
        if self._run is None:
            return
        try:
            self._run.log({"step": results["training"]["steps"], **point_scores(results)})
        except Exception as error:
            self._give_up(error)

    def finish(
        self,
        results: Mapping[str, Any] | None = None,
        plot: Path | None = None,
        changes: Mapping[str, float] | None = None,
        samples: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write the final scores, the tables of tasks and of answers and the plot; close the run.

        Args:
            changes: Of the scores, against those of the base model.
            samples: The domain's, as they lie in samples/; the first of them are shown.
        """
        if self._run is None:
            return
        try:
            if results is not None:
                self._run.summary.update({**flat_scores(results), **(changes or {})})
                if samples:
                    self._run.log({"answers": _sample_table(samples[:SAMPLES])})
                if results["general"] is not None:
                    self._run.log({"tasks": _task_table(results["general"]["tasks"])})
            if plot is not None:
                import wandb

                self._run.log({"trade-off": wandb.Image(str(plot))})
            self._run.finish()
            self._run = None
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("W&B failed, going on without it: %s", _one_line(error))
        self._run = None


def start_tracking(
    logger: LoggerConfig,
    *,
    run_id: str,
    name: str,
    group: str,
    job_type: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    directory: Path,
    history: Sequence[Mapping[str, Any]] = (),
) -> Tracker:
    """Start, or go on with, the W&B run `run_id`; its files lie in `directory`/wandb.

    Args:
        job_type, tags: By which W&B sorts and filters runs; empty tags are left out.
        history: What a resumed run has logged before: rows of metrics, each with its "step".
    """
    if logger.name == "none":
        return Tracker()
    try:
        # Its own telemetry calls home even for an offline run, and keeps a process from ending.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        mode, reason = _choose_mode(logger.mode)
        if mode == "disabled":
            return Tracker()

        def start(mode: str) -> Any:
            return wandb.init(
                id=run_id,
                name=name,
                group=group,
                job_type=job_type,
                tags=sorted({tag[:_LONGEST_TAG] for tag in tags if tag}),
                project=logger.project,
                entity=logger.entity,
                config=dict(config),
                dir=directory,
                mode=mode,  # type: ignore[arg-type]
                resume="allow" if mode == "online" else None,
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

        if mode == "online":
            try:
                run = start("online")
            except Exception as error:
                mode, reason = "offline", _one_line(error)
                # W&B's service still holds the id of the run that it could not start.
                wandb.teardown()
                wandb.setup(wandb.Settings(silent=True))
        if mode == "offline":
            run = start("offline")
            sync = f"wandb sync {shlex.quote(run.settings.sync_dir)}"
            log.info("W&B is offline (%s); to upload this run: %s", reason, sync)
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        if mode == "offline":
            # Uploading a second offline part of a run replaces the first: make it whole.
            for row in history:
                metrics = {key: one for key, one in row.items() if key != "step"}
                run.log({"step": row["step"], **curves(metrics)})
    except Exception as error:
        log.warning("W&B could not start, going on without it: %s", _one_line(error))
        return Tracker()
    return Tracker(run)


def curves(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A training's metrics of one step by the names that they have in W&B."""
    return {f"train/{_UNITS.get(name, name)}": one for name, one in metrics.items()}


def point_scores(results: Mapping[str, Any]) -> dict[str, float]:
    """The scores of weights along a training and their errors, the general one by its suite."""
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
    """Every number of the results under its path: {"general/score": 0.41, ...}; no items'.

    Drift, which is no share, has its unit in the name.
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
        for section in SCORE_SECTIONS
        for key, number in numbers(section, results[section])
    }


def is_logged_in() -> bool:
    """Whether W&B has a key, as far as that is known without importing or asking it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rpartition("//")[2]
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _choose_mode(wanted: str) -> tuple[str, str]:
    """(mode, reason); as in wandb itself, what is configured goes before the environment."""
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


def _task_table(tasks: Mapping[str, Mapping[str, Any]]) -> Any:
    import wandb

    columns = ["metric", "score", "stderr", "n", "version"]
    rows = [[name, *(task[column] for column in columns)] for name, task in tasks.items()]
    return wandb.Table(columns=["task", *columns], data=rows)


def _sample_table(samples: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    columns: list[str | int] = ["id", "prompt", "answer", "read as", "score", "reference"]
    rows = []
    for one in samples:
        asked = "\n\n".join(str(turn["content"]) for turn in one["messages"])
        told = (one["id"], asked, one["output"], one["parsed"] or "")
        rows.append([*map(str, told), float(one["correct"]), json.dumps(one["reference"])])
    return wandb.Table(columns=columns, data=rows)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
