"""How large a model is, from its config.json and the headers of its weight files.

Nothing is loaded: neither weights, nor torch. Knows the common shape of decoders: layers of
attention, with a window or without, or of linear attention, and an MLP, or experts of which a token
takes a few; where a config does not have it, there is no shape.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.models.sources import ModelSource
from talr_cli.models.weight_files import weight_files
from talr_cli.runs.atomic import ANOTHER, read_object

Tensor = tuple[tuple[int, ...], int]  # its shape, and the bytes of each number as stored

_LONGEST_HEADER = 10**8  # bytes, as safetensors has it
_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
# In the names of weights that come with a checkpoint and are not the language model's.
_OTHER_PARTS = ("vision", "visual", "audio", "multi_modal", "mm_", "mtp.")
# What configs call layers of attention; and what is in the names of values that others have.
_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention", "attention")
_STATES = ("mamba", "ssm", "rwkv", "lru_width", "hybrid_override_pattern")
_OF_A_LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+)$")


@dataclass(frozen=True)
class Matrix:
    """Matrices that are alike: their name, and how many the layers have in all."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def of_experts(self) -> bool:
        return self.name.startswith("experts.")


@dataclass(frozen=True)
class LinearAttention:
    """Layers whose heads keep a state in the place of keys and values of all tokens.

    Attributes:
        layers: How many there are.
        keys: Width of all keys together, and of all queries; `values` of all values.
    """

    layers: int
    keys: int
    values: int


@dataclass(frozen=True)
class Experts:
    """MLPs of which each token takes a few.

    Attributes:
        layers: That have some.
        taken: By a token, in each of these.
        inner: Width of one.
        weights: Numbers of all, in all layers.
        listed: Whether the checkpoint has each by itself, so that PEFT adapts them; it does not
            where they are stored as one.
        clamped: Whether what they multiply is cut off above and below (gpt-oss).
    """

    layers: int
    taken: int
    inner: int
    weights: int
    listed: bool
    clamped: bool


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
        normalised: What the norms of all layers take in of a token.
        matrices: Of all layers, experts' included where they are listed one by one.
        tied: Whether the head is the embedding.
        windowed: Layers whose tokens see `window` others at most.
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
    matrices: Sequence[Matrix]
    tied: bool
    windowed: int = 0
    window: int = 0
    linear: LinearAttention | None = None
    experts: Experts | None = None

    @property
    def head(self) -> int:
        """Numbers of the head, and of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def multiplied(self) -> int:
        """Numbers of the layers' matrices: all but embedding and head."""
        return self.weights - self.head * (1 if self.tied else 2)

    @property
    def attending(self) -> int:
        """Layers that keep keys and values."""
        return self.layers - (0 if self.linear is None else self.linear.layers)


def shape_of(source: ModelSource | None) -> Shape | None:
    """The shape of a model; None where it is not here, or of another kind.

    Raises:
        UserError: A file is damaged.
    """
    if source is None or not (source.directory / "config.json").is_file():
        return None
    settings = read_object(source.directory / "config.json", ANOTHER)
    tensors = _of_the_language_model(source)
    try:
        return of_settings(settings.get("text_config") or settings, tensors)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"cannot understand the config.json of {source.origin}: {error}") from error


def of_settings(text: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Shape | None:
    """From the config of the language model, and {weight: (its shape, bytes of a number)}."""
    layers, hidden = (_number(text, *names) for names in (_LAYERS, _HIDDEN))
    heads, vocabulary = (_number(text, *names) for names in (_HEADS, ("vocab_size",)))
    if not (layers and hidden and heads and vocabulary and tensors):
        return None
    kinds = _kinds(text, layers)
    linear = _linear(text, kinds)
    if kinds is None or ("linear_attention" in kinds and linear is None):
        return None
    width = _number(text, "head_dim") or hidden // heads
    keys = (_number(text, "num_key_value_heads") or heads) * width
    inner = _number(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    experts = _experts(text, tensors, inner)
    if experts is not None:
        shared = _number(text, "shared_expert_intermediate_size") or 0
        inner = experts.taken * experts.inner + shared
    parts = {name: found for name in tensors if (found := _OF_A_LAYER.search(name))}
    matrices = Counter(
        (_module(found[2]), tensors[name][0])
        for name, found in parts.items()
        if len(tensors[name][0]) == 2 and name.endswith("weight")
    )
    wide = {"q_norm": heads * width, "k_norm": keys}
    norms = [
        wide.get(_module(found[2]), hidden)
        for name, found in parts.items()
        if "norm" in name and name.endswith("weight") and "linear_attn" not in name
    ]
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
        normalised=sum(norms) or 2 * hidden * layers,
        matrices=[
            Matrix(name, inputs, outputs, count)
            for (name, (outputs, inputs)), count in matrices.items()
        ],
        tied=not any(name.endswith("lm_head.weight") for name in tensors),
        windowed=kinds.count("sliding_attention"),
        window=_number(text, "sliding_window") or 0,
        linear=linear,
        experts=experts,
    )


_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "num_heads")


