"""The shape of a model, from its config.json and the headers of its weight files.

Neither weights nor torch are loaded. Knows the common kinds of decoders: layers with full, sliding
window or linear attention, and an MLP or experts. A model of another kind has no shape here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from talr_cli.errors import UserError
from talr_cli.models.layer_kinds import (
    ATTENTION,
    LinearAttention,
    first_number,
    layer_kinds,
    linear_attention,
)
from talr_cli.models.sources import ModelSource
from talr_cli.models.weight_files import Tensor, tensors_of
from talr_cli.runs.atomic import NEW_COPY, read_json_object

# Parts of the names of weights that do not belong to the language model.
_OTHER_PARTS = ("vision", "visual", "audio", "multi_modal", "mm_")
_IGNORED = "mtp."  # predicts further tokens; transformers does not load it
_EXPERTS = re.compile(r"\.experts\.|\.block_sparse_moe\.(?:input|output)_linear\.")
_HEADS_NAMED = ("lm_head.weight", "embed_out.weight")  # the latter is GPT-NeoX's
_SHARED = re.compile(r"\bshared_(?:experts?|mlp)\.(?:down_proj|output_linear)\.weight$")
_OF_A_LAYER = re.compile(r"(?:^|\.)(\d+)\.(.+)$")


@dataclass(frozen=True)
class Matrix:
    """Matrices of the same name and size; `count` is their number in all layers together."""

    name: str
    inputs: int
    outputs: int
    count: int

    @property
    def of_experts(self) -> bool:
        return self.name.startswith("experts.")


@dataclass(frozen=True)
class Experts:
    """A mixture of experts.

    Attributes:
        layers: The number of layers with experts.
        per_token: How many experts a token uses in each of these layers.
        inner: The width of one expert.
        weights: The number of weights of all experts in all layers.
        listed: Whether the checkpoint stores each expert separately; only then PEFT adapts them.
        clamped: Whether the experts clamp their activations (gpt-oss).
    """

    layers: int
    per_token: int
    inner: int
    weights: int
    listed: bool
    clamped: bool


@dataclass(frozen=True)
class Shape:
    """The sizes that determine memory and time.

    Attributes:
        weights: The number of all weights; tied embedding and head count once.
        stored_bytes: The bytes of a weight in the checkpoint.
        layers: The number of decoder layers.
        hidden: The width of the hidden states.
        heads: The number of query heads.
        queries: The width of the queries of all heads together; if layers differ, as in Gemma 4,
            the mean over those that attend.
        keys: The same of the keys, which is also that of the values.
        inner: The width of the MLP; with experts, of all those that a token uses.
        vocabulary: The number of rows of the embedding, and of the head.
        normalised: The number of inputs of the norms of all layers, per token.
        matrices: Those of all layers, with those of experts if they are stored separately.
        tied: Whether head and embedding are tied.
        windowed: The number of layers with a sliding window.
        window: The size of that window, in tokens.
        linear: The layers with linear attention.
        experts: The experts.
        others: The number of weights of other parts, which are loaded but not trained.
        capped: Whether the logits have a soft cap.
        mlp_states: How many tensors of the MLP's width it keeps between its matrices: three where
            a gate is multiplied, one for an activation that torch computes at once.
        dropped: The number of dropout masks of the hidden states in a layer.
        attention_dropout: Whether attention drops some of its weights.
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
    others: int = 0
    capped: bool = False
    mlp_states: int = 3
    dropped: int = 0
    attention_dropout: bool = False

    @property
    def head(self) -> int:
        """The number of weights of the head, which is also that of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def multiplied(self) -> int:
        """The number of weights of the layers: all but embedding and head."""
        return self.weights - self.head * (1 if self.tied else 2)

    @property
    def attending(self) -> int:
        """The number of layers that keep keys and values."""
        return self.layers - (0 if self.linear is None else self.linear.layers)


def shape_of(source: ModelSource | None, architecture: str | None = None) -> Shape | None:
    """The shape of a model; None if it is not on this machine, or of an unknown kind.

    Args:
        architecture: The class that is typed for it; None: the automatic one.

    Raises:
        UserError: A file is damaged.
    """
    if source is None or not (source.directory / "config.json").is_file():
        return None
    settings = read_json_object(source.directory / "config.json", NEW_COPY)
    tensors = {name: one for name, one in tensors_of(source.directory) if _IGNORED not in name}
    others = {name for name in tensors if any(part in name for part in _OTHER_PARTS)}
    own = {name: one for name, one in tensors.items() if name not in others}
    try:
        found = shape_from_config(settings.get("text_config") or settings, own)
        if found is None or not others or not _is_loaded_whole(settings, architecture):
            return found
        return replace(found, others=sum(math.prod(tensors[name][0]) for name in others))
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"cannot understand the config.json of {source.origin}: {error}") from error


def _is_loaded_whole(settings: Mapping[str, Any], architecture: str | None) -> bool:
    """Whether a model of more than text is loaded with its other parts, such as a vision tower."""
    if architecture is None:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(settings.get("model_type", ""))
    # A class for text alone takes its part of a config; Phi-4 multimodal has no such part.
    is_text = architecture is not None and architecture.endswith("ForCausalLM")
    return architecture is not None and not (is_text and "text_config" in settings)


def shape_from_config(text: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Shape | None:
    """The shape from the config of the language model and {name: tensor}; None if unknown."""
    layers, hidden = (first_number(text, *names) for names in (_LAYERS, _HIDDEN))
    heads, vocabulary = (first_number(text, *names) for names in (_HEADS, ("vocab_size",)))
    if not (layers and hidden and heads and vocabulary and tensors):
        return None
    kinds = layer_kinds(text, layers)
    linear = linear_attention(text, kinds)
    if kinds is None or ("linear_attention" in kinds and linear is None):
        return None
    inner = first_number(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    experts = _experts(text, tensors, inner)
    if any(_is_unknown_stack(name, size, experts) for name, (size, _) in tensors.items()):
        return None
    if experts is not None:
        # Configs have many names for the size of shared experts, so it is read off their weights.
        shared = [
            math.prod(size) // hidden for name, (size, _) in tensors.items() if _SHARED.search(name)
        ]
        inner = experts.per_token * experts.inner + max(shared, default=0)
    parts = {name: found for name in tensors if (found := _OF_A_LAYER.search(name))}
    matrices = Counter(
        (_module(found[2]), tensors[name][0])
        for name, found in parts.items()
        if len(tensors[name][0]) == 2 and name.endswith("weight")
    )
    queries, keys = _mean_widths(matrices, kinds) or _widths(text, hidden, heads)
    wide = {"q_norm": queries, "k_norm": keys}
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
        queries=queries,
        keys=keys,
        inner=inner,
        vocabulary=vocabulary,
        normalised=sum(norms) or 2 * hidden * layers,
        matrices=[
            Matrix(name, inputs, outputs, count)
            for (name, (outputs, inputs)), count in matrices.items()
        ],
        tied=not any(name.endswith(_HEADS_NAMED) for name in tensors),
        windowed=kinds.count("sliding_attention"),
        window=first_number(text, "sliding_window") or 0,
        linear=linear,
        experts=experts,
        capped=any(text.get(name) for name in CAPS),
        mlp_states=_mlp_states(text, matrices, hidden, inner, layers),
        dropped=2 * any(text.get(name) for name in _DROPOUT),
        attention_dropout=any(text.get(name) for name in _ATTENTION_DROPOUT),
    )


_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_HEADS = ("num_attention_heads", "n_head", "num_heads")
_PER_TOKEN = ("num_experts_per_tok", "moe_topk", "moe_k")
_DROPOUT = ("resid_pdrop", "residual_dropout", "hidden_dropout", "hidden_dropout_prob", "dropout")
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
# Activations that transformers computes step by step.
_IN_STEPS = {"gelu_new", "gelu_fast", "xielu"}


def _widths(text: Mapping[str, Any], hidden: int, heads: int) -> tuple[int, int]:
    """(queries, keys) of all heads together, where all layers are alike."""
    if first_number(text, "kv_lora_rank"):  # each head has keys of its own, computed from few
        width = sum(first_number(text, f"qk_{one}_head_dim") or 0 for one in ("nope", "rope"))
        return heads * width, heads * width
    width = first_number(text, "head_dim") or hidden // heads
    return heads * width, (first_number(text, "num_key_value_heads") or heads) * width


def _mean_widths(
    matrices: Mapping[tuple[str, tuple[int, ...]], int], kinds: Sequence[str]
) -> tuple[int, int] | None:
    """(queries, keys) of the layers that attend, where their matrices differ from layer to layer.

    A layer that takes the keys of another has no matrix of its own for them.
    """
    found = {
        name: {size: n for (one, size), n in matrices.items() if one == name}
        for name in ("o_proj", "k_proj")
    }
    if not all(found.values()) or all(len(each) == 1 for each in found.values()):
        return None
    attending = sum(kind in ATTENTION for kind in kinds)
    queries = sum(inputs * count for (_, inputs), count in found["o_proj"].items())
    keys = sum(outputs * count for (outputs, _), count in found["k_proj"].items())
    return round(queries / attending), round(keys / attending)


def _mlp_states(
    text: Mapping[str, Any],
    matrices: Mapping[tuple[str, tuple[int, ...]], int],
    hidden: int,
    inner: int,
    layers: int,
) -> int:
    """`Shape.mlp_states`; an MLP without a gate has one matrix from `hidden` to `inner`."""
    up = sum(count for (_, size), count in matrices.items() if size == (inner, hidden))
    if up != layers:
        return 3
    names = ("activation_function", "hidden_act", "mlp_hidden_act")
    return 5 if _IN_STEPS & {text.get(name) for name in names} else 1


def _module(name: str) -> str:
    """The name of a weight's module within its layer, with a prefix for that of an expert."""
    *path, module, _ = ("", *name.split("."))
    return f"experts.{module}" if "experts" in path else module


