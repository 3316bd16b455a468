"""Reads FSDP2's checkpoints as data.

torch saves what is no tensor as pickles, and the list of what there is as another (`.metadata`). A
pickle can name any function, which is then called: nothing but what torch writes may be named.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import patch_environment
from torch.distributed.checkpoint.api import CheckpointException

from talr_cli.errors import UserError

ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # an environment variable that torch.load reads
_NAMES = {
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # in Python 3.13
    "torch": {"Size", *(name for name, one in vars(torch).items() if isinstance(one, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex"),
        *("StorageMeta", "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
}


@contextmanager
def read_as_data(checkpoint: Path | None) -> Iterator[None]:
    """Within this context torch unpickles nothing but tensors and plain values.

    Raises:
        UserError: The checkpoint names something else.
    """
    for file in () if checkpoint is None else checkpoint.glob("*/.metadata"):
        try:
            with file.open("rb") as opened:
                _Metadata(opened).load()
        except Exception as error:  # a damaged pickle may raise anything
            raise UserError(
                f"{file} is not what torch writes ({error}): delete {checkpoint}"
            ) from error
    try:
        with patch_environment(**{ONLY_WEIGHTS: "1"}):
            yield
    except CheckpointException as failed:
        causes = [error for error, _ in failed.failures.values()]
        if not any(isinstance(error, pickle.UnpicklingError) for error in causes):
            raise
        raise UserError(
            f"{checkpoint} holds more than tensors and plain values: delete it"
        ) from failed


class _Metadata(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _NAMES.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
