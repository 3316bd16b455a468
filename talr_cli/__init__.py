"""talr: fine-tune on a domain, measure what was forgotten, ship the best trade-off."""

import os
import sys

__version__ = "0.1.0"

if os.name != "posix":  # locks, signals and file modes are those of Unix
    print("talr runs on Linux and macOS; on Windows install it in WSL", file=sys.stderr)
    raise SystemExit(2)

# torch reads it once, before a process's first matrix product on a GPU. Without it, such products
# are errors under deterministic algorithms (training/determinism.py).
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# `python -m talr_cli.cli`, as jobs and ranks are started, looks in the current folder first, where
# a random.py of the user's would be taken for Python's. Under `talr` it is not, so it is looked in
# last. argv[0] is "-m" for as long as Python looks for the module that it is to run.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))
