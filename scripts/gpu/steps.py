"""Section steps: seconds, memory and host waits of an optimizer step, at the size of Qwen2.5-3B.

Rows have MedCalc's lengths; the model is random, and smaller if the GPU has too little memory. Each
measured peak stands beside the planner's estimate for the largest pass. Variants "by default" are
cut up by the planner of `talr train`, as for users.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gpu.making import (
    ANY_ORDER,
    in_some_order,
    make_trainer,
    random_model,
    random_rows,
    shape_for,
    train,
)
from gpu.measuring import (
    Lines,
    Options,
    expandable_segments,
    failed_allocations,
    forget,
    peak_gib,
    restart_peak,
    wait,
)

BATCH = 16
COUNTED = 3  # steps; before them one warms up, and one counts waits
COMPILED = "trainer.compile=true"
PROFILE = "profile of sft 1 row"
SEGMENTS = "sft by default, expandable segments"  # which torch's allocator can make larger
KERNELS = 20  # so many are listed, those that take most


def variants() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, overrides): first those with a bar to meet, then the others."""
    one, four = ("trainer.micro_batch_size=1",), ("trainer.micro_batch_size=4",)
    again, kept = (
        ("trainer.gradient_checkpointing=true",),
        ("trainer.gradient_checkpointing=false",),
    )
    joined, padded = (f"trainer.padding_free={one}" for one in ("true", "false"))
    yield "sft by default", ("method=sft",)
    yield "sft 1 row", ("method=sft", *one, *kept)
    yield "talr 1 row", ("method=talr", *one, *kept)
    yield "sft 1 row, any order", ("method=sft", *one, *kept, ANY_ORDER)
    yield "trl nll 1 row", ("method=trl-nll", *one, *kept)
    yield "lora 1 row", ("method=lora", *one, *kept)
    yield "lora+kl 1 row", ("method=lora", "regulariser=kl", *one, *kept)
    yield PROFILE, ("method=sft", *one, *kept)
    yield "talr by default", ("method=talr",)
    yield "lora by default", ("method=lora",)
    yield SEGMENTS, ("method=sft",)
    yield "sft by default, compiled", ("method=sft", COMPILED)
    yield "sft 1 row, layers again", ("method=sft", *one, *again)
    yield "sft 4 rows padded, layers again", ("method=sft", *four, *again, padded)
    yield "sft 4 rows joined, layers again", ("method=sft", *four, *again, joined)
    yield "trl nll 4 rows, layers again", ("method=trl-nll", *four, *again)
    yield "l2 1 row, layers again", ("method=l2", *one, *again)
    yield "kl 1 row, layers again", ("method=kl", *one, *again)
    on_cpu = "regulariser.theta0_device=cpu"
    yield "l2 1 row, on the CPU, layers again", ("method=l2", on_cpu, *one, *again)
    yield "dft 1 row", ("method=dft", *one, *kept)
    yield "trl dft 1 row", ("method=trl-dft", *one, *kept)
    yield "eaft 1 row", ("method=eaft", *one, *kept)


def run(options: Options, lines: Lines) -> None:
    import torch

    model, settings = shape_for(options)
    lines.measure("model", lambda: {"model": model, "rows_a_step": _batch(options)[1]})
    for name, typed in variants():
        if options.methods and name.split()[0] not in options.methods:
            continue

        def measure(name: str = name, typed: Sequence[str] = typed) -> dict[str, Any]:
            forget(options.device)
            work = partial(_measure, options, settings, name == PROFILE)
            try:
                with expandable_segments(name == SEGMENTS and options.device == "cuda"):
                    return in_some_order(work, typed)
            finally:
                if COMPILED in typed:
                    torch._dynamo.reset()  # it keeps the model, also of a step that failed
                forget(options.device)

        lines.measure(name, measure)


def _batch(options: Options) -> tuple[int, int]:
    """(steps, rows of each)."""
    return (3, 4) if options.small else (COUNTED + 2, BATCH)


