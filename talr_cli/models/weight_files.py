"""Which files of a folder hold a model's weights: those that transformers loads, and no others.

Folders hold more: copies in another layout (`consolidated.safetensors`), shards of an earlier save.
"""

from __future__ import annotations

import json
from pathlib import Path

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
_KINDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def weight_files(folder: Path) -> list[Path]:
    """In the order in which they are read: of a name that stands in two of them the last counts.

    There are none where the folder's files have other names.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def files_of_tensors(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that it is read from."""
    from safetensors import safe_open

    names: dict[str, Path] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as content:
            names |= dict.fromkeys(content.keys(), file)
    return names


def stored_kind(folder: Path) -> str:
    """Torch's name for what the first weights are stored in, as transformers chooses by it."""
    from safetensors import safe_open

    for file in weight_files(folder):
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118 (not a mapping)
                kind = content.get_slice(name).get_dtype()
                if kind in _KINDS:
                    return _KINDS[kind]
    return "float32"
