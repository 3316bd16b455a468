"""The values in a model's config that training changes, and how to restore them.

TRL and transformers switch off the cache and, for mixture-of-experts models, switch on the router's
auxiliary loss. The same config is later saved and used for answers.

talr does not add the auxiliary loss: it depends on how a batch is divided, and pulls a finished
model's router towards equal use of the experts, which none of the methods intends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CHANGED = ("output_router_logits", "router_aux_loss_coef", "use_cache")


def loaded_settings(model: Any) -> dict[str, Any]:
    """The values that training would change, as they are now."""
    text = model.config.get_text_config()
    return {name: getattr(text, name) for name in _CHANGED if hasattr(text, name)}


def restore_settings(model: Any, settings: Mapping[str, Any]) -> None:
    """Restore the values that `loaded_settings` returned."""
    text = model.config.get_text_config()
    for name, value in settings.items():
        setattr(text, name, value)


def without_router_loss(model: Any) -> Any:
    """Switch off the router's auxiliary loss, which no logit depends on; returns the model."""
    text = model.config.get_text_config()
    if hasattr(text, "output_router_logits"):
        text.output_router_logits = False
    return model