def _number(settings: Mapping[str, Any], *names: str) -> int | None:
    found = (settings.get(name) for name in names)
    return next((one for one in found if isinstance(one, int) and one > 0), None)


def _module(name: str) -> str:
    """Of a weight within its layer; that of an expert says so."""
    *path, module, _ = ("", *name.split("."))
    return f"experts.{module}" if "experts" in path else module


def _experts(text: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: int) -> Experts | None:
    taken = _number(text, "num_experts_per_tok")
    of_experts = {name: shape for name, (shape, _) in tensors.items() if ".experts." in name}
    if not taken or not of_experts:
        return None
    found = (_OF_A_LAYER.search(name) for name in of_experts)
    return Experts(
        layers=len({one[1] for one in found if one}),
        taken=taken,
        inner=_number(text, "moe_intermediate_size") or inner,
        weights=sum(math.prod(shape) for shape in of_experts.values()),
        listed=all(len(shape) < 3 for shape in of_experts.values()),
        clamped=bool(text.get("swiglu_limit")),
    )


def _kinds(text: Mapping[str, Any], layers: int) -> list[str] | None:
    """Of each layer; None where some are not known here."""
    kinds = list(text.get("layer_types") or [])
    if not {*kinds} <= {*_ATTENTION, "linear_attention", "conv"}:
        return None
    # A config of attention alone may name what others of its kind have.
    all_attend = bool(kinds) and {*kinds} <= {*_ATTENTION}
    if not all_attend and any(part in name for name in text for part in _STATES):
        return None
    if kinds:
        return kinds
    most, every = "full_attention", layers + 1
    if _number(text, "linear_num_value_heads"):
        most, every = "linear_attention", _number(text, "full_attention_interval") or 4
    elif text.get("sliding_window") and text.get("use_sliding_window") is not False:
        most = "sliding_attention"
        every = _number(text, "sliding_window_pattern", "_sliding_window_pattern") or layers + 1
    return ["full_attention" if not one % every else most for one in range(1, layers + 1)]


def _linear(text: Mapping[str, Any], kinds: Sequence[str] | None) -> LinearAttention | None:
    keys, values = (
        (_number(text, f"linear_num_{one}_heads") or 0)
        * (_number(text, f"linear_{one}_head_dim") or 0)
        for one in ("key", "value")
    )
    count = 0 if kinds is None else list(kinds).count("linear_attention")
    return LinearAttention(count, keys, values) if count and values else None


def _of_the_language_model(source: ModelSource) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in tensors_of(source)
        if not any(part in name for part in _OTHER_PARTS)
    }


def tensors_of(source: ModelSource) -> Iterator[tuple[str, Tensor]]:
    """(name, (shape, bytes of a number)) of every tensor, from the headers of the files."""
    for file in weight_files(source.directory):
        for name, tensor in _header(file).items():
            if name != "__metadata__":
                yield name, (tuple(tensor["shape"]), _BYTES.get(tensor["dtype"], 1))


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as content:
            size = int.from_bytes(content.read(8), "little")
            if size > _LONGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(content.read(size))
        for name, tensor in header.items():
            if name != "__metadata__" and not (
                isinstance(tensor["dtype"], str)
                and all(type(one) is int and one >= 0 for one in tensor["shape"])
            ):
                raise ValueError(f"a header with another shape of {name}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): {ANOTHER}") from error
    return header
