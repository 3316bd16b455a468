"""Sections resume, study and vllm: the command line, killed and resumed, and a grid of runs."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from gpu.making import ANY_ORDER, saved_model
from gpu.measuring import Lines, Options

PATIENCE = 400  # seconds after which a command is given up


def start(*arguments: Any) -> subprocess.Popen[str]:
    """Start `talr ARGUMENTS`."""
    return subprocess.Popen(
        [sys.executable, "-m", "talr_cli.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a command; an error if it failed."""
    said, _ = process.communicate(timeout=PATIENCE)
    print(said, file=sys.stderr, flush=True)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {said[-250:]}")


# What is killed and gone on with; the last is no bar, but shows what the fixed order is for.
KILLED = "killed and gone on with: "
RESUMED = {
    "talr": ("method=talr",),
    "lora": ("method=lora",),
    "talr, any order": ("method=talr", ANY_ORDER),
}


def resume(options: Options, lines: Lines) -> None:
    """Whether a run that is killed after a checkpoint ends with the bits of one that is not."""
    folder = Path(tempfile.mkdtemp())
    common = [
        *(f"model.path={saved_model(folder / 'model')}", "model.name=random", "logger=none"),
        *(f"device={options.device}", "eval=false", "dataset.train_rows=32", "trainer.epochs=3"),
        *("trainer.batch_size=4", "trainer.save_dtype=float32", "lr=1e-3"),
    ]

    def compare(name: str) -> dict[str, Any]:
        whole, cut = folder / name / "whole", folder / name / "cut"
        typed = ["train", *RESUMED[name], *common]
        uncut = start(*typed, f"runs_dir={whole}")
        _kill_behind_a_checkpoint(start(*typed, f"runs_dir={cut}"), cut)
        resumed = start(*typed, f"runs_dir={cut}")
        finish(uncut)
        finish(resumed)
        return _difference(whole, cut)

    wanted = {KILLED + name: name for name in RESUMED}
    if options.small:
        wanted = dict(list(wanted.items())[:1])
    wanted = {line: name for line, name in wanted.items() if not lines.has(line)}
    with ThreadPoolExecutor() as pool:
        found = {line: pool.submit(compare, name) for line, name in wanted.items()}
        for line, comparison in found.items():
            lines.measure(line, comparison.result)


def _kill_behind_a_checkpoint(process: subprocess.Popen[str], runs: Path) -> None:
    from talr_cli.runs.manifest import MANIFEST

    deadline = time.monotonic() + PATIENCE
    # A checkpoint without its manifest is not whole, and would be passed over.
    while not list(runs.rglob(f"checkpoint-*/{MANIFEST}")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"no checkpoint: {process.communicate()[0][-250:]}")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _difference(whole: Path, cut: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    one, other = (load_file(next(runs.rglob("model/model.safetensors"))) for runs in (whole, cut))
    training = json.loads(next(cut.rglob("training.json")).read_text(encoding="utf-8"))["training"]
    if not training["resumed_from_step"]:
        raise RuntimeError("it began again: nothing was gone on with")
    most = max(float((one[name] - other[name]).abs().max()) for name in one)
    config = yaml.safe_load(next(cut.rglob("config.yaml")).read_text(encoding="utf-8"))
    return {
        "deterministic": config["trainer"]["deterministic"],
        "resumed_from_step": training["resumed_from_step"],
        "largest_difference": most,
        "same_bits": most == 0.0,
    }


def study(options: Options, lines: Lines) -> None:
    """Run `experiment=facts`, several runs at a time on one GPU, from the base to the report."""
    runs = options.work / "study"  # a process after this one goes on with it
    typed = ["sweep", "experiment=facts", *_model(options), f"runs_dir={runs}", "logger=none"]
    typed += [f"device={options.device}"]
    if options.small:
        typed += ["method=sft", "lr=1e-4", "seed=0", "score_at=null", "limit=2"]
        typed += ["dataset.train_rows=8", "trainer.max_steps=2"]
    else:
        typed += ["method=sft,talr", "workers=4"]

    def work() -> dict[str, Any]:
        finish(start(*typed))
        return {"scored": len(list(runs.rglob("results.json")))}

    lines.measure("sweep", work)

    def scores() -> dict[str, Any]:
        return {
            file.parent.name: (
                one["general"]["score"],
                (one["domain"] or {}).get("score"),
                (one["training"] or {}).get("seconds"),
            )
            for file in sorted(runs.rglob("results.json"))
            for one in [json.loads(file.read_text(encoding="utf-8"))]
        }

    lines.measure("general score, domain score, seconds of training", scores)


def vllm(options: Options, lines: Lines) -> None:
    """Score with answers by vLLM instead of our loop, if an interpreter with vLLM is found."""
    from talr_cli.config import composition
    from talr_cli.errors import UserError
    from talr_cli.evaluation.vllm import find_vllm

    try:
        found = find_vllm(composition.load("train", ["model=tiny"]).suite)
    except UserError as error:
        print(f"vllm is left out: {error}", flush=True)  # no line: later it may be there
        return
    lines.measure("version", lambda: {"vllm": found.version})
    runs = Path(tempfile.mkdtemp())
    common = [*_model(options), f"runs_dir={runs}", f"device={options.device}", "logger=none"]
    for backend in ("hf", "vllm"):

        def score(backend: str = backend) -> dict[str, Any]:
            finish(start("eval", *common, f"study={backend}", f"suite.backend={backend}"))
            result = json.loads(next((runs / backend).rglob("results.json")).read_text())
            return {"general": result["general"]["score"], "seconds": result["general"]["seconds"]}

        lines.measure(f"suite.backend={backend}", score)


def _model(options: Options) -> list[str]:
    if options.model is None:
        folder = options.work / "model"
        if not (folder / "tokenizer.json").exists():
            saved_model(folder)
        return [f"model.path={folder}", "model.name=random"]
    if Path(options.model).is_dir():
        return [f"model.path={options.model}", f"model.name={Path(options.model).name}"]
    return [f"model={options.model}"]
