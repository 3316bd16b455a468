"""Recognises models in formats that talr does not read, and says what to do instead.

No file is opened, as pickles run code; file names are enough.
"""

from __future__ import annotations

import re
from pathlib import Path

_PLAIN = "AutoModelForCausalLM.from_pretrained(...).save_pretrained(FOLDER)"
_SHARDS = (
    "shards of torch.distributed (FSDP)",
    "`accelerate merge-weights` makes safetensors of them",
)
# (pattern of files in a folder, what they are, how to make a checkpoint of them).
_FORMS = (
    ("*.gguf", "a GGUF file", "give the model that it was made of"),
    ("*.distcp", *_SHARDS),
    ("*/*.distcp", *_SHARDS),
    (
        "*/*_model_states.pt",
        "shards of DeepSpeed",
        "their zero_to_fp32.py, with --safe_serialization, makes safetensors of them",
    ),
    (
        "*_model*.bin",
        "weights as a pickle, which is not opened, as it may run code",
        f"where you trust it, {_PLAIN} makes safetensors of it",
    ),
    ("checkpoint-*/config.json", "checkpoints of a training", "give one of them: {found}"),
    ("checkpoint-*/adapter_config.json", "adapters of a training", "give one of them: {found}"),
    ("*/config.json", "models in folders of it", "give one of them: {found}"),
)


def why_no_checkpoint(folder: Path) -> str | None:
    """Why a folder is not a checkpoint or adapter in safetensors, in one line; None if it is."""
    settings = ("config.json", "adapter_config.json")
    if any((folder / name).is_file() for name in settings):
        if any(folder.glob("*.safetensors")):
            return None
        lacks = f"{folder} holds no *.safetensors"
        way_out = f": save it with save_pretrained first ({_PLAIN})"
    else:
        lacks = f"{folder} holds no {' or '.join(settings)}: not a Hugging Face checkpoint"
        way_out = ""
    for pattern, what, remedy in _FORMS:
        found = next(iter(sorted(folder.glob(pattern))), None)
        if found is not None:
            return f"{lacks}, but {what}: {remedy.format(found=found.parent)}"
    return lacks + way_out


def instead_of_file(path: Path) -> str:
    """How a message goes on about a path that is no folder; empty if there is no file either."""
    if not path.is_file():
        return ""
    if path.suffix == ".gguf":
        return ": GGUF files are not opened; give the folder of the model that it was made of"
    return f": give the folder that holds it, {path.parent}"


def suggest_hub_id(path: str) -> str | None:
    """What to type for a model that is given by its address on the hub; None for a plain id."""
    named = re.fullmatch(
        r"(?:(?:https?://)?(?:huggingface\.co|hf\.co)/)?([\w.-]+/[\w.-]+)"
        r"(?:(?:@|/(?:tree|blob|resolve)/)([\w.-]+).*)?/*",
        path,
    )
    if named is None or named[1] == path:
        return None
    return f"model.path={named[1]}" + (f" model.revision={named[2]}" if named[2] else "")
