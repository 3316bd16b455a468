"""Checks on a GPU what tests on a CPU cannot: numbers, speed, memory, resuming, a small study.

    python scripts/gpu_check.py                         # all of it, in eight minutes
    python scripts/gpu_check.py --only numerics,steps   # reference comes with numerics
    python scripts/gpu_check.py --small --device cpu    # does the script itself run
    python scripts/gpu_check.py --page                  # the tables of what is there so far

Each section is a process of its own with a time limit. Each measurement is written at once as a
line of JSON to OUT/lines.jsonl; what the programs print goes to OUT/log.txt, the tables of
docs/gpu.md to OUT/page.md. The same command with the same OUT goes on where it ended; only
lines.jsonl is needed for that, also in a new folder or on another machine. No file and no network
is needed: models and rows are random, unless --model names a real one for the study. To keep OUT
small, --work=/tmp/check takes all other files.
"""

import argparse
import importlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu.measuring import AGAIN, Lines, Options
from gpu.page import page


@dataclass(frozen=True)
class Section:
    """A section: where its function is, and its limits in seconds.

    Attributes:
        place: MODULE:FUNCTION, in scripts/gpu.
        most: The most that it may take.
        least: With less time left it is not started.
        each: After so long without a measurement it is taken to hang, and killed.
    """

    place: str
    most: float
    least: float
    each: float


# First come those with a bar to meet: numbers, the same bits after a kill, the time of steps.
SECTIONS = {
    "env": Section("machine:run", 100, 15, 40),
    "reference": Section("numerics:reference", 60, 20, 40),
    "numerics": Section("numerics:run", 100, 30, 50),
    "resume": Section("programs:resume", 80, 40, 80),
    "steps": Section("steps:run", 230, 40, 90),
    "generate": Section("answering:run", 110, 40, 90),
    "study": Section("programs:study", 150, 60, 150),
    "vllm": Section("programs:vllm", 200, 60, 200),
}
NEEDS = {"numerics": "reference"}
ATTEMPTS = 6  # a process that dies or hangs is started again, after the measurement it was at
HANGS = 124  # instead of an exit code
NO_GPU = 76  # exit code of a section that finds no GPU to measure
# Seconds more for what a process prints first: imports, perhaps from a cold disk.
STARTING = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-check")))
    parser.add_argument("--work", type=Path, help="for all files but these; OUT/work")
    parser.add_argument("--budget", type=float, default=470, help="seconds in all")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes, no limit for a section")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    parser.add_argument("--methods", default="", help="of reference, numerics and steps; all")
    parser.add_argument("--model", help="of study and vllm: a checkpoint, or a model config's name")
    parser.add_argument("--page", action="store_true", help="measure nothing: print the tables")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.work = given.work or given.out / "work"
    given.out.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    if given.section:
        run(given)
        return 0
    if given.page:
        print(write_page(given.out))
        return 0
    wanted = given.only.split(",")
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        parser.error(f"--only={unknown[0]}: the sections are {', '.join(SECTIONS)}")
    wanted += [NEEDS[name] for name in wanted if name in NEEDS]
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, too
    try:
        for name, section in SECTIONS.items():
            if name in wanted:
                if begin(name, section, given, started + given.budget) == NO_GPU:
                    return 2
                write_page(given.out)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here")
        return 130
    finally:
        write_page(given.out)
    show(given.out, time.monotonic() - started)
    return int(any(is_bad(line) for line in lines_in(given.out)))


def write_page(out: Path) -> str:
    """Write page.md, the tables of what has been measured so far; its text."""
    text = page(lines_in(out), list(SECTIONS))
    (out / "page.md").write_text(text + "\n", encoding="utf-8")
    return text


def lines_in(out: Path) -> list[dict[str, Any]]:
    """All measurements so far."""
    return Lines(out, out, "").read()


def is_bad(line: dict[str, Any]) -> bool:
    """Whether a measurement failed, or is not what it should be."""
    wrong = line.get("verdict") == "OFF"
    wrong |= line.get("same_bits") is False and line.get("deterministic", True)
    return bool(wrong) or "error" in line or "refused" in line


