"""The plan of a sweep: its jobs, each once, and before each those that it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from talr_cli import progress
from talr_cli.config.commands import SweepConfig
from talr_cli.fields import plain
from talr_cli.models.config import ModelConfig
from talr_cli.models.device_memory import gib
from talr_cli.models.shape import shape_of
from talr_cli.models.sources import ModelSource, resolve_model, resolve_offline
from talr_cli.run.checkpoint import checkpoint_name, own_directory
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.run.execute import is_done
from talr_cli.run.identity import identity
from talr_cli.run.prepare import place_run
from talr_cli.run.record import is_scored
from talr_cli.run.variants import is_merged, points_along, with_alpha, without_merge
from talr_cli.sweep import needs
from talr_cli.sweep.apart import apart
from talr_cli.sweep.grid import Point, base_overrides, scoring_key
from talr_cli.sweep.jobs import Job, State
from talr_cli.sweep.local import sharing

_NOT_HERE = ModelSource(Path(), "not here yet", "not here yet")


@dataclass(frozen=True)
class Plan:
    """The jobs and their states, what they will need and what they lack.

    Attributes:
        seconds: For all that is left to do; None: unknown.
        disk: Bytes of disk at most; None: unknown.
        free: Bytes of disk that are free.
        memory: A sentence about the largest run.
        missing: Why jobs cannot be made; the sweep does not start then.
    """

    jobs: list[Job]
    states: list[State]
    retry_failed: bool
    seconds: float | None
    disk: int | None
    free: int
    memory: str | None
    notes: list[str]
    missing: list[str]


def find_models(points: Sequence[Point], fetch: bool) -> dict[str, ModelSource | None]:
    """{key of a model config: its source}; None for one that is not here, without `fetch`.

    Fetching is done in another process, which may import torch: this one has to stay small for as
    long as the sweep goes on.
    """
    configs: dict[str, ModelConfig] = {
        model_key(point.config): point.config.model for point in points
    }
    if not fetch:
        return {key: resolve_offline(config) for key, config in configs.items()}
    with progress.shown_by_another_process() as quiet, apart() as ask:
        look = partial(_resolve, quiet=quiet)
        return {key: ask(look, config) for key, config in configs.items()}


def _resolve(config: ModelConfig, quiet: bool) -> ModelSource:
    """`resolve_model`, in a process of its own that shows its progress."""
    progress.log_above_the_line()
    if quiet:
        progress.be_quiet()
    with progress.work("planning"):
        return resolve_model(config)


def make_plan(
    points: Sequence[Point],
    sources: Mapping[str, ModelSource | None],
    config_dir: Path | None,
    options: SweepConfig,
) -> Plan:
    """The plan for the runs of `points`, with the options of the sweep."""
    jobs = jobs_of(points, sources, config_dir)
    states = [state(job) for job in jobs]
    weights = {key: needs.weights_of(source) for key, source in sources.items()}
    sizes = {job.directory.path: weights[model_key(job.config)] for job in jobs}
    disk = needs.disk_bytes(jobs, states, sizes, options.keep, options.workers)
    free = needs.free_bytes(Path(points[0].config.runs_dir))
    known = {key: shape_of(source) for key, source in sources.items()}
    shapes = {job.directory.path: known[model_key(job.config)] for job in jobs}
    place = _place(options)
    together = 1
    if options.launcher == "local":
        together = sharing(options.workers, points[0].config.device)
    missing = needs.missing(jobs, states, shapes, place)
    if disk is not None and disk > free:
        missing.append(f"disk: up to {gib(disk)} are needed, {gib(free)} are free")
    unknown = [json.loads(key)["path"] for key, source in sources.items() if source is None]
    return Plan(
        jobs,
        states,
        options.retry_failed,
        needs.seconds_of(jobs, states, options.workers),
        disk,
        free,
        needs.memory_of(jobs, states, shapes, place, together),
        needs.notes(jobs, unknown),
        missing,
    )


def _place(options: SweepConfig) -> needs.Place | None:
    """The cluster where runs are made; None: this machine."""
    if options.launcher in ("local", "submitit"):
        return None
    if not options.detach:
        return needs.Place(1, None)  # its launcher's options are its own
    wanted = options.slurm
    memory = None if wanted.gpu_memory is None else wanted.gpu_memory * 2**30
    return needs.Place(wanted.gpus * wanted.nodes, memory if wanted.gpus else None)


def model_key(config: TrainConfig | EvalConfig) -> str:
    """A key that is equal for equal models."""
    return json.dumps(plain(config.model), sort_keys=True)


def jobs_of(
    points: Sequence[Point], sources: Mapping[str, ModelSource | None], config_dir: Path | None
) -> list[Job]:
    """Every base model to be scored, then every run, each once."""
    bases: dict[str, Job] = {}
    runs: dict[Path, Job] = {}
    for point in points:
        source = sources[model_key(point.config)] or _NOT_HERE
        scored_as = scoring_key(point)
        if point.config.eval and scored_as not in bases:
            bases[scored_as] = _base_job(point, source, config_dir)
        if point.config.eval and point.config.score_at and point.composed.score_suite:
            by_points = f"{scored_as} {point.composed.score_suite}"
            if by_points not in bases:
                bases[by_points] = _base_job(point, source, config_dir, of_points=True)
        for job in _run_jobs(point, source, config_dir):
            known = runs.get(job.directory.path)
            # Where a run is both needed and asked for, it is also scored.
            if known is None or (known.also and not job.also):
                runs[job.directory.path] = job
    # Runs that are only needed for averages are not made once the averages are there.
    to_merge = {job.needs.path for job in runs.values() if job.needs and not is_finished(job)}
    trained, merged = [], []
    for job in runs.values():
        if job.needs is not None:
            merged.append(job)
        elif not job.also or job.directory.path in to_merge:
            trained.append(job)
    return [*bases.values(), *trained, *merged]


def state(job: Job) -> State:
    """The job's state, by its run directory."""
    directory = job.directory
    if is_finished(job):
        return "done"
    if directory.owner() is not None:
        return "elsewhere"
    written = directory.read_status()
    if written.state in ("failed", "diverged"):
        return "failed"
    return "to do" if written.state == "pending" else "to resume"


