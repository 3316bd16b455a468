"""What training changes in the config of a model, and how that is undone.

TRL and transformers switch off the cache, and for mixture-of-experts models switch on the router's
auxiliary loss, in the config which answers are then computed with and which is saved.

talr adds no auxiliary loss: it depends on how a batch is cut up, and pulls a finished model's
router towards equal use of the experts, which none of the methods asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CHANGED = ("output_router_logits", "router_aux_loss_coef", "use_cache")


def loaded_settings(model: Any) -> dict[str, Any]:
    """What training would change."""
    text = model.config.get_text_config()
    return {name: getattr(text, name) for name in _CHANGED if hasattr(text, name)}


def restore(model: Any, settings: Mapping[str, Any]) -> None:
    """Write `loaded_settings` back."""
    text = model.config.get_text_config()
    for name, value in settings.items():
        setattr(text, name, value)


def without_router_loss(model: Any) -> Any:
    """The model, which no longer computes its router's loss; no logit depends on it."""
    text = model.config.get_text_config()
    if hasattr(text, "output_router_logits"):
        text.output_router_logits = False
    return model
