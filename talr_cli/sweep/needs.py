"""Estimates what the jobs of a plan need (disk, time, memory), and what is missing.

The estimates come from the headers of weight files, from finished runs and from the machine; an
unknown is None. Memory is estimated as in `talr train`.
"""

import math
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.fields import files_of
from talr_cli.methods.averaging import Ema
from talr_cli.models.device_memory import USABLE, gib, machine_memory
from talr_cli.models.shape import Shape
from talr_cli.models.sources import ModelSource
from talr_cli.models.weight_files import tensors_of
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.run.execute import is_done, lacks_weights
from talr_cli.runs.places import files_at
from talr_cli.runs.study import filter_pair, load_results
from talr_cli.statistics.durations import evaluation_seconds, training_seconds
from talr_cli.statistics.pairs import share_trained
from talr_cli.sweep.gpus import gpu_memory, gpu_names, taken_memory
from talr_cli.sweep.jobs import Job
from talr_cli.tracking.base import check_installed
from talr_cli.tracking.wandb import is_logged_in
from talr_cli.training import planner
from talr_cli.training.arithmetic import Arithmetic

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CHECKPOINT_BYTES = 12  # per parameter: its fp32 value and AdamW's two moments
MEAN_BYTES = 4  # more with a moving average of the weights
CHECKPOINTS = 3  # two are kept, and while one is written there is a third


@dataclass(frozen=True)
class ModelSize:
    """The number of a model's parameters, and the bytes of each as stored."""

    parameters: int
    bytes_each: int


@dataclass(frozen=True)
class Cluster:
    """The machines of a cluster that runs the jobs.

    Attributes:
        gpus: How many GPUs a run has.
        memory: Bytes of each GPU, or of a machine without GPUs; None: unknown.
    """

    gpus: int
    memory: float | None


def model_size(source: ModelSource | None) -> ModelSize | None:
    """The size of a model by the headers of its safetensors; None if it is not on this machine."""
    if source is None:
        return None
    parameters, widths = 0, [1]
    for _, (shape, width) in tensors_of(source.directory):
        parameters += math.prod(shape)
        widths.append(width)
    return ModelSize(parameters, max(widths)) if parameters else None


def estimate_disk(
    left: Sequence[Job], sizes: Mapping[Path, ModelSize | None], keep: str, workers: int
) -> int | None:
    """The peak bytes of disk that jobs will take; None if a size is unknown.

    Args:
        left: The unfinished jobs.
        sizes: {run directory: size of its model}.
        keep: Which models stay on disk, as in `prune`.
        workers: How many jobs run at a time, each with its checkpoints.
    """
    models, checkpoints = [0], [0]
    averaged = {job.depends_on.path for job in left if job.depends_on is not None}
    kept = 0
    for job in left:
        config = job.config
        if not isinstance(config, TrainConfig):
            continue
        size = sizes[job.directory.path]
        if size is None:
            return None
        model = size.parameters * _DTYPE_BYTES.get(config.trainer.save_dtype, size.bytes_each)
        models.append(model)
        runs = list(job.runs)
        if keep != "none" or job.directory.path in averaged:
            ends = [one for one, _ in runs if one.at == 1]
            only_ends = keep == "ends" and job.directory.path not in averaged
            kept += model * len(ends if only_ends else runs)
        if config.adapter is None and config.trainer.checkpoint_every_epoch:
            each = CHECKPOINT_BYTES + MEAN_BYTES * isinstance(config.merge, Ema)
            checkpoints.append(CHECKPOINTS * each * size.parameters)
    return kept + workers * (max(models) + max(checkpoints))


def estimate_seconds(left: Sequence[Job], workers: int) -> float | None:
    """Seconds of training and evaluation of unfinished jobs, by the finished runs of the study.

    None if there is no finished run for some model and dataset.
    """
    total = 0.0
    finished: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job in left:
        study = (job.config.runs_dir, job.config.study)
        if study not in finished:
            finished[study] = load_results(Path(study[0]), study[1])
        seconds = _seconds(job, finished[study])
        if seconds is None:
            return None
        total += seconds
    return total / workers