@dataclass
class Seen:
    """What was seen of a training."""

    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)  # until all work was handed out
    first_seconds: float = 0.0  # of the first two steps: what is compiled, tried and allocated
    waits: Counter[str] = field(default_factory=Counter)
    passes: list[tuple[int, int, int, int]] = field(default_factory=list)

    def note(self, batch: dict[str, Any], lengths: Sequence[int]) -> None:
        """Note a pass: its tokens, those with padding, its targets, its longest row."""
        targets = int((batch["labels"] != -100).sum())
        self.passes.append((sum(lengths), batch["input_ids"].numel(), targets, max(lengths)))

    def timed_steps(self, steps: int) -> list[tuple[int, int, float]]:
        """(tokens, targets, seconds) of each step that was timed, the last of all `steps`.

        Steps differ in their tokens, so a rate has to be of the same steps as its seconds.
        """
        size = len(self.passes) // steps
        own = [self.passes[size * step :][:size] for step in range(steps)][-len(self.seconds) :]
        return [
            (sum(one[0] for one in passes), sum(one[2] for one in passes), seconds)
            for passes, seconds in zip(own, self.seconds, strict=True)
        ]


def _measure(
    options: Options, settings: dict[str, Any], profiled: bool, typed: Sequence[str]
) -> dict[str, Any]:
    import torch

    device = options.device
    steps, batch = _batch(options)
    rows = random_rows(batch * steps, settings["vocab_size"], 0.02 if options.small else 1.0)
    of_trl = any("=trl-" in one for one in typed)
    typed = [*typed, f"trainer.batch_size={batch}", f"trainer.max_steps={steps}"]
    chosen, predicted = ([], None) if of_trl else _planned(typed, settings, rows, device)
    model = random_model(settings, device)

    def load_base(dtype: Any) -> Any:
        return random_model(settings, device).to(dtype or torch.bfloat16)

    trainer = make_trainer([*typed, *chosen], model, rows, device, load_base)
    seen, profiler = Seen(), _profiler(device) if profiled else None
    trainer.add_callback(_watch(seen, device, profiler))
    collate = trainer.data_collator

    def collated(examples: list[dict[str, Any]]) -> Any:
        batch = collate(examples)
        seen.note(batch, [len(one["input_ids"]) for one in examples])
        return batch

    trainer.data_collator = collated
    failed = failed_allocations(device)
    train(trainer, typed, device)
    if profiler is None:
        parameters = list(model.parameters())
        found = {
            **_rates(seen.timed_steps(steps), settings, parameters),
            "host_s": round(sum(seen.host_seconds) / len(seen.host_seconds), 4),
            "peak_gib": peak_gib(device),
            "planned_gib": None if predicted is None else round(predicted(seen), 3),
            "reserved_gib": peak_gib(device, reserved=True),
            "failed_allocations": failed_allocations(device) - failed,
            "passes": _passes(trainer),
            "first_seconds": round(seen.first_seconds, 2),
            "host_waits": sum(seen.waits.values()),
            "where": dict(seen.waits.most_common(5)),
        }
    else:
        found = _kernels(profiler, seen.seconds[0])
    trainer.accelerator.free_memory()
    return found


def _rates(
    timed: Sequence[tuple[int, int, float]], settings: dict[str, Any], parameters: Sequence[Any]
) -> dict[str, Any]:
    """The rates over steps of (tokens, targets, seconds); attention's operations do not count.

    `spread` is that of the seconds per token, as a share of their mean.
    """
    tokens, targets, seconds = map(sum, zip(*timed, strict=True))
    per_token = [taken / count for count, _, taken in timed]
    head = settings["vocab_size"] * settings["hidden_size"]
    weights = sum(one.numel() for one in parameters)
    # Two forward and two for the states' gradient; two more for the weights' own, if it is made.
    operations = 6 if all(one.requires_grad for one in parameters) else 4
    rate = operations * ((weights - head) * tokens + head * targets) / seconds
    return {
        "s_per_step": round(seconds / len(timed), 4),
        "spread": round((max(per_token) - min(per_token)) * tokens / seconds, 3),
        "tokens_per_second": round(tokens / seconds),
        "tflops": round(rate / 1e12, 1),
        "timed": [(count, of_them, round(taken, 4)) for count, of_them, taken in timed],
    }


def _profiler(device: str) -> Any:
    """Notes the kernels of a GPU alone, as notes of the host's operations would slow it down."""
    from torch.profiler import ProfilerActivity, profile

    return profile(activities=[ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU])


