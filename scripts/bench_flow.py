"""Speed of FLOW's weighting pass against that of pure forward passes over the same batches.

    python scripts/bench_flow.py                                # generated rows
    python scripts/bench_flow.py --data medcalc.csv --rows 24   # MedCalc-Bench rows

Every batch is run as the pass runs it, through the backbone alone, and through the whole model
with the logits of every position, in turns; the ratios are medians over the batches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from talr_cli.config import composition
from talr_cli.data.rendering import encode_all, load_renderer
from talr_cli.models import loading, sources
from talr_cli.training.base_losses import batches_of_like_length, target_losses
from talr_cli.training.collator import Collator, token_row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", help="a CSV file in MedCalc-Bench's columns")
    parser.add_argument("--rows", type=int, default=120)
    options = parser.parse_args()
    data = ["dataset=medcalc", f"dataset.path={options.data}"] if options.data else []
    config = composition.load("train", [f"model={options.model}", *data])
    source = sources.resolve(config.model)
    examples = config.dataset.load().train[: options.rows]
    rows = encode_all(examples, load_renderer(source, config.model), 4096).rows
    device = loading.choose_device("auto")
    model = loading.load_model(source, config.model, torch.float32, device).eval()
    bf16 = loading.bf16_is_fast(device)

    def seconds(run: Callable[[], object]) -> float:
        started = time.perf_counter()
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    measured = []
    half = torch.bfloat16 if loading.bf16_is_fast(model.device.type) else None
    for indices in batches_of_like_length(rows, model):
        batch = [rows[index] for index in indices]
        inputs = Collator(pad_token_id=0)([token_row(row) for row in batch])
        tokens = inputs["input_ids"].to(device)
        measured.append(
            (
                seconds(lambda: target_losses(model, batch, half)),  # noqa: B023 (called at once)
                seconds(lambda: model.base_model(tokens, use_cache=False)),  # noqa: B023
                seconds(lambda: model(tokens, use_cache=False)),  # noqa: B023
            )
        )
        print(
            f"{len(batch)} rows: " + ", ".join(f"{one:.2f} s" for one in measured[-1]), flush=True
        )
    counted = measured[1:] or measured  # the first batch warms up
    for name, place in (("backbone", 1), ("whole model", 2)):
        speed = statistics.median(one[place] / one[0] for one in counted)
        print(f"the pass runs at {speed:.2f} of the speed of the {name}")


if __name__ == "__main__":
    main()
