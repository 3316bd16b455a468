"""`make reproduce`: the study's grid on GPUs, or the same with a small model; then its claims.

python scripts/reproduce.py [--profile cpu|paper] [--keep final|best|none] [--dry-run]

The paper's grid takes weeks. So its cost is stated first, from the constants below, and it is
refused, with all reasons at once, if the machine lacks something. The same command again goes on.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from talr_cli.config import composition
from talr_cli.interruption import handled_by, killed_by
from talr_cli.models import sources
from talr_cli.models.device_memory import USABLE, gib
from talr_cli.models.shape import Matrix, Shape
from talr_cli.sweep.needs import CHECKPOINT_BYTES, CHECKPOINTS, free_bytes
from talr_cli.training.arithmetic import Arithmetic
from talr_cli.training.planner import Plan, RowLengths, choose_plan, operations_per_weight

EXPERIMENTS = {
    "cpu": ["cpu"],
    "paper": ["paper/medcalc", "paper/esci", "paper/esci-label"],
}


def _decoder(
    weights: int, layers: int, hidden: int, heads: int, queries: int, keys: int, inner: int,
    vocabulary: int, normalised: int, **windows: Any,
) -> Shape:  # fmt: skip
    """A model that is stored in bf16 and whose head is its embedding."""
    matrices = (
        *(("q_proj", hidden, queries), ("o_proj", queries, hidden), ("down_proj", inner, hidden)),
        *((name, hidden, keys) for name in ("k_proj", "v_proj")),
        *((name, hidden, inner) for name in ("gate_proj", "up_proj")),
    )
    return Shape(
        weights, 2, layers, hidden, heads, queries, keys, inner, vocabulary, layers * normalised,
        [Matrix(*one, layers) for one in matrices], tied=True, **windows,
    )  # fmt: skip


# From their config.json; of gemma3 the text model.
SHAPES = {
    "qwen2.5-3b": _decoder(3_085_938_688, 36, 2048, 16, 2048, 256, 11008, 151936, 4096),
    "qwen3-4b": _decoder(4_022_468_096, 36, 2560, 32, 4096, 1024, 9728, 151936, 10240),
    "gemma3-4b": _decoder(
        3_880_263_168, 34, 2560, 8, 2048, 1024, 10240, 262208, 13312, windowed=29, window=1024
    ),
}
# Two small models on one core each get further than one on two; each takes about 4 GiB.
CPU_WORKERS = 2
POLL = 0.2  # seconds between checks of a sweep
RATES, METHODS, TRAINED_METHODS = 3, 6, 5  # averages need no training of their own


@dataclass(frozen=True)
class Size:
    """Rows and tokens of an experiment: a training row's, and all tokens of one evaluation."""

    train_rows: int
    tokens_per_row: int
    domain_answers: int


# MedCalc-Bench v1.0 has 10,053 training rows, 5 % of them for validation, and 1,047 test rows.
# Lengths: means of 953 and 755 real rows with the tokenizer of SmolLM2.
SIZES = {
    "paper/medcalc": Size(9550, 1070, 1047 * 260),
    "paper/esci": Size(10_000, 210, 2000 * 34),
    "paper/esci-label": Size(10_000, 175, 2000 * 5),
}
EPOCHS = 20
# IFEval, GSM8K, HumanEval: questions times the length that we assume of an answer.
GENERAL_ANSWERS = 541 * 400 + 1319 * 200 + 164 * 300
# Dense bf16 operations per second, from the data sheets. The first is assumed without a GPU.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
GPU_MEMORY = 80 * 2**30 * 0.98  # of the GPU that is assumed without one
UTILISATION = 0.35  # assumed: short rows, few at a time
GENERATED_PER_SECOND = 500  # tokens, assumed

SAVED_BYTES = 2  # bf16

