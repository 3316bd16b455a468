"""Which rows go into which split: the same for every seed and order of the file.

Knows keys and shares; does not know what a row means.
"""

from __future__ import annotations

import hashlib


def hashed_split(key: str, validation_share: float, test_share: float = 0.0) -> str:
    """`train`, `validation` or `test`, by a hash of what no two splits may share."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"
