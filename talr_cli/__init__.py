"""talr: fine-tune on a domain, measure what was forgotten, ship the best trade-off."""

import os

__version__ = "0.1.0"

# torch reads it once, before a process's first matrix product on a GPU. Without it, such products
# are errors under deterministic algorithms (training/determinism.py).
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