BENCHMARKS = (("google/IFEval", None), ("openai/gsm8k", "main"), ("openai/openai_humaneval", None))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--profile", choices=EXPERIMENTS)
    parser.add_argument("--keep", choices=("final", "best", "none"), default="best")
    parser.add_argument("--dry-run", action="store_true", help="state the cost, start nothing")
    options = parser.parse_args()
    profile = options.profile or ("paper" if torch.cuda.is_available() else "cpu")
    reason = "asked for" if options.profile else f"CUDA GPUs: {torch.cuda.device_count()}"
    print(f"profile: {profile} ({reason})")
    if profile == "paper":
        print("\n".join(cost(options.keep)))
        lacking = list(missing(options.keep))
        if lacking:
            print("\n".join(f"missing: {one}" for one in lacking), file=sys.stderr)
            return 2
    workers = torch.cuda.device_count() or CPU_WORKERS
    code = 0
    for experiment in EXPERIMENTS[profile]:
        sweep = ["sweep", f"experiment={experiment}", f"workers={workers}", f"keep={options.keep}"]
        code = max(code, talr(*sweep, *["--dry-run"] * options.dry_run))
        if code > 1:  # refused or stopped; at 1 a run has failed and the others went on
            return code
    return code


def talr(*arguments: str) -> int:
    """Run a command to its end, however it is stopped; returns its exit code as a shell does.

    Ctrl-C reaches the command too, other signals are passed on. It then ends in good order, for
    which `subprocess.call` would leave it a quarter of a second.
    """
    heard: list[int] = []
    with handled_by(lambda number, _: heard.append(number)):
        process = subprocess.Popen([sys.executable, "-m", "talr_cli.cli", *arguments])
        while (code := process.poll()) is None:
            while heard:
                if (number := heard.pop()) != signal.SIGINT:
                    process.send_signal(number)
            time.sleep(POLL)
    if code < 0:
        print(f"the sweep was {killed_by(-code)}: the same command goes on", file=sys.stderr)
        return 128 - code
    return code


def cost(keep: str) -> Iterator[str]:
    """The cost of the paper's grid: lines about time, disk and memory."""
    name, peak = device()
    plans = {model: plan(model) for model in SHAPES}
    training = sum(
        RATES * TRAINED_METHODS * training_hours(size, SHAPES[model].weights, peak, one)
        for size in SIZES.values()
        for model, one in plans.items()
    )
    answers = sum(GENERAL_ANSWERS + size.domain_answers for size in SIZES.values())
    runs = RATES * METHODS + 1  # and the base model
    evaluation = runs * len(SHAPES) * answers / GENERATED_PER_SECOND / 3600
    each = sorted({operations_per_weight(one.checkpointing) for one in plans.values()})
    yield (
        f"time: about {training:.0f} GPU hours of training and {evaluation:.0f} of evaluation on "
        f"{name}: {' or '.join(map(str, each))} operations for each parameter and token of "
        f"{EPOCHS} epochs at {UTILISATION:.0%} of {peak / 1e12:.0f} TFLOP/s, "
        f"{GENERATED_PER_SECOND} tokens/s generated"
    )
    yield (
        f"disk: up to {gib(disk_bytes(keep))} with keep={keep}, {gib(disk_bytes('none'))} with "
        "keep=none (make reproduce KEEP=none)"
    )
    for model, one in plans.items():
        weights = SHAPES[model].weights
        yield (
            f"  {model}: a model {gib(SAVED_BYTES * weights)}, a checkpoint to go on from "
            f"{gib(CHECKPOINT_BYTES * weights)}, GPU memory {gib(one.memory.total)}"
        )


def training_hours(size: Size, parameters: float, peak: float, one: Plan) -> float:
    """GPU hours of one run."""
    tokens = size.train_rows * size.tokens_per_row * EPOCHS
    return (
        operations_per_weight(one.checkpointing) * parameters * tokens / (peak * UTILISATION) / 3600
    )


def plan(model: str, method: str = "sft") -> Plan:
    """How `talr train` cuts up batches of the longest rows, and the memory that this takes."""
    config = composition.load("train", ["experiment=paper/medcalc", f"method={method}"])
    rows = RowLengths.uniform(config.trainer.max_length, config.trainer.batch_size, varlen=True)
    usable = USABLE["cuda"] * gpu_memory()
    how = Arithmetic("cuda", half=True, optimizer=config.optimizer, deterministic=True)
    return choose_plan(SHAPES[model], config.parts, config.trainer, how, rows, usable)