def _seconds(job: Job, finished: Sequence[dict[str, Any]]) -> float | None:
    similar = filter_pair(finished, job.config.model.name, job.config.dataset.name)
    evaluation = [evaluation_seconds(one) for one in similar]
    if not evaluation:
        return None
    trains = job.command == "train" and job.depends_on is None
    evaluates = job.command == "eval" or (isinstance(job.config, TrainConfig) and job.config.eval)
    method = job.directory.path.name.rpartition("-lr")[0]
    trained = [one for one in similar if one["training"] and share_trained(one) == 1]
    same_method = [one for one in trained if one["run"]["method"] == method]
    training = [training_seconds(one["training"]) for one in same_method or trained]
    known = [seconds for seconds in training if seconds is not None]
    if trains and not known:
        return None
    share, scored = remaining_work(job) if trains else (0.0, 1)
    of_training = share * statistics.mean(known) if trains else 0.0
    return of_training + (scored * statistics.mean(evaluation) if evaluates else 0.0)


def remaining_work(job: Job) -> tuple[float, int]:
    """(share of its steps that a job still has to train, how many runs it still has to score)."""
    left = [(config, directory) for config, directory in job.runs if not is_done(config, directory)]
    untrained = [config.at for config, directory in left if lacks_weights(config, directory)]
    return max(untrained, default=0.0), len(left)


def find_missing(
    left: Sequence[Job], shapes: Mapping[Path, Shape | None], cluster: Cluster | None = None
) -> list[str]:
    """Why unfinished jobs cannot run: files or packages are missing, or there is too little memory.

    Args:
        cluster: Where the jobs run; None: on this machine.
    """
    found: dict[str, None] = {}
    for job in left:
        found |= dict.fromkeys(_missing_data(job.config))
        found |= dict.fromkeys(_missing_memory(job, shapes[job.directory.path], cluster))
        try:
            check_installed(job.config.logger)
        except UserError as error:
            found[str(error)] = None
    return list(found)


def notes(jobs: Sequence[Job], unknown: Sequence[str]) -> list[str]:
    """Notes for the user about things that do not stop the sweep."""
    found = [
        f"{name}: its weights will be downloaded; until then, finished runs cannot be found"
        for name in unknown
    ]
    loggers = [job.config.logger for job in jobs]
    if any(one.name == "wandb" and one.mode == "auto" for one in loggers) and not (
        os.environ.get("WANDB_MODE") or is_logged_in()
    ):
        found.append("W&B: not logged in (`wandb login`), so runs are logged offline")
    return [*found, *_same_names(jobs)]


