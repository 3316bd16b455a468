"""A base under an adapter: its weights are not trained, so they need not be held in fp32.

Knows in how few bytes they may lie and what is then computed; does not know adapters.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError, install
from talr_cli.models.config import ModelConfig
from talr_cli.models.loading import load_model
from talr_cli.models.sources import ModelSource

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def check_base_dtype(base_dtype: str, sharded: bool) -> None:
    """Refuse nf4 where it cannot be had.

    Raises:
        UserError: With what to type instead.
    """
    if base_dtype != "nf4":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"adapter.base_dtype=nf4 needs bitsandbytes: {install('bnb')}")
    if sharded:
        raise UserError(
            "adapter.base_dtype=nf4 does not go with distributed=fsdp2: use distributed=ddp, or "
            "leave adapter.base_dtype out"
        )


def load_frozen(
    source: ModelSource,
    config: ModelConfig,
    base_dtype: str,
    half: torch.dtype | None,
    device: str,
) -> PreTrainedModel:
    """The model as it lies under an adapter.

    `auto` holds linear layers, and a mixture's experts, in the dtype that autocast would round them
    to at every use. All else (embedding, norms) is fp32 as in full fine-tuning. So the numbers are
    those of fp32 weights. The model is read in fp32 on the CPU first, since one that is made in
    bf16 has rounded constants, such as Gemma's scale of the embedding.

    Args:
        base_dtype: auto, float32 or nf4.
        half: What is computed in under autocast; None: fp32, and then `auto` holds fp32 as well.
    """
    import torch

    if base_dtype == "nf4":
        from transformers import BitsAndBytesConfig

        four_bit = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=half or torch.float32,
        )
        return rounded(load_model(source, config, torch.float32, device, four_bit), half)
    if half is None or base_dtype == "float32":
        return load_model(source, config, torch.float32, device)
    return rounded(load_model(source, config, torch.float32, "cpu"), half).to(device)


def rounded(model: Any, half: torch.dtype | None) -> Any:
    """The model with linear layers and experts in `half`, in which autocast computes them."""
    import torch

    tied = model.get_input_embeddings().weight
    for module in model.modules():
        linear = isinstance(module, torch.nn.Linear)
        for parameter in module.parameters(recurse=False):
            # Stacks of experts' matrices have three dimensions; 4-bit weights are whole numbers.
            rounds = (linear or parameter.dim() == 3) and parameter.is_floating_point()
            if rounds and parameter is not tied:
                parameter.data = parameter.data.to(half)
    return model


def is_whole(model: Any) -> bool:
    """Whether all weights are fp32, so that an adapter can be merged into them as they are."""
    import torch

    return all(parameter.dtype == torch.float32 for parameter in model.parameters())
