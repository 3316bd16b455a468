"""What the jobs of a plan will need (disk, time, memory), and what they lack.

It is estimated from the headers of weight files, from finished runs and from the machine; what is
unknown is None. Memory is estimated as `talr train` does.
"""

from __future__ import annotations

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
from talr_cli.models.shape import Shape, tensors_of
from talr_cli.models.sources import ModelSource
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.run.execute import is_done, lacks_weights
from talr_cli.runs.places import files_at
from talr_cli.runs.study import filter_pair, load_results
from talr_cli.statistics.durations import evaluation_seconds, training_seconds
from talr_cli.statistics.pairs import share_trained
from talr_cli.sweep.gpus import gpu_memory, gpu_names
from talr_cli.sweep.jobs import Job, State
from talr_cli.tracking.base import check_installed
from talr_cli.tracking.wandb import is_logged_in
from talr_cli.training import planner
from talr_cli.training.arithmetic import Arithmetic

_SAVED = {"float32": 4, "bfloat16": 2, "float16": 2}
# A checkpoint to go on from: fp32 weights and AdamW's two moments. Two are kept, and for a moment
# there is a third.
CHECKPOINT_BYTES = 12
MEAN_BYTES = 4  # more, where a moving average of the weights is kept
CHECKPOINTS = 3


@dataclass(frozen=True)
class Weights:
    """The size of a model: how many numbers it has, and the bytes of each as stored."""

    numbers: int
    bytes_each: int


@dataclass(frozen=True)
class Place:
    """The machines of a cluster where runs are made.

    Attributes:
        gpus: How many GPUs a run has.
        memory: Bytes of each GPU, or of a machine without any; None: unknown.
    """

    gpus: int
    memory: float | None


def weights_of(source: ModelSource | None) -> Weights | None:
    """The size of a model, by the headers of its safetensors; None if they are not here."""
    if source is None:
        return None
    numbers, widths = 0, [1]
    for _, (shape, width) in tensors_of(source):
        numbers += math.prod(shape)
        widths.append(width)
    return Weights(numbers, max(widths)) if numbers else None


def disk_bytes(
    jobs: Sequence[Job],
    states: Sequence[State],
    sizes: Mapping[Path, Weights | None],
    keep: str,
    workers: int,
) -> int | None:
    """The most bytes of disk that the unfinished jobs will take at any time.

    Args:
        sizes: {run directory: size of its model}.
        keep: Which models stay on disk, as in `prune`.
        workers: How many jobs run at a time, each with its checkpoints.
    """
    models, checkpoints = [0], [0]
    averaged = {job.needs.path for job in jobs if job.needs is not None}
    kept = 0
    for job, now in zip(jobs, states, strict=True):
        config = job.config
        if not isinstance(config, TrainConfig) or now == "done":
            continue
        size = sizes[job.directory.path]
        if size is None:
            return None
        width = _SAVED.get(config.trainer.save_dtype, size.bytes_each)
        models.append(size.numbers * width)
        runs = list(job.runs)
        if keep != "none" or job.directory.path in averaged:
            ends = [one for one, _ in runs if one.at == 1]
            alone = keep == "ends" and job.directory.path not in averaged
            kept += size.numbers * width * len(ends if alone else runs)
        if _trains_all(job) and config.trainer.checkpoint_every_epoch:
            each = CHECKPOINT_BYTES + MEAN_BYTES * isinstance(config.merge, Ema)
            checkpoints.append(CHECKPOINTS * each * size.numbers)
    return kept + workers * (max(models) + max(checkpoints))


def seconds_of(jobs: Sequence[Job], states: Sequence[State], workers: int) -> float | None:
    """Seconds that the unfinished jobs will take, judged by the finished runs of their study.

    Training and evaluation only. None if there is no finished run of some model on some dataset.
    """
    total = 0.0
    finished: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job, now in zip(jobs, states, strict=True):
        if now == "done":
            continue
        study = (job.config.runs_dir, job.config.study)
        if study not in finished:
            finished[study] = load_results(Path(study[0]), study[1])
        seconds = _seconds(job, finished[study])
        if seconds is None:
            return None
        total += seconds
    return total / workers


def _seconds(job: Job, finished: Sequence[dict[str, Any]]) -> float | None:
    alike = filter_pair(finished, job.config.model.name, job.config.dataset.name)
    evaluation = [evaluation_seconds(one) for one in alike]
    if not evaluation:
        return None
    trains = job.command == "train" and job.needs is None
    evaluates = job.command == "eval" or (isinstance(job.config, TrainConfig) and job.config.eval)
    own = job.directory.path.name.rpartition("-lr")[0]
    trained = [one for one in alike if one["training"] and share_trained(one) == 1]
    same_method = [one for one in trained if one["run"]["method"] == own]
    training = [training_seconds(one["training"]) for one in same_method or trained]
    known = [seconds for seconds in training if seconds is not None]
    if trains and not known:
        return None
    share, scored = 1.0, 1
    if trains:
        share, scored = left_of(job)
    return (share * statistics.mean(known) if trains else 0.0) + (
        scored * statistics.mean(evaluation) if evaluates else 0.0
    )


def left_of(job: Job) -> tuple[float, int]:
    """(share of its steps that a job has to train, how many runs it has to score)."""
    left = [(config, place) for config, place in job.runs if not is_done(config, place)]
    lacking = [config.at for config, place in left if lacks_weights(config, place)]
    return max(lacking, default=0.0), len(left)


