"""Loads a base for an adapter: its weights are frozen, so they need not be in fp32.

Knows which dtypes they may have without changing the results; does not know adapters.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError, install_command
from talr_cli.models.config import ModelConfig
from talr_cli.models.loading import load_model
from talr_cli.models.sources import ModelSource

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def check_base_dtype(base_dtype: str, sharded: bool) -> None:
    """Refuse nf4 without bitsandbytes or with FSDP2.

    Raises:
        UserError: Says what to install or to type instead.
    """
    if base_dtype != "nf4":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"adapter.base_dtype=nf4 needs bitsandbytes: {install_command('bnb')}")
    if sharded:
        raise UserError(
            "adapter.base_dtype=nf4 does not go with distributed=fsdp2: use distributed=ddp, or "
            "leave adapter.base_dtype out"
        )


def load_frozen(
    source: ModelSource,
    config: ModelConfig,
    base_dtype: str,
    autocast_dtype: torch.dtype | None,
    device: str,
) -> PreTrainedModel:
    """Load the model that an adapter will be put on.

    With `auto`, linear layers and experts have the dtype to which autocast would round them anyway,
    and all other weights (embedding, norms) are in fp32 as in full fine-tuning. So the results are
    those of fp32 weights. The model is loaded in fp32 on the CPU first, since a model created in
    bf16 has rounded constants, such as Gemma's scale of the embedding.

    Args:
        base_dtype: auto, float32 or nf4.
        autocast_dtype: The dtype under autocast; None: no autocast, and `auto` means float32.
    """
    import torch

    if base_dtype == "nf4":
        from transformers import BitsAndBytesConfig

        four_bit = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=autocast_dtype or torch.float32,
        )
        model: Any = load_model(source, config, torch.float32, device, four_bit)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # On such CPUs bitsandbytes 0.50 repacks weights that are read in eval mode, for a
                # kernel in bf16 through which no gradient goes back.
                module.support_avx512bf16_for_cpu = False
        return round_layers(model, autocast_dtype)
    if autocast_dtype is None or base_dtype == "float32":
        return load_model(source, config, torch.float32, device)
    return round_layers(load_model(source, config, torch.float32, "cpu"), autocast_dtype).to(device)


def round_layers(model: Any, autocast_dtype: torch.dtype | None) -> Any:
    """Cast linear layers and experts to `autocast_dtype`, in which autocast computes them."""
    import torch

    tied = model.get_input_embeddings().weight
    for module in model.modules():
        linear = isinstance(module, torch.nn.Linear)
        for parameter in module.parameters(recurse=False):
            # The stacked matrices of experts have three dimensions; 4-bit weights are integers.
            rounds = (linear or parameter.dim() == 3) and parameter.is_floating_point()
            if rounds and parameter is not tied:
                parameter.data = parameter.data.to(autocast_dtype)
    return model


def is_fp32(model: Any) -> bool:
    """Whether all weights are in fp32, so that an adapter can be merged into them directly."""
    import torch

    return all(parameter.dtype == torch.float32 for parameter in model.parameters())