def is_finished(job: Job) -> bool:
    if isinstance(job.config, EvalConfig):
        return is_scored(job.config, job.directory)
    return all(is_done(config, directory) for config, directory in job.runs)


def _base_job(
    point: Point, source: ModelSource, config_dir: Path | None, of_points: bool = False
) -> Job:
    overrides, config = base_overrides(point, config_dir, of_points)
    base_id = identity(config, source.fingerprint)
    directory = own_directory(config, base_id, checkpoint_name(None))
    return Job("eval", _typed(overrides, config_dir), config, directory)


def _run_jobs(point: Point, source: ModelSource, config_dir: Path | None) -> list[Job]:
    """The run of a point; for a merge, the run that is merged and one run for each alpha.

    Points along the training are made by it, and each of them is merged.
    """
    config = point.config
    if config.merge is None or not is_merged(config):
        return [_run_job(point.overrides, config, source, config_dir)]
    dropped = ("merge=", "merge.", "eval=")
    kept = [one for one in point.overrides if not one.lstrip("+").startswith(dropped)]
    tuned = _run_job(
        (*kept, "merge=none", "eval=false"), without_merge(config), source, config_dir, also=True
    )
    jobs = [tuned]
    for taken in points_along(config):
        early = ("score_at=null", f"at={taken.at}") if config.score_at else ()
        for alpha in config.merge.alphas:
            overrides = (*point.overrides, *early, f"merge.alpha={alpha}")
            averaged = with_alpha(taken, alpha)
            jobs.append(_run_job(overrides, averaged, source, config_dir, needs=tuned.directory))
    return jobs


def _run_job(
    overrides: tuple[str, ...],
    config: TrainConfig,
    source: ModelSource,
    config_dir: Path | None,
    **more: Any,
) -> Job:
    *points, (_, directory) = ((one, place_run(one, source)[1]) for one in points_along(config))
    return Job("train", _typed(overrides, config_dir), config, directory, tuple(points), **more)


def _typed(overrides: tuple[str, ...], config_dir: Path | None) -> tuple[str, ...]:
    if config_dir is None:
        return overrides
    return ("--config-dir", str(config_dir.resolve()), *overrides)
