"""Measures time and peak memory of an optimizer step: every method and plain TRL against sft.

    python scripts/bench_step.py                                 # generated rows
    python scripts/bench_step.py --data medcalc.csv --longest 700 # MedCalc-Bench rows up to there
    python scripts/bench_step.py --methods sft,talr,trl --json out.json

Every contestant is a process of its own, with the same model, rows, batch and precision. It and sft
take turns, one step each, so that a change of the machine's speed affects both. The first step,
which loads code and allocates the optimizer's state, is not counted. Reported are the wall times of
the others, and the peak of the process's resident memory (of GPU memory on a GPU).
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu.making import trl_trainer

TRL = ("trl", "trl-dft")
OURS = (
    *("sft", "talr", "flow", "l2", "lora", "dft", "eaft", "infosft", "deft", "kl", "replay"),
    *("asft",),
)


def overrides(options: argparse.Namespace, method: str) -> list[str]:
    data = ["dataset=medcalc", f"dataset.path={options.data}"] if options.data else []
    return [
        *(f"method={method}", f"model={options.model}", f"trainer.batch_size={options.batch}"),
        *("logger=none", *data),
    ]


def contestant(options: argparse.Namespace) -> None:
    """Make one optimizer step for every line on stdin; answer each with its seconds."""
    import torch
    from transformers import TrainerCallback

    trainer, device = build(options)

    class TakeTurns(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            sys.stdin.readline()
            self.started, self.cpu_started = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - self.started
            cpu_seconds = time.process_time() - self.cpu_started
            if state.global_step == 1:
                forget_peak(device)
            print(f"step {seconds} {cpu_seconds}", flush=True)

    trainer.add_callback(TakeTurns())
    trainer.train()
    print(f"peak {peak(device)}", flush=True)


def forget_peak(device: str) -> None:
    """Measure the peak of memory from here on, without what loading took."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): VmHWM becomes VmRSS


def peak(device: str) -> float:
    """GiB since `forget_peak`."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    kib = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert kib is not None
    return int(kib.group(1)) / 2**20


def build(options: argparse.Namespace) -> tuple[Any, str]:
    """The trainer of a contestant, and its device."""
    import torch
    from transformers import PrinterCallback, set_seed

    from talr_cli.config import composition
    from talr_cli.data.encoding import encode_all
    from talr_cli.data.rendering import load_renderer
    from talr_cli.models import loading, sources
    from talr_cli.run.make import setting_of
    from talr_cli.runs.run_directory import RunDirectory
    from talr_cli.training import loop

    plain = options.contestant in TRL
    config = composition.load("train", overrides(options, "sft" if plain else options.contestant))
    config.trainer.max_steps = options.steps
    config.trainer.checkpoint_every_epoch = False
    source = sources.resolve_model(config.model)
    renderer = load_renderer(source, config.model)
    every = encode_all(config.dataset.load().train, renderer, 4096).rows
    rows = [row for row in every if len(row.input_ids) <= options.longest]
    if options.tokens:
        rows.sort(key=lambda row: abs(len(row.input_ids) - options.tokens))
    rows = rows[: options.batch * options.steps]
    tokens = statistics.mean(len(row.input_ids) for row in rows)
    targets = statistics.mean(len(row.targets) for row in rows)
    print(f"rows {tokens} {targets}", flush=True)
    device = loading.choose_device("auto")
    model = loading.load_model(source, config.model, torch.float32, device)
    set_seed(0)
    folder = Path(tempfile.mkdtemp())
    setting = setting_of(config, device)
    if plain:
        loss = "dft" if options.contestant == "trl-dft" else "nll"
        trainer = trl_trainer(setting, folder, loss, model, renderer.tokenizer, rows)
    else:
        replay = config.parts.replay
        general = [] if replay is None else encode_all(replay.examples(), renderer, 4096).rows

        def load_base(dtype: Any = None) -> Any:
            return loading.load_model(source, config.model, dtype or "auto", device)

        trainer = loop.make_trainer(
            setting,
            model,
            renderer.tokenizer,
            config.parts,
            loop.TrainingData(rows, [], general),
            RunDirectory(folder),
            source,
            load_base,
            config.model.path,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer, device


def start(name: str) -> subprocess.Popen[str]:
    """The process of a contestant."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contestant", name]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def answer(process: subprocess.Popen[str], kind: str) -> list[float]:
    """The numbers of its next line that begins with `kind`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{kind} "):
            return [float(word) for word in line.split()[1:]]
    raise SystemExit(f"{process.args!r} stopped early: run it by hand to see why")


def against_sft(name: str, steps: int, says_rows: bool) -> dict[str, float]:
    """The figures of a contestant beside those of sft, from steps that they make in turns."""
    # In pairs, so that no more than two models are in memory.
    pair = {one: start(one) for one in ("sft", name)}
    tokens, targets = answer(pair["sft"], "rows")
    if says_rows:
        print(f"rows of {tokens:.0f} tokens, {targets:.0f} of them targets, on average")
    seconds: dict[str, list[list[float]]] = {one: [] for one in pair}
    for _ in range(steps):
        for one, process in pair.items():
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            seconds[one].append(answer(process, "step"))
    peaks = {one: answer(process, "peak")[0] for one, process in pair.items()}
    # [wall, CPU] seconds of the counted steps
    ours, theirs = (list(zip(*seconds[one][1:], strict=True)) for one in ("sft", name))
    time_ratio, cpu_ratio = (
        statistics.median(his / own for his, own in zip(theirs[kind], ours[kind], strict=True))
        for kind in (0, 1)
    )
    return {
        "seconds": statistics.median(theirs[0]),
        "sft_seconds": statistics.median(ours[0]),
        "time_ratio": time_ratio,
        "cpu_seconds": statistics.median(theirs[1]),
        "cpu_ratio": cpu_ratio,
        "peak_gib": peaks[name],
        "memory_ratio": peaks[name] / peaks["sft"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", help="a CSV file in MedCalc-Bench's columns")
    parser.add_argument("--tokens", type=int, help="take the rows whose length is nearest to this")
    parser.add_argument("--longest", type=int, default=4096, help="leave out rows of more tokens")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="the first warms up, uncounted")
    parser.add_argument("--methods", default=",".join((*TRL, *OURS)))
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        contestant(options)
        return
    names = options.methods.split(",")
    results: dict[str, dict[str, float]] = {}
    for name in [one for one in names if one != "sft"]:
        row = results[name] = against_sft(name, options.steps, says_rows=not results)
        print(
            f"{name:8} {row['seconds']:6.2f} s a step, {row['time_ratio']:.2f} of sft; "
            f"{row['cpu_seconds']:.2f} s of CPU time, {row['cpu_ratio']:.2f} of sft; "
            f"peak {row['peak_gib']:.2f} GiB, {row['memory_ratio']:.2f} of sft",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
