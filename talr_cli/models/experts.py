"""Mixture-of-experts models: what their config says about the router's auxiliary loss.

talr adds no such loss: it depends on how a batch is cut up, and pulls a finished model's router
towards equal use of the experts, which none of the methods asks for. TRL switches it on in the
config of the model, which answers are then computed with and which is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROUTER = ("output_router_logits", "router_aux_loss_coef")


def router_settings(model: Any) -> dict[str, Any]:
    """What the config says; empty for a model without experts."""
    text = model.config.get_text_config()
    return {name: getattr(text, name) for name in _ROUTER if hasattr(text, name)}


def set_router(model: Any, settings: Mapping[str, Any], outputs: bool | None = None) -> None:
    """Write `router_settings` back, or with `outputs` for whether the router's are computed."""
    text = model.config.get_text_config()
    for name, value in settings.items():
        is_outputs = outputs is not None and name == "output_router_logits"
        setattr(text, name, outputs if is_outputs else value)
