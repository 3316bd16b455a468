"""Muon for the hidden matrices and AdamW for all other weights, as one optimizer.

torch has both, but transformers' Trainer takes a single optimizer.
"""

from __future__ import annotations

from typing import Any

import torch

from talr_cli.models.head import causal_lm


class MuonAndAdamW(torch.optim.Optimizer):
    """Holds the state and parameter groups of both, so that a checkpoint stores them as one."""

    def __init__(
        self,
        model: torch.nn.Module,
        lr: float,
        weight_decay: float,
        momentum: float,
        betas: tuple[float, float],
    ) -> None:
        """Takes the trained weights of `model`, which may have adapters; vectors do not decay."""
        plain = causal_lm(model)
        ends = (plain.get_input_embeddings(), plain.get_output_embeddings())
        outer = {id(p) for end in ends if end is not None for p in end.parameters()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        hidden = [p for p in trained if p.dim() == 2 and id(p) not in outer]
        matrices = [p for p in trained if p.dim() > 2 or id(p) in outer]
        vectors = [p for p in trained if p.dim() < 2 and id(p) not in outer]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        groups: list[dict[str, Any]] = []
        if hidden:
            self._parts["muon"] = torch.optim.Muon(
                hidden,
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        others = [
            {"params": weights, "weight_decay": decay}
            for weights, decay in ((matrices, weight_decay), (vectors, 0.0))
            if weights
        ]
        if others:
            self._parts["adamw"] = torch.optim.AdamW(others, lr=lr, betas=betas, fused=True)
        for kind, part in self._parts.items():
            groups += [{**group, "kind": kind} for group in part.param_groups]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for kind, part in self._parts.items():
            # Loading a checkpoint replaces groups and state, so they are passed on in every step.
            part.param_groups = [group for group in self.param_groups if group["kind"] == kind]
            part.state = self.state
            part.step()
