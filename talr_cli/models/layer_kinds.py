"""Which kind of attention each layer of a model has, by its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The names of attention layers in configs, and parts of the names of values about recurrent layers.
ATTENTION = ("full_attention", "sliding_attention", "chunked_attention", "attention")
_STATES = (
    "mamba",
    "ssm",
    "state_size",
    "chunkwise",
    "rwkv",
    "lru_width",
    "hybrid_override_pattern",
)


@dataclass(frozen=True)
class LinearAttention:
    """Layers whose heads keep a state instead of the keys and values of all tokens.

    Attributes:
        layers: The number of such layers.
        keys: The width of the keys of all heads together, which is also that of the queries.
        values: The width of the values of all heads together.
    """

    layers: int
    keys: int
    values: int


def layer_kinds(text: Mapping[str, Any], layers: int) -> list[str] | None:
    """The kind of attention of each layer; None if some kind is not known here."""
    kinds = list(text.get("layer_types") or [])
    if not {*kinds} <= {*ATTENTION, "linear_attention", "conv"}:
        return None
    # A config that lists only attention layers may still have values about recurrent ones.
    all_attend = bool(kinds) and {*kinds} <= {*ATTENTION}
    if not all_attend and any(part in name for name in text for part in _STATES):
        return None
    if kinds:
        return kinds
    most, every = "full_attention", layers + 1
    if first_number(text, "linear_num_value_heads"):
        most, every = "linear_attention", first_number(text, "full_attention_interval") or 4
    elif text.get("sliding_window") and text.get("use_sliding_window") is not False:
        most = "sliding_attention"
        every = (
            first_number(text, "sliding_window_pattern", "_sliding_window_pattern") or layers + 1
        )
    return ["full_attention" if not one % every else most for one in range(1, layers + 1)]


def linear_attention(
    text: Mapping[str, Any], kinds: Sequence[str] | None
) -> LinearAttention | None:
    keys, values = (
        (first_number(text, f"linear_num_{one}_heads") or 0)
        * (first_number(text, f"linear_{one}_head_dim") or 0)
        for one in ("key", "value")
    )
    count = 0 if kinds is None else list(kinds).count("linear_attention")
    return LinearAttention(count, keys, values) if count and values else None


def first_number(settings: Mapping[str, Any], *names: str) -> int | None:
    found = (settings.get(name) for name in names)
    return next((one for one in found if isinstance(one, int) and one > 0), None)
