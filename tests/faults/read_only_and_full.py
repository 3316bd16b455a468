"""Commands on disks that are read-only or full, in a namespace in which they can be mounted.

Run in an empty folder; prints a JSON list of {name, code, lines, last, left}.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from bad_inputs import EVAL, TINY
from in_process import talr_here

LEFT = ("*.tmp", ".building-*", "checkpoints", "traceback.txt")
HERE = Path.cwd()
found = []


def mount(*words):
    subprocess.run(["mount", *words], check=True)


def attempt(name, *words, left=None):
    code, said = talr_here(*words, cwd=HERE)
    lines = [line for line in said.splitlines() if line.strip()]
    over = [] if left is None else [str(one) for how in LEFT for one in left.rglob(how)]
    trace = "Traceback" in said
    found.append({"name": name, "code": code, "last": lines[-1], "trace": trace, "left": over})


def train(runs_dir, *more):
    return ("train", *TINY, f"runs_dir={runs_dir}", *more)


def read_only():
    """A study that is whole and cannot be written."""
    disk = HERE / "fixed"
    disk.mkdir()
    mount("-t", "tmpfs", "tmpfs", str(disk))
    for words in (train(disk), train(disk, "lr=1e-3"), ("eval", *EVAL, f"runs_dir={disk}")):
        attempt("made", *words)
    one, other = sorted(path.parent for path in disk.glob("*/*/sft-*/results.json"))
    mount("-o", "remount,ro", str(disk))
    attempt("read: recommend", "recommend", f"runs_dir={disk}")
    attempt("read: compare", "compare", str(one), str(other))
    attempt("read: eval", "eval", *EVAL, f"runs_dir={disk}")
    attempt("read: eval of a run", "eval", *EVAL, f"runs_dir={disk}", f"ckpt={one}")
    attempt("read: export", "export", f"run={one}", "out=exported")
    attempt("read: dry run", "sweep", *TINY, f"runs_dir={disk}", "lr=1e-5,1e-3", "--dry-run")
    attempt("refused: train", *train(disk, "lr=2e-3"))
    attempt("refused: report", "report", f"runs_dir={disk}")
    attempt("refused: analyze", "analyze", "model=tiny", "rows=2", f"runs_dir={disk}")
    attempt("refused: export", "export", f"run={one}", f"out={disk}/new")
    attempt("refused: flips", "compare", str(one), str(other), f"flips={disk}/flips")
    attempt("refused: flips is a folder", "compare", str(one), str(other), f"flips={HERE}")
    return one


def full(run):
    """Disks that become full in each phase of a run; with room the same command ends well."""
    disk = HERE / "small"
    disk.mkdir()
    for size in ("16k", "200k", "3m", "40m"):
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk))
        if size != "40m":
            attempt(f"refused: full at {size}", *train(disk))
        mount("-o", "remount,size=200m", str(disk))
        attempt(f"healed: full at {size}", *train(disk), left=disk)
        gc.collect()  # of the model that was scored, whose file is mapped
        subprocess.run(["umount", str(disk)], check=True)
    mount("-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk))
    attempt("refused: full export", "export", f"run={run}", f"out={disk}/new", left=disk)


def cache():
    """Caches that cannot be written."""
    (HERE / "a_file").write_text("mine")
    for name, place in {"a file": HERE / "a_file", "of the kernel": Path("/proc/none")}.items():
        os.environ["TALR_CACHE"] = str(place)
        attempt(f"refused: cache is {name}", *train(HERE / "runs"))


full(read_only())
cache()
json.dump(found, sys.stdout)