def _same_names(jobs: Sequence[Job]) -> Iterator[str]:
    """A note if runs of the same name have different values, as tables cannot tell them apart."""
    named: dict[str, list[set[str]]] = {}
    for job in jobs:
        if job.command == "eval":
            continue
        name = str(job.directory.path).rpartition("-")[0]
        named.setdefault(name, []).append(set(job.overrides))
    differ = {
        one.partition("=")[0].lstrip("+")
        for typed in named.values()
        for one in set().union(*typed)
        if not all(one in each for each in typed)
    }
    if differ:
        yield (
            f"runs of the same name differ in {', '.join(sorted(differ))}: a preset for each value "
            "gives each its own name (docs/studies.md)"
        )


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that holds `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def _missing_data(config: TrainConfig | EvalConfig) -> Iterator[str]:
    for key, path in files_of(config):
        if not files_at(path):
            yield f"{key}={path} does not exist"


def _missing_memory(job: Job, shape: Shape | None, cluster: Cluster | None) -> Iterator[str]:
    config = _training_config(job)
    if config is None or shape is None:
        return
    available, where = _available_memory(config, cluster)
    if available is None:
        return
    try:
        planner.check_minimum(
            config.model.name, shape, config.parts, _arithmetic(config, cluster), available, where
        )
    except UserError as error:
        yield str(error)


def describe_memory(
    left: Sequence[Job],
    shapes: Mapping[Path, Shape | None],
    cluster: Cluster | None = None,
    runs_per_gpu: int = 1,
) -> str | None:
    """A sentence about the unfinished run that needs most memory, if rows had max_length tokens.

    None if no training is left to do, or if no model's shape is known.

    Args:
        runs_per_gpu: How many runs share the memory of a GPU, or of the machine.
    """
    found = []
    for job in left:
        config, shape = _training_config(job), shapes[job.directory.path]
        if config is not None and shape is not None:
            available = _available_memory(config, cluster)[0]
            if available is not None:
                available = max(0, available - _taken(config, cluster)) / runs_per_gpu
            plan = _plan_longest_rows(config, shape, cluster, available or 0.0)
            found.append((config, shape, plan, available))
    if not found:
        return None
    config, shape, plan, available = max(found, key=lambda one: one[2].memory.total)
    again = " with layers computed again" if plan.checkpointing else ""
    rows = f"{plan.rows} of {config.trainer.batch_size} rows at once{again}"
    longest = f"if all had max_length={config.trainer.max_length} tokens"
    what = f"a run ({config.model.name}, {config.method}: {rows}"
    if available is not None:
        total, usable = gib(plan.memory.total), gib(plan.free)
        shared = f", as {runs_per_gpu} runs share it" * (runs_per_gpu > 1)
        return f"up to {total} {what}, {longest}); {usable} are usable{shared}"
    largest = _plan_longest_rows(config, shape, cluster, math.inf)
    more = f"; up to {gib(largest.memory.total)} with {largest.rows}" * (largest.rows != plan.rows)
    checked = "; with slurm.gpu_memory=GIB and detach=true it is checked" * (cluster is not None)
    return f"at least {gib(plan.memory.total)} {what}{more}), {longest}{checked}"


def _plan_longest_rows(
    config: TrainConfig, shape: Shape, cluster: Cluster | None, available: float
) -> planner.Plan:
    """The plan for a batch of rows with max_length tokens each, with `available` bytes."""
    how, trainer = _arithmetic(config, cluster), config.trainer
    has_kernel = how.device == "cuda" and how.half and not how.eager
    rows = planner.RowLengths.uniform(trainer.max_length, trainer.batch_size, has_kernel)
    usable = USABLE[how.device] * available
    return planner.choose_plan(shape, config.parts, config.trainer, how, rows, usable)


def _available_memory(config: TrainConfig, cluster: Cluster | None) -> tuple[float | None, str]:
    """(bytes of the smallest GPU, or of the machine; None: unknown, what that is in words)."""
    if cluster is not None:
        return cluster.memory, f"is what {'each GPU' if cluster.gpus else 'a machine'} there has"
    if config.device == "cpu" or not gpu_names():
        return machine_memory(), "is what this machine has"
    return min((memory for memory, _ in gpu_memory()), default=None), "is what each GPU has"


def _taken(config: TrainConfig, cluster: Cluster | None) -> int:
    """Bytes of a GPU of this machine that processes hold now."""
    if cluster is not None or config.device == "cpu":
        return 0
    return taken_memory()


def _arithmetic(config: TrainConfig, cluster: Cluster | None) -> Arithmetic:
    """The arithmetic as far as it is known without torch: `auto` is half precision on GPUs."""
    gpus = len(gpu_names()) if cluster is None else cluster.gpus
    gpus = 0 if config.device == "cpu" else gpus
    ranks = config.distributed.processes or max(1, gpus)
    precision = config.trainer.precision
    return Arithmetic(
        "cuda" if gpus else "cpu",
        precision in ("bf16", "fp16") or (precision == "auto" and gpus > 0),
        config.optimizer,
        ranks,
        config.distributed.strategy == "fsdp2" and ranks > 1,
        config.model.attention == "eager",
        config.trainer.deterministic,
    )


def _training_config(job: Job) -> TrainConfig | None:
    """The config of a job that trains; None for other jobs."""
    trains = job.command == "train" and job.depends_on is None
    return job.config if trains and isinstance(job.config, TrainConfig) else None
