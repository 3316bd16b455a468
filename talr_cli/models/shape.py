"""How large a model is, from its config.json and the headers of its weight files.

Nothing is loaded: neither weights, nor torch. Knows the common decoder, with layers of attention
and an MLP (or experts, of which a token takes a few); any other config has no shape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from talr_cli.models.sources import ModelSource
from talr_cli.models.weight_files import weight_files

Tensor = tuple[tuple[int, ...], int]  # its shape, and the bytes of each number as stored

_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
# In the names of weights that come with a checkpoint and are not the language model's.
_OTHER_PARTS = ("vision", "visual", "audio", "multi_modal", "mm_", "mtp.")


@dataclass(frozen=True)
class Shape:
    """The numbers that memory and time follow from.

    Attributes:
        weights: Numbers in all; tied embedding and head count once.
        stored_bytes: Of each in the checkpoint.
        layers: Decoder layers.
        hidden: The width between them.
        heads: Of the queries.
        queries: Width of all queries together; `keys` is that of the keys, and of the values.
        inner: Width of the MLP; of experts what one token goes through.
        vocabulary: Rows of the embedding and of the head.
        normalised: Widths of one layer's norms, added up.
        projections: Inputs and outputs of one layer's matrices, added up: an adapter of rank r has
            r times as many numbers.
        matrices: How many a layer has.
        tied: Whether the head is the embedding.
    """

    weights: int
    stored_bytes: int
    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    inner: int
    vocabulary: int
    normalised: int
    projections: int
    matrices: int
    tied: bool

    @property
    def head(self) -> int:
        """Numbers of the head, and of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def multiplied(self) -> int:
        """Numbers of the layers' matrices: all but embedding and head."""
        return self.weights - self.head * (1 if self.tied else 2)


def shape_of(source: ModelSource | None) -> Shape | None:
    """The shape of a model; None where it is not here, or of another kind."""
    if source is None or not (source.directory / "config.json").is_file():
        return None
    settings = json.loads((source.directory / "config.json").read_text(encoding="utf-8"))
    return of_settings(settings.get("text_config") or settings, _of_the_language_model(source))


def of_settings(text: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Shape | None:
    """From the config of the language model, and {weight: (its shape, bytes of a number)}."""
    layers, hidden = (_number(text, *names) for names in (_LAYERS, _HIDDEN))
    heads, vocabulary = (_number(text, *names) for names in (_HEADS, ("vocab_size",)))
    if not (layers and hidden and heads and vocabulary and tensors):
        return None
    width = _number(text, "head_dim") or hidden // heads
    keys = (_number(text, "num_key_value_heads") or heads) * width
    taken = _number(text, "num_experts_per_tok")
    inner = _number(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    if taken:
        inner = taken * (_number(text, "moe_intermediate_size") or inner)
    head = next((name for name in tensors if name.endswith("lm_head.weight")), None)
    own = [name for name in tensors if ".0." in name]  # of the first layer
    norms = [name for name in own if "norm" in name and name.endswith("weight")]
    matrices = [tensors[name][0] for name in own if len(tensors[name][0]) == 2]
    wide = {"q_norm": heads * width, "k_norm": keys}
    return Shape(
        weights=sum(math.prod(shape) for shape, _ in tensors.values()),
        stored_bytes=max(each for _, each in tensors.values()),
        layers=layers,
        hidden=hidden,
        heads=heads,
        queries=heads * width,
        keys=keys,
        inner=inner,
        vocabulary=vocabulary,
        normalised=sum(wide.get(name.split(".")[-2], hidden) for name in norms) or 2 * hidden,
        projections=sum(map(sum, matrices)),
        matrices=len(matrices),
        tied=head is None,
    )


_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "num_heads")


def _number(settings: Mapping[str, Any], *names: str) -> int | None:
    found = (settings.get(name) for name in names)
    return next((one for one in found if isinstance(one, int) and one > 0), None)


def _of_the_language_model(source: ModelSource) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in tensors_of(source)
        if not any(part in name for part in _OTHER_PARTS)
    }


def tensors_of(source: ModelSource) -> Iterator[tuple[str, Tensor]]:
    """(name, (shape, bytes of a number)) of every tensor, from the headers of the files."""
    for file in weight_files(source.directory):
        with file.open("rb") as content:
            header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, (tuple(tensor["shape"]), _BYTES.get(tensor["dtype"], 1))
