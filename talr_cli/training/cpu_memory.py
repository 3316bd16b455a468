"""Lowers the peak memory of a training in a single CPU process.

On a CPU, freed memory stays with the process, as holes between the tensors that live on. So the
peak depends on the order in which tensors are allocated, not only on how many are alive at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def lower_peak(model: PreTrainedModel, optimizer: Any) -> None:
    """To be called before the first step; `set_sparse_embedding` undoes it.

    Args:
        optimizer: accelerate's wrapper of the optimizer.
    """
    set_sparse_embedding(model, sparse=True)
    # Parts that a text batch does not reach, such as a vision tower, need no state.
    if model.config.get_text_config() is model.config:
        allocate_state(optimizer.optimizer)


def set_sparse_embedding(model: PreTrainedModel, sparse: bool) -> None:
    """Let an embedding that is tied to the head have a sparse gradient, for the tokens read only.

    Added to the head's dense gradient it gives the same sum. With a dense one there would be three
    gradients of that size at the end of the backward pass, one of them nearly all zeros.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, nn.Embedding) and head is not None:
        embedding.sparse = sparse and embedding.weight is head.weight


def allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Allocate AdamW's state before the first step instead of in it.

    Allocated then, the state would lie among that step's gradients, which leave holes when freed.
    """
    if type(optimizer) is not torch.optim.AdamW or optimizer.state:
        return
    for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
        state: dict[str, Any] = {"step": torch.zeros((), device=weight.device)}
        state |= {mean: torch.zeros_like(weight) for mean in ("exp_avg", "exp_avg_sq")}
        optimizer.state[weight] = state
