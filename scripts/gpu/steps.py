"""steps: seconds, memory and waits of an optimizer step, at the size of Qwen2.5-3B.

Rows have MedCalc's lengths, the model is random. Beside each measured peak stands what the planner
of `talr train` says of the largest pass that there was.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gpu.making import (
    ANY_ORDER,
    QWEN_3B,
    SMALL,
    in_some_order,
    make_trainer,
    random_model,
    random_rows,
    train,
)
from gpu.measuring import Lines, Options, forget, peak_gib, wait

BATCH = 16
COUNTED = 3  # steps; before them one warms up, and one counts waits
PEAK = 989e12  # dense bf16 operations a second of an H100 or H200, from the data sheet


def variants() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, overrides): first what a bar is about, then what else is expected."""
    one, four = ("trainer.micro_batch_size=1",), ("trainer.micro_batch_size=4",)
    again, kept = (
        ("trainer.gradient_checkpointing=true",),
        ("trainer.gradient_checkpointing=false",),
    )
    joined, padded = (f"trainer.padding_free={one}" for one in ("true", "false"))
    yield "sft 1 row", ("method=sft", *one, *kept)
    yield "talr 1 row", ("method=talr", *one, *kept)
    yield "sft 1 row, any order", ("method=sft", *one, *kept, ANY_ORDER)
    yield "trl nll 1 row", ("method=trl-nll", *one, *kept)
    yield "lora 1 row", ("method=lora", *one, *kept)
    yield "lora+kl 1 row", ("method=lora", "regulariser=kl", *one, *kept)
    yield "sft 1 row, layers again", ("method=sft", *one, *again)
    yield "sft 4 rows padded, layers again", ("method=sft", *four, *again, padded)
    yield "sft 4 rows joined, layers again", ("method=sft", *four, *again, joined)
    yield "trl nll 4 rows, layers again", ("method=trl-nll", *four, *again)
    yield "l2 1 row, layers again", ("method=l2", *one, *again)
    yield "kl 1 row, layers again", ("method=kl", *one, *again)
    yield (
        "l2 1 row, on the CPU, layers again",
        (*("method=l2", "regulariser.theta0_device=cpu", *one, *again),),
    )
    yield "dft 1 row", ("method=dft", *one, *kept)
    yield "trl dft 1 row", ("method=trl-dft", *one, *kept)
    yield "eaft 1 row", ("method=eaft", *one, *kept)
    yield "sft 1 row compiled", ("method=sft", *one, *kept, "trainer.compile=true")


def run(options: Options, lines: Lines) -> None:
    for name, typed in variants():
        if options.methods and name.split()[0] not in options.methods:
            continue

        def measure(typed: Sequence[str] = typed) -> dict[str, Any]:
            forget(options.device)
            found = in_some_order(partial(_measure, options), typed)
            forget(options.device)
            return found

        lines.measure(name, measure)


@dataclass
class Seen:
    """What a training was watched doing."""

    seconds: list[float] = field(default_factory=list)
    waits: Counter[str] = field(default_factory=Counter)
    passes: list[tuple[int, int, int, int]] = field(default_factory=list)

    def note(self, batch: dict[str, Any], lengths: Sequence[int]) -> None:
        """A pass: its tokens, those with padding, its targets, its longest row."""
        targets = int((batch["labels"] != -100).sum())
        self.passes.append((sum(lengths), batch["input_ids"].numel(), targets, max(lengths)))


def _measure(options: Options, typed: Sequence[str]) -> dict[str, Any]:
    device = options.device
    shape = SMALL if options.small else QWEN_3B
    steps, batch = (3, 4) if options.small else (COUNTED + 2, BATCH)
    rows = random_rows(batch * steps, shape["vocab_size"], 0.02 if options.small else 1.0)
    model = random_model(shape, device)

    def load_base(dtype: Any) -> Any:
        return random_model(shape, device).to(dtype or _bf16())

    trainer = make_trainer(
        [*typed, f"trainer.batch_size={batch}", f"trainer.max_steps={steps}"],
        model, rows, device, load_base,
    )  # fmt: skip
    seen = Seen()
    trainer.add_callback(_watch(seen, device))
    collate = trainer.data_collator

    def collated(examples: list[dict[str, Any]]) -> Any:
        batch = collate(examples)
        seen.note(batch, [len(one["input_ids"]) for one in examples])
        return batch

    trainer.data_collator = collated
    predicted = _predicted(trainer, typed, device)
    train(trainer, typed, device)
    second = statistics.median(seen.seconds)
    tokens = sum(one[0] for one in seen.passes) / steps
    targets = sum(one[2] for one in seen.passes) / steps
    head = shape["vocab_size"] * shape["hidden_size"]
    weights = sum(parameter.numel() for parameter in model.parameters())
    rate = 6 * ((weights - head) * tokens + head * targets) / second
    found = {
        "s_per_step": round(second, 4),
        "spread": round(max(seen.seconds) - min(seen.seconds), 4),
        "tokens_per_second": round(tokens / second),
        "mfu": round(rate / PEAK, 3),
        "peak_gib": peak_gib(device),
        "planned_gib": None if predicted is None else round(predicted(seen), 3),
        "host_waits": sum(seen.waits.values()),
        "where": dict(seen.waits.most_common(5)),
    }
    trainer.accelerator.free_memory()
    return found


def _bf16() -> Any:
    import torch

    return torch.bfloat16


def _predicted(trainer: Any, typed: Sequence[str], device: str) -> Any:
    """What turns the passes that were seen into the planner's GiB; None for TRL's own trainer."""
    from talr_cli.config import composition
    from talr_cli.models.head import causal_lm
    from talr_cli.models.shape import of_settings
    from talr_cli.training.arithmetic import Arithmetic, Pass
    from talr_cli.training.memory import step_memory

    if any("=trl-" in one for one in typed):
        return None
    config = composition.load("train", ["model=tiny", *typed])
    model, arguments = causal_lm(trainer.model), trainer.args
    sizes = {
        name.replace("base_layer.", ""): (tuple(parameter.shape), 2)
        for name, parameter in model.named_parameters()
        if "lora_" not in name
    }
    shape = of_settings(model.config.to_dict(), sizes)
    if shape is None:
        return None
    fixed = config.trainer.deterministic
    how = Arithmetic(device, bool(arguments.bf16), config.optimizer, deterministic=fixed)
    accumulates = arguments.gradient_accumulation_steps > 1
    again = bool(arguments.activation_checkpointing)

    def gib(seen: Seen) -> float:
        _, tokens, targets, longest = map(max, zip(*seen.passes, strict=True))
        one = Pass(tokens, targets, longest, again, accumulates, varlen=device == "cuda")
        return step_memory(shape, config.parts, how, one).total / 2**30

    return gib


def _watch(seen: Seen, device: str) -> Any:
    """Times the steps after the second, and notes where the host waits for the GPU.

    That from the end of the first step to the end of the second: batches are put together before a
    step begins, and what is logged is read when it has ended.
    """
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
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
                forget(device)
            wait(device)
            if state.global_step == 1 and device == "cuda":
                self.catching = warnings.catch_warnings(record=True)
                self.caught = self.catching.__enter__()
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
            if state.global_step > 2:
                seen.seconds.append(time.perf_counter() - self.started)

    return Watch()