def gpu_memory() -> float:
    """Bytes of the smallest GPU, or of the assumed one."""
    there = (
        torch.cuda.get_device_properties(place).total_memory
        for place in range(torch.cuda.device_count())
    )
    return min(there, default=GPU_MEMORY)


def disk_bytes(keep: str) -> float:
    """The most bytes at a time: base models, kept models, and checkpoints of a run on each GPU.

    With keep=none one model of each rate is kept, to be averaged; keep=best may keep all.
    """
    models = SAVED_BYTES * sum(shape.weights for shape in SHAPES.values())
    kept = RATES if keep == "none" else RATES * METHODS * len(SIZES)
    largest = max(shape.weights for shape in SHAPES.values())
    running = max(1, torch.cuda.device_count()) * CHECKPOINTS * CHECKPOINT_BYTES * largest
    return models + kept * models + running


def device() -> tuple[str, float]:
    """(name of the GPU, its peak operations per second); an H100 if there is none, or unknown."""
    found = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    for name, peak in PEAK.items():
        if name in found:
            return found, peak
    name = next(iter(PEAK))
    return f"{name} (assumed)", PEAK[name]


def missing(keep: str) -> Iterator[str]:
    """Every reason why the paper's grid cannot run here."""
    yield from missing_memory()
    free = free_bytes(Path("runs"))
    if free < disk_bytes(keep):
        yield f"disk: {gib(disk_bytes(keep))} with keep={keep}, {gib(free)} are free"
    if not hub_is_reachable():
        yield "the hub cannot be reached: only what is in its cache is here"
        use_cache_only()
    configs = {
        model: composition.load("train", ["experiment=paper/medcalc", f"model={model}"]).model
        for model in SHAPES
    }
    for model, config in configs.items():
        if sources.resolve_offline(config) is None:
            yield from cannot_be_had(model, config.path)
    of_experiments = {
        composition.load("train", [f"experiment={one}"]).dataset.hub_id: None
        for one in EXPERIMENTS["paper"]
    }
    for hub_id, name in [*of_experiments.items(), *BENCHMARKS]:
        yield from cannot_be_loaded(hub_id, name)


def missing_memory() -> Iterator[str]:
    if not torch.cuda.is_available():
        yield "GPU: torch sees no CUDA device"
        return
    for model in SHAPES:
        needed, l2 = plan(model), plan(model, "l2")
        if not needed.fits:
            yield (
                f"GPU memory: {model} needs {gib(needed.memory.total)}, "
                f"{gib(needed.free)} of a GPU are usable"
            )
        elif not l2.fits:
            print(f"note: l2 of {model} may need regulariser.theta0_device=cpu")


def hub_is_reachable() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # no name, no route, a proxy that says no
        return False
    return True


def use_cache_only() -> None:
    """Do not ask a hub that cannot be reached: its client would try for half a minute each time."""
    import datasets
    import huggingface_hub

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


def cannot_be_had(model: str, hub_id: str) -> Iterator[str]:
    """Why this user cannot download a model: a licence to accept, a login."""
    from huggingface_hub import auth_check
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        auth_check(hub_id)
    except OfflineModeIsEnabled:
        yield f"weights of {model}: {hub_id} is not in the cache"
    except Exception as error:  # the hub's client raises a dozen kinds
        yield f"weights of {model}: {hub_id}: {first_line(error)}"


def cannot_be_loaded(hub_id: str, name: str | None) -> Iterator[str]:
    """Why a data set cannot be loaded, if it is neither in the cache nor on the hub."""
    from datasets import load_dataset_builder

    try:
        load_dataset_builder(hub_id, name)
    except Exception as error:  # the library passes on whatever the hub's client raises
        yield f"data: {hub_id}: {first_line(error)}"


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
