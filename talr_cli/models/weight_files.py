"""Which files of a folder have a model's weights: exactly those that transformers loads.

A folder may have more, such as a copy in another layout (`consolidated.safetensors`) or shards of
an earlier save.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.runs.atomic import NEW_COPY, read_json_object

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
Tensor = tuple[tuple[int, ...], int]  # (its shape, the bytes of each number as stored)

_LONGEST_HEADER = 10**8  # bytes, the limit of safetensors
_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_KINDS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def weight_files(folder: Path) -> list[Path]:
    """The files in the order in which they are read; of tensors with the same name the last counts.

    Empty if the folder's files have other names.

    Raises:
        UserError: The index of several files is damaged, or the folder names other files.
    """
    settings = folder / "config.json"
    if settings.is_file() and read_json_object(settings, NEW_COPY).get("transformers_weights"):
        raise UserError(
            f"{settings} names the file of its weights by transformers_weights, which is not read "
            f"here: name that file {SINGLE} and delete the line"
        )
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    named = read_json_object(folder / INDEX, NEW_COPY).get("weight_map")
    names = list(named.values()) if isinstance(named, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder / INDEX} names no files of weights: {NEW_COPY}")
    for name in names:
        if name != Path(name).name:  # its content would not count for the model's identity
            raise UserError(
                f"{folder / INDEX} names {name}, which is no file beside it: {NEW_COPY}"
            )
    return [folder / name for name in sorted(set(names))]


def files_of_tensors(folder: Path) -> dict[str, Path]:
    """{name of a tensor: the file that it is read from}."""
    from safetensors import safe_open

    names: dict[str, Path] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as content:
            names |= dict.fromkeys(content.keys(), file)
    return names


def stored_dtype_name(folder: Path) -> str:
    """torch's name of the dtype of the first floating-point tensor, as transformers chooses it."""
    from safetensors import safe_open

    for file in weight_files(folder):
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118 (not a mapping)
                kind = content.get_slice(name).get_dtype()
                if kind in _KINDS:
                    return _KINDS[kind]
    return "float32"


def tensors_of(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, (shape, bytes per number)) of every tensor, from the headers of the files."""
    for file in weight_files(folder):
        for name, tensor in _header(file).items():
            if name != "__metadata__":
                yield name, (tuple(tensor["shape"]), _BYTES.get(tensor["dtype"], 1))


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as content:
            size = int.from_bytes(content.read(8), "little")
            if size > _LONGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(content.read(size))
        for name, tensor in header.items():
            if name != "__metadata__" and not (
                isinstance(tensor["dtype"], str)
                and all(type(one) is int and one >= 0 for one in tensor["shape"])
            ):
                raise ValueError(f"a header with another shape of {name}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): {NEW_COPY}") from error
    return header
