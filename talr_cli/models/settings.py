"""The values in a model's config that training changes, and how to restore them.

TRL and transformers switch off the cache, write the tokenizer's special tokens into the configs,
and for mixture-of-experts models switch on the router's auxiliary loss. The same configs are later
saved and used for answers; Youtu even loses the embedding of the token that its config calls pad.

talr does not add the auxiliary loss: it depends on how a batch is divided, and pulls a finished
model's router towards equal use of the experts, which none of the methods intends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CHANGED = (
    "output_router_logits",
    "router_aux_loss_coef",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def loaded_settings(model: Any) -> list[dict[str, Any]]:
    """The values that training would change, as they are now."""
    return [
        {name: vars(part)[name] for name in _CHANGED if name in vars(part)}
        for part in _parts(model)
    ]


def restore_settings(model: Any, settings: Sequence[Mapping[str, Any]]) -> None:
    """Restore the values that `loaded_settings` returned, and delete those that were not there."""
    for part, values in zip(_parts(model), settings, strict=True):
        for name in _CHANGED:
            vars(part).pop(name, None)
        vars(part).update(values)


def _parts(model: Any) -> tuple[Any, ...]:
    return model.config, model.config.get_text_config(), model.generation_config


def without_router_loss(model: Any) -> Any:
    """Switch off the router's auxiliary loss, which no logit depends on; returns the model."""
    text = model.config.get_text_config()
    if hasattr(text, "output_router_logits"):
        text.output_router_logits = False
    return model
