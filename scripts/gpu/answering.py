"""generate: new tokens a second of the loop that answers, by the rows at once."""

from __future__ import annotations

import time
from typing import Any

from gpu.making import QWEN_3B, SMALL, random_model, random_rows
from gpu.measuring import Lines, Options, forget, peak_gib, wait


def run(options: Options, lines: Lines) -> None:
    import torch

    from talr_cli.evaluation.generation import Request, greedy

    device, shape = options.device, SMALL if options.small else QWEN_3B
    model = random_model(shape, device).to(torch.bfloat16).eval()
    new_tokens, scale = (4, 0.02) if options.small else (48, 1.0)
    rows = random_rows(256, shape["vocab_size"], scale)
    asked = [Request(tuple(row.input_ids), new_tokens) for row in rows]
    for size in (4, 8) if options.small else (64, 128, 256):

        def answer(size: int = size) -> dict[str, Any]:
            forget(device)
            wait(device)
            started = time.perf_counter()
            greedy(model, asked[:size], ends=())
            wait(device)
            seconds = time.perf_counter() - started
            return {
                "new_tokens_per_second": round(size * new_tokens / seconds),
                "seconds": round(seconds, 2),
                "peak_gib": peak_gib(device),
            }

        lines.measure(f"{size} rows at once", answer)
