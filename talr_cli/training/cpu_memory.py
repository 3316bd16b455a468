"""Lowers the peak memory of a training in one process on a CPU, by when tensors are made.

On a CPU freed memory stays with the process, in holes between the tensors that live on. So the peak
depends on when tensors are made and how large they are, not only on how many live at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def lower_peak(model: PreTrainedModel, optimizer: Any) -> None:
    """Before the first step, with accelerate's optimizer; `set_sparse` undoes what is done here."""
    set_sparse(model, sparse=True)
    # What a text batch does not reach, such as a vision tower, gets no gradient and no state.
    if model.config.get_text_config() is model.config:
        make_state(optimizer.optimizer)


def set_sparse(model: PreTrainedModel, sparse: bool) -> None:
    """Let an embedding that is also the head have a sparse gradient: of the tokens it read alone.

    Added to the head's dense gradient it gives the same sum. A dense one would make three gradients
    of that size at the end of the backward pass, one of them nearly all zeros.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, nn.Embedding) and head is not None:
        embedding.sparse = sparse and embedding.weight is head.weight


def make_state(optimizer: torch.optim.Optimizer) -> None:
    """Make AdamW's state before its first step, in which it would make it itself.

    Made then, among the gradients of that step, it would leave holes where they were.
    """
    if type(optimizer) is not torch.optim.AdamW or optimizer.state:
        return
    for one in (one for group in optimizer.param_groups for one in group["params"]):
        state: dict[str, Any] = {"step": torch.zeros((), device=one.device)}
        state |= {mean: torch.zeros_like(one) for mean in ("exp_avg", "exp_avg_sq")}
        optimizer.state[one] = state