def run(given: argparse.Namespace) -> None:
    """Run a section in this process."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="disabled")
    if given.model is None:  # else the model may lie in the cache
        os.environ.setdefault("TALR_CACHE", tempfile.mkdtemp())
    module, function = SECTIONS[given.section].place.split(":")
    if given.device == "cuda" and module != "programs":  # which import no torch of their own
        require_gpu()
    methods = tuple(filter(None, given.methods.split(",")))
    options = Options(given.work.resolve(), given.device, given.small, methods, given.model)
    work = getattr(importlib.import_module(f"gpu.{module}"), function)
    work(options, Lines(given.out, given.work, given.section))


def require_gpu() -> None:
    """End this process if torch can use no GPU: each measurement would fail for the same reason."""
    import torch

    if not torch.cuda.is_available():
        reason = "it sees none"
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            reason = str(error)
        print(f"torch {torch.__version__} can use no GPU: {reason}", flush=True)
        sys.exit(NO_GPU)


def begin(name: str, section: Section, given: argparse.Namespace, deadline: float) -> int | None:
    """Run a section in another process, again if that dies; not if it was completed before.

    Returns:
        The exit code of the last process; None if it was stopped at its limit, or none was started.
    """
    asked = f"{given.device} {given.small} {given.methods} {given.model}"
    lines = Lines(given.out, given.work, name)
    needed_by = next((one for one, needed in NEEDS.items() if needed == name), name)
    # Starting a process only to find this out would take seconds.
    if Lines(given.out, given.work, needed_by).ended(asked):
        print(f"== {name}: measured before", flush=True)
        return None
    in_vain = 0
    for _ in range(ATTEMPTS):
        left = deadline - time.monotonic()
        if left < section.least and not given.small:
            print(f"== {name}: left out, {left:.0f} s are left", flush=True)
            return None
        limit = left if given.small else min(left, section.most)
        print(f"== {name}: at most {limit:.0f} s", flush=True)
        lines.start()
        with (given.out / "log.txt").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                command(name),
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            code = watch(process, limit, limit if given.small else section.each)
        if code == 0 and any(line["section"] == name for line in lines.read()):
            lines.end(asked)
        if code in (0, None, NO_GPU):
            return code
        if code != AGAIN:
            hung = f"measured nothing for {section.each:.0f} s"
            in_vain += not lines.died(hung if code == HANGS else f"died: exit {code}")
        if in_vain == 2:  # as of an import that fails: it will again
            break
    print(f"== {name}: given up, see log.txt", flush=True)
    return code


def command(section: str) -> list[str]:
    """The command line of a section's process."""
    return [sys.executable, "-u", __file__, *sys.argv[1:], "--section", section]


def watch(process: subprocess.Popen[bytes], limit: float, each: float) -> int | None:
    """Print what the process prints; its exit code, None if it was stopped at the limit.

    HANGS if it has printed nothing for `each` seconds, and STARTING more at first.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + limit
    said = time.monotonic() + STARTING
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if not selector.select(timeout=min(1.0, each)):
                    if time.monotonic() - said > each:
                        print(f"   nothing for {each:.0f} s: ended", flush=True)
                        return HANGS
                    continue
                # Not readline(), which waits for the end of a line that has only begun.
                text = os.read(process.stdout.fileno(), 2**16)
                if not text:
                    return process.wait()
                said = time.monotonic()
                print(text.decode(errors="replace"), end="", flush=True)
    finally:  # at its limit, and where we are interrupted
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            with suppress(subprocess.TimeoutExpired):  # a driver that hangs keeps it
                process.wait(timeout=10)
    print("   stopped at its limit", flush=True)
    return None


def show(out: Path, seconds: float) -> None:
    """Print all measurements as a table."""
    print(f"\n{'section':10} {'what':44} found   ({seconds:.0f} s in all)")
    for line in lines_in(out):
        values = {k: v for k, v in line.items() if k not in ("section", "name", "where", "took")}
        found = "; ".join(f"{key} {value}" for key, value in values.items())
        print(f"{line['section']:10} {line['name'][:44]:44} {found[:400]}")


if __name__ == "__main__":
    sys.exit(main())