def _kernels(profiler: Any, seconds: float) -> dict[str, Any]:
    """The share of a step in which a kernel runs, and (name, calls, ms) of those with most time.

    Args:
        seconds: Of the step that was profiled.
    """
    from torch.autograd import DeviceType

    calls, milliseconds = Counter[str](), Counter[str]()
    seen = profiler.events()
    kernels = [one for one in seen if one.device_type == DeviceType.CUDA]
    for one in kernels or seen:  # with a GPU's come the host's calls that launch them
        taken = one.time_range.elapsed_us() if kernels else one.self_cpu_time_total
        calls[one.name] += 1
        milliseconds[one.name] += taken / 1000
    return {
        "gpu_busy": round(milliseconds.total() / 1000 / seconds, 3),
        "launches": calls.total(),
        "kernels": [
            (name[:100], calls[name], round(taken, 2))
            for name, taken in milliseconds.most_common(KERNELS)
        ],
    }


def _passes(trainer: Any) -> str:
    """How the batch was cut up, in words."""
    rows = trainer.args.per_device_train_batch_size
    joined = "joined" if trainer.padding_free else "padded"
    again = ", layers again" if trainer.args.activation_checkpointing else ""
    return f"{rows} {joined}{again}"


def _planned(
    typed: Sequence[str], settings: dict[str, Any], rows: Sequence[Any], device: str
) -> tuple[list[str], Callable[[Seen], float]]:
    """(overrides that `talr train` chooses for `auto`, its estimate in GiB for the seen passes)."""
    from talr_cli.config import composition
    from talr_cli.models.device_memory import free_memory
    from talr_cli.models.shape import shape_from_config
    from talr_cli.run.fit import expected_kernel
    from talr_cli.run.make import setting_of
    from talr_cli.training import planner
    from talr_cli.training.arithmetic import Arithmetic, MicroBatch
    from talr_cli.training.memory import step_memory

    config = composition.load("train", ["model=tiny", *typed])
    method, trainer = config.parts, config.trainer
    plain = random_model(settings, "meta")
    sizes = {name: (tuple(one.shape), 2) for name, one in plain.named_parameters()}
    shape = shape_from_config(plain.config.to_dict(), sizes)
    assert shape is not None
    half = setting_of(config, device).autocast_dtype is not None
    how = Arithmetic(device, half, config.optimizer, deterministic=trainer.deterministic)
    joined, varlen = expected_kernel(shape, trainer, config.model.attention, half, device)
    as_seen = planner.RowLengths(
        [len(row.input_ids) for row in rows],
        [len(row.targets) for row in rows],
        joined=joined,
        varlen=varlen,
    )
    plan = planner.choose_plan(shape, method, trainer, how, as_seen, free_memory(device))

    def gib(seen: Seen) -> float:
        _, tokens, targets, longest = map(max, zip(*seen.passes, strict=True))
        accumulates = plan.rows < trainer.batch_size
        one = MicroBatch(tokens, targets, longest, plan.checkpointing, accumulates, varlen)
        return step_memory(shape, method, how, one).total / 2**30

    again = str(plan.checkpointing).lower()
    chosen = [f"trainer.micro_batch_size={plan.rows}", f"trainer.gradient_checkpointing={again}"]
    return chosen, gib


def _watch(seen: Seen, device: str, profiler: Any) -> Any:
    """A callback that times the steps after the second, and notes host waits of the second.

    A step is timed from the end of the one before to its own end: batches are put together before
    a step begins, and logged values are read after it. The first one timed is profiled.
    """
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        catching: Any
        caught: Any

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            wait(device)
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
            if state.global_step == 2 and device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
                self.catching.__exit__(None, None, None)
                seen.waits.update(
                    f"{Path(one.filename).name}:{one.lineno}"
                    for one in self.caught
                    if "called a synchronizing" in str(one.message)
                )
            handed_out = time.perf_counter() - self.started
            wait(device)
            taken = time.perf_counter() - self.started
            if state.global_step > 2:
                seen.host_seconds.append(handed_out)
                seen.seconds.append(taken)
            if state.global_step == 2:
                seen.first_seconds = taken
                restart_peak(device)
            if profiler is not None and state.global_step == 2:
                profiler.start()
            if profiler is not None and state.global_step == 3:
                profiler.stop()
            if state.global_step == 1 and device == "cuda":
                self.catching = warnings.catch_warnings(record=True)
                self.caught = self.catching.__enter__()
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
            if state.global_step > 1:
                self.started = time.perf_counter()

    return Watch()
