"""The plan of a sweep: its jobs, each once and after those that it depends on."""

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
from talr_cli.run.prepare import locate_run
from talr_cli.run.record import is_scored
from talr_cli.run.variants import is_merged, points_along, with_alpha, without_merge
from talr_cli.sweep import needs
from talr_cli.sweep.grid import Point, base_overrides, scoring_key
from talr_cli.sweep.jobs import Job, State
from talr_cli.sweep.local import runs_per_gpu
from talr_cli.sweep.worker_process import worker_process

_UNKNOWN_MODEL = ModelSource(Path(), "not here yet", "not here yet")


@dataclass(frozen=True)
class Plan:
    """The jobs and their states, what they need and what is missing.

    Attributes:
        seconds: For the unfinished jobs; None: unknown.
        disk: The peak bytes of disk that the jobs take; None: unknown.
        free: The free bytes of disk.
        memory: A sentence about the run that needs the most memory.
        missing: Why jobs cannot run; if there are reasons, the sweep does not start.
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
    """{key of a model config: its source}; without `fetch`, None for a model that is not cached.

    Downloads happen in another process, which may import torch: this one has to stay small for as
    long as the sweep lasts.
    """
    configs: dict[str, ModelConfig] = {
        model_key(point.config): point.config.model for point in points
    }
    if not fetch:
        return {key: resolve_offline(config) for key, config in configs.items()}
    with progress.shown_by_another_process() as quiet, worker_process() as call:
        resolve = partial(_resolve_in_worker, quiet=quiet)
        return {key: call(resolve, config) for key, config in configs.items()}


def _resolve_in_worker(config: ModelConfig, quiet: bool) -> ModelSource:
    """`resolve_model` in the worker process, which shows its progress."""
    progress.set_up_logging()
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
    """The plan of a sweep over these points."""
    jobs = make_jobs(points, sources, config_dir)
    states = [job_state(job) for job in jobs]
    left = [job for job, state in zip(jobs, states, strict=True) if state != "done"]
    size_by_model = {key: needs.model_size(source) for key, source in sources.items()}
    sizes = {job.directory.path: size_by_model[model_key(job.config)] for job in jobs}
    disk = needs.estimate_disk(left, sizes, options.keep, options.workers)
    free = needs.free_bytes(Path(points[0].config.runs_dir))
    shape_by_model = {
        key: shape_of(source, json.loads(key)["architecture"]) for key, source in sources.items()
    }
    shapes = {job.directory.path: shape_by_model[model_key(job.config)] for job in jobs}
    cluster = _cluster(options)
    sharing = 1
    if options.launcher == "local":
        sharing = runs_per_gpu(options.workers, points[0].config.device)
    missing = needs.find_missing(left, shapes, cluster)
    if disk is not None and disk > free:
        missing.append(f"disk: up to {gib(disk)} are needed, {gib(free)} are free")
    unknown = [json.loads(key)["path"] for key, source in sources.items() if source is None]
    return Plan(
        jobs,
        states,
        options.retry_failed,
        needs.estimate_seconds(left, options.workers),
        disk,
        free,
        needs.describe_memory(left, shapes, cluster, sharing),
        needs.notes(jobs, unknown),
        missing,
    )


def _cluster(options: SweepConfig) -> needs.Cluster | None:
    """The cluster that runs the jobs; None: this machine."""
    if options.launcher in ("local", "submitit"):
        return None
    if not options.detach:
        return needs.Cluster(1, None)  # the options of Hydra's launcher are not known here
    slurm = options.slurm
    memory = None if slurm.gpu_memory is None else slurm.gpu_memory * 2**30
    return needs.Cluster(slurm.gpus * slurm.nodes, memory if slurm.gpus else None)


def model_key(config: TrainConfig | EvalConfig) -> str:
    """A key that is equal for equal models."""
    return json.dumps(plain(config.model), sort_keys=True)


def make_jobs(
    points: Sequence[Point], sources: Mapping[str, ModelSource | None], config_dir: Path | None
) -> list[Job]:
    """Every base model to be scored, then every run, each once."""
    bases: dict[str, Job] = {}
    runs: dict[Path, Job] = {}
    for point in points:
        source = sources[model_key(point.config)] or _UNKNOWN_MODEL
        key = scoring_key(point)
        if point.config.eval and key not in bases:
            bases[key] = _base_job(point, source, config_dir)
        if point.config.eval and point.config.score_at and point.composed.score_suite:
            key_of_points = f"{key} {point.composed.score_suite}"
            if key_of_points not in bases:
                bases[key_of_points] = _base_job(point, source, config_dir, for_points=True)
        for job in _run_jobs(point, source, config_dir):
            planned = runs.get(job.directory.path)
            # A run that is both a dependency and asked for is also scored.
            if planned is None or (planned.is_dependency and not job.is_dependency):
                runs[job.directory.path] = job
    # Runs that are only needed for averages are not made if all the averages exist.
    to_merge = {
        job.depends_on.path for job in runs.values() if job.depends_on and not is_finished(job)
    }
    trained, merged = [], []
    for job in runs.values():
        if job.depends_on is not None:
            merged.append(job)
        elif not job.is_dependency or job.directory.path in to_merge:
            trained.append(job)
    return [*bases.values(), *trained, *merged]


def job_state(job: Job) -> State:
    """The state of a job, by its run directory."""
    if is_finished(job):
        return "done"
    if job.directory.owner() is not None:
        return "elsewhere"
    state = job.directory.read_status().state
    if state in ("failed", "diverged"):
        return "failed"
    return "to do" if state == "pending" else "to resume"


def is_finished(job: Job) -> bool:
    if isinstance(job.config, EvalConfig):
        return is_scored(job.config, job.directory.read_results())
    return all(is_done(config, directory) for config, directory in job.runs)


def _base_job(
    point: Point, source: ModelSource, config_dir: Path | None, for_points: bool = False
) -> Job:
    overrides, config = base_overrides(point, config_dir, for_points)
    base_id = identity(config, source.fingerprint)
    directory = own_directory(config, base_id, checkpoint_name(None))
    return Job("eval", _with_config_dir(overrides, config_dir), config, directory)


def _run_jobs(point: Point, source: ModelSource, config_dir: Path | None) -> list[Job]:
    """The job of a point; for a merge, the run that is merged and a run for each alpha.

    The training also makes the points along it, and each of them is merged.
    """
    config = point.config
    if config.merge is None or not is_merged(config):
        return [_run_job(point.overrides, config, source, config_dir)]
    dropped = ("merge=", "merge.", "eval=")
    kept = [one for one in point.overrides if not one.lstrip("+").startswith(dropped)]
    overrides = (*kept, "merge=none", "eval=false")
    unmerged = without_merge(config)
    tuned = _run_job(overrides, unmerged, source, config_dir, is_dependency=True)
    jobs = [tuned]
    for along in points_along(config):
        early = ("score_at=null", f"at={along.at}") if config.score_at else ()
        for alpha in config.merge.alphas:
            overrides = (*point.overrides, *early, f"merge.alpha={alpha}")
            averaged = with_alpha(along, alpha)
            jobs.append(
                _run_job(overrides, averaged, source, config_dir, depends_on=tuned.directory)
            )
    return jobs


def _run_job(
    overrides: tuple[str, ...],
    config: TrainConfig,
    source: ModelSource,
    config_dir: Path | None,
    **more: Any,
) -> Job:
    *points, (_, directory) = ((one, locate_run(one, source)[1]) for one in points_along(config))
    overrides = _with_config_dir(overrides, config_dir)
    return Job("train", overrides, config, directory, tuple(points), **more)


def _with_config_dir(overrides: tuple[str, ...], config_dir: Path | None) -> tuple[str, ...]:
    if config_dir is None:
        return overrides
    return ("--config-dir", str(config_dir.resolve()), *overrides)