def missing(
    jobs: Sequence[Job],
    states: Sequence[State],
    shapes: Mapping[Path, Shape | None],
    place: Place | None = None,
) -> list[str]:
    """Why jobs cannot be made: files or packages are missing, or a machine is too small.

    Args:
        place: Where runs are made; None: on this machine.
    """
    found: dict[str, None] = {}
    for job, now in zip(jobs, states, strict=True):
        if now != "done":
            found |= dict.fromkeys(_missing_data(job.config))
            found |= dict.fromkeys(_missing_memory(job, shapes[job.directory.path], place))
            try:
                check_installed(job.config.logger)
            except UserError as error:
                found[str(error)] = None
    return list(found)


def notes(jobs: Sequence[Job], unknown: Sequence[str]) -> list[str]:
    """What the user may want to know before the sweep, though no run fails for it."""
    found = [
        f"{name}: its weights are not here yet and will be fetched; its runs cannot be looked up"
        for name in unknown
    ]
    loggers = [job.config.logger for job in jobs]
    if any(one.name == "wandb" and one.mode == "auto" for one in loggers) and not (
        os.environ.get("WANDB_MODE") or is_logged_in()
    ):
        found.append("W&B: not logged in (`wandb login`), runs are logged offline")
    return [*found, *_same_names(jobs)]


def _same_names(jobs: Sequence[Job]) -> Iterator[str]:
    """A line for what is swept beside what names show: tables could not tell such runs apart."""
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
            f"runs of one name differ in {', '.join(sorted(differ))}: a preset for each value "
            "gives them names of their own (docs/studies.md)"
        )


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk on which `folder` is, or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free


def _missing_data(config: TrainConfig | EvalConfig) -> Iterator[str]:
    for key, path in files_of(config):
        if not files_at(path):
            yield f"{key}={path} does not exist"


def _missing_memory(job: Job, shape: Shape | None, place: Place | None) -> Iterator[str]:
    config = _training(job)
    if config is None or shape is None:
        return
    there, where = _memory_there(config, place)
    if there is None:
        return
    try:
        planner.check_minimum(
            config.model.name, shape, config.parts, _arithmetic(config, place), there, where
        )
    except UserError as error:
        yield str(error)


def memory_of(
    jobs: Sequence[Job],
    states: Sequence[State],
    shapes: Mapping[Path, Shape | None],
    place: Place | None = None,
    together: int = 1,
) -> str | None:
    """A sentence about the run that needs the most memory, if all rows had max_length tokens.

    None if no training is left to do, or no model is known.

    Args:
        together: How many runs share the memory of a GPU, or of the machine.
    """
    found = []
    for job, now in zip(jobs, states, strict=True):
        config, shape = _training(job), shapes[job.directory.path]
        if now != "done" and config is not None and shape is not None:
            there = _memory_there(config, place)[0]
            there = None if there is None else there / together
            least = _longest_rows(config, shape, place, 0.0 if there is None else there)
            found.append((config, shape, least, there))
    if not found:
        return None
    config, shape, plan, there = max(found, key=lambda one: one[2].memory.total)
    again = " with layers computed again" if plan.checkpointing else ""
    rows = f"{plan.rows} of {config.trainer.batch_size} rows at once{again}"
    longest = f"if all had max_length={config.trainer.max_length} tokens"
    what = f"a run ({config.model.name}, {config.method}: {rows}"
    if there is not None:
        total, usable = gib(plan.memory.total), gib(plan.free)
        shared = f", as {together} runs share it" * (together > 1)
        return f"up to {total} {what}, {longest}); {usable} are usable{shared}"
    most = _longest_rows(config, shape, place, math.inf)
    more = f"; up to {gib(most.memory.total)} with {most.rows}" * (most.rows != plan.rows)
    checked = "; with slurm.gpu_memory=GIB and detach=true it is checked" * (place is not None)
    return f"at least {gib(plan.memory.total)} {what}{more}), {longest}{checked}"


def _longest_rows(
    config: TrainConfig, shape: Shape, place: Place | None, there: float
) -> planner.Plan:
    """How a batch of rows of max_length tokens is cut up to fit into `there` bytes."""
    how, trainer = _arithmetic(config, place), config.trainer
    has_kernel = how.device == "cuda" and how.half and not how.eager
    rows = planner.RowLengths.uniform(trainer.max_length, trainer.batch_size, has_kernel)
    usable = USABLE[how.device] * there
    return planner.choose_plan(shape, config.parts, config.trainer, how, rows, usable)


def _memory_there(config: TrainConfig, place: Place | None) -> tuple[float | None, str]:
    """(bytes of the smallest GPU, or of the machine; None: unknown, what that is in words)."""
    if place is not None:
        return place.memory, f"is what {'each GPU' if place.gpus else 'a machine'} there has"
    if config.device == "cpu" or not gpu_names():
        return machine_memory(), "is what this machine has"
    return min(gpu_memory(), default=None), "is what each GPU has"


def _arithmetic(config: TrainConfig, place: Place | None) -> Arithmetic:
    """The arithmetic, as far as it is known without torch: `auto` is half precision on GPUs."""
    gpus = len(gpu_names()) if place is None else place.gpus
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


def _training(job: Job) -> TrainConfig | None:
    """The config of a job that trains; None for other jobs."""
    trains = job.command == "train" and job.needs is None
    return job.config if trains and isinstance(job.config, TrainConfig) else None


def _trains_all(job: Job) -> bool:
    return isinstance(job.config, TrainConfig) and job.config.adapter is None