def _experts(text: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: int) -> Experts | None:
    per_token = first_number(text, *_PER_TOKEN)
    if str(text.get("model_type")).startswith("llama4"):  # all experts compute every token
        per_token = first_number(text, "num_local_experts")
    of_experts = {name: shape for name, (shape, _) in tensors.items() if _EXPERTS.search(name)}
    if not per_token or not of_experts:
        return None
    found = (_OF_A_LAYER.search(name) for name in of_experts)
    return Experts(
        layers=len({one[1] for one in found if one}),
        per_token=per_token,
        inner=first_number(text, "moe_intermediate_size") or inner,
        weights=sum(math.prod(shape) for shape in of_experts.values()),
        listed=all(len(shape) < 3 for shape in of_experts.values()),
        clamped=bool(text.get("swiglu_limit")),
    )


def _is_unknown_stack(name: str, size: Sequence[int], experts: Experts | None) -> bool:
    """Whether it is of experts that are not counted; a convolution has a 1 among its sizes."""
    if _EXPERTS.search(name):
        return experts is None
    return len(size) == 3 and 1 not in size


def head_sizes(text: Any) -> list[tuple[int, int, int]]:
    """For each attention layer (heads of queries, of keys, width of a head), by a text config.

    The config of Gemma 4, whose layers differ, raises an error if it is asked for one width.
    """
    return [
        (
            one.num_attention_heads,
            getattr(one, "num_key_value_heads", None) or one.num_attention_heads,
            getattr(one, "head_dim", None) or one.hidden_size // one.num_attention_heads,
        )
        for one in text.per_layer_config
        if getattr(one, "num_attention_heads", None) is not None
    ]
