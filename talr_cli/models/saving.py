"""Saves a model: in a dtype, atomically, and with the tokens that end an answer.

A model is scored after it has been loaded from what was saved, so that the score is that of the
saved model.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli.errors import DivergedError
from talr_cli.runs.atomic import atomic_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def cast_weights(model: Any, dtype: torch.dtype) -> Any:
    """Give weights and buffers, in place, the dtypes that a model loaded in `dtype` has.

    Rotary frequencies, and the routers of some experts, are always in fp32. Rounded ones would give
    other answers, and so would buffers that are not rounded as those of the loaded model.
    """
    import torch

    kept = {name for name, to in model._get_dtype_plan(dtype).items() if to == torch.float32}
    with torch.device("meta"):
        loaded = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    dtypes = {name: one.dtype for name, one in _tensors(loaded)}
    for name, tensor in _tensors(model):
        if tensor.is_floating_point() and not any(part in name for part in kept):
            tensor.data = tensor.data.to(dtypes.get(name, dtype))
    model.config.dtype = dtype
    return model


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def weight_not_finite(model: Any) -> str | None:
    """The name of a weight that holds a NaN or an infinite number; None if there is none."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.element_size() > 1 and weight.numel():
            # Either is NaN if any number is. `isfinite` takes memory and twenty times as long.
            least, greatest = weight.detach().aminmax()
            if not (math.isfinite(least) and math.isfinite(greatest)):
                return str(name)
    return None


# Files about the preprocessing of images, which transformers keeps beside the tokenizer.
_PROCESSOR = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    end_of_turn: int,
    folder: Path,
    base: Path | None = None,
) -> None:
    """Write a checkpoint, which appears only when it is complete.

    Its generation config ends answers at `end_of_turn`, the token that was trained to end a turn,
    and at the model's own end tokens, so that other programs stop where talr does.

    Args:
        base: The folder of the base, from which files about images are copied.

    Raises:
        DivergedError: A weight is not finite.
    """
    from transformers import GenerationConfig

    if (name := weight_not_finite(model)) is not None:
        raise DivergedError(f"{name} holds a number that is not finite after the last step")
    own: Any = model.generation_config
    own.eos_token_id = end_tokens(model, end_of_turn)
    with atomic_folder(folder) as building:
        # Many models are published with settings (such as a temperature without do_sample) that
        # transformers reads but refuses to save once anything in them has changed.
        model.generation_config = GenerationConfig()
        try:
            model.save_pretrained(building)
        finally:
            model.generation_config = own
        own.to_json_file(building / "generation_config.json", keys_to_pop=["compile_config"])
        tokenizer.save_pretrained(building)
        if base is not None and model.config.get_text_config() is not model.config:
            for name in _PROCESSOR:
                if (base / name).is_file():
                    shutil.copyfile(base / name, building / name)


def end_tokens(model: Any, end_of_turn: int) -> list[int]:
    """The model's own end tokens and the one that was trained to end a turn."""
    own = model.generation_config.eos_token_id
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return [*own, *({end_of_turn} - set(own))]
