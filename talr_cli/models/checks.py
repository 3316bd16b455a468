"""Checks that a model can be used with the given config, before any of its weights are read.

Knows the model's config.json, the names and shapes of its weights, its tokenizer and the lengths of
rows. The model is created on the meta device, without memory for weights, so that its own class
reports what it cannot do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError, reason_of
from talr_cli.models.adapter import is_adapter, resolve_base
from talr_cli.models.config import ModelConfig
from talr_cli.models.loading import class_name, load_without_weights, one_line_errors
from talr_cli.models.sources import ModelSource
from talr_cli.runs.atomic import NEW_COPY, read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KERNELS = ("sdpa", "eager")  # the attention kernels to propose if a model lacks another


def check_loads(source: ModelSource, config: ModelConfig, *, to_train: bool) -> dict[str, Any]:
    """Refuse a model that could not be loaded or trained; returns its config.json.

    Args:
        to_train: Whether it is to be trained, not only scored.

    Raises:
        UserError: It is an adapter and is to be trained, or no causal language model, a library for
            quantised weights is missing, or the model lacks the attention kernel (the error names
            one that it has).
    """
    adapter = source if is_adapter(source) else None
    if adapter is not None:
        if to_train:
            raise UserError(
                f"model.path={config.path} is an adapter, on which nothing can be trained: merge "
                "it into its base (PEFT's merge_and_unload, save_pretrained) and give that folder"
            )
        source = resolve_base(source, config)
    settings = _load_config(source, config)
    if config.architecture is None and getattr(settings, "is_encoder_decoder", False):
        raise UserError(
            f"{source.origin} is a {settings.model_type} model of an encoder and a decoder: only "
            "causal language models are trained and scored here"
        )
    _check_quantised(source, settings, to_train, adapter)
    reason = _why_not_made(settings, config, config.attention)
    if reason is not None:
        others = [name for name in KERNELS if name != config.attention]
        works = [name for name in others if _why_not_made(settings, config, name) is None]
        if not works:
            whole = _multimodal_class(settings, config)
            if whole is not None:
                raise UserError(
                    f"{settings.model_type} models are of more than text: model.architecture="
                    f"{whole} loads the whole model, of which text is trained and asked"
                )
            if "Unrecognized configuration class" in reason:
                raise UserError(
                    f"{source.origin} is a {settings.model_type} model: transformers has no causal "
                    "language model of that kind, and no other is trained or scored here"
                )
            raise UserError(f"cannot make the model of {source.origin}: {reason}")
        raise UserError(
            f"{settings.model_type} models cannot be run with model.attention={config.attention} "
            f"here ({reason}): set model.attention={works[0]}"
        )
    return settings.to_dict()


def check_weights(source: ModelSource, settings: Mapping[str, Any], config: ModelConfig) -> None:
    """Refuse weights whose names or shapes are not those of the model.

    Quantised weights are not checked, as they have other shapes.

    Args:
        settings: The config.json that `check_loads` returned.

    Raises:
        UserError: Names a weight that does not fit.
    """
    if settings.get("quantization_config") is None:
        load_without_weights(source, config)


def _load_config(source: ModelSource, config: ModelConfig) -> Any:
    from transformers import AutoConfig

    with one_line_errors(source):
        return AutoConfig.from_pretrained(
            source.directory, trust_remote_code=config.trust_remote_code
        )


def _check_quantised(
    source: ModelSource, settings: Any, to_train: bool, adapter: ModelSource | None
) -> None:
    from transformers.quantizers import AutoHfQuantizer

    stored = getattr(settings, "quantization_config", None)
    if stored is None:
        return
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    method = stored.get("quant_method", "an unknown method")
    if adapter is not None:
        raise UserError(
            f"the base of {adapter.origin}, {source.origin}, is quantised ({method}), and an "
            "adapter is merged into whole weights: write the unquantised model that it was made "
            f"of into base_model_name_or_path of {adapter.directory / 'adapter_config.json'}"
        )
    try:
        quantizer = AutoHfQuantizer.from_config(stored, pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
    except Exception as error:  # each quantizer raises its own
        raise UserError(
            f"the weights of {source.origin} are quantised ({method}) and cannot be read here: "
            f"{reason_of(error, max_chars=200)}; install that or give the unquantised model"
        ) from error
    if to_train:  # some are dequantised when they are loaded, but could not be saved like that
        raise UserError(
            f"the weights of {source.origin} are quantised ({method}): they are trained and saved "
            "whole here, so give the unquantised model"
        )


def _why_not_made(settings: Any, config: ModelConfig, attention: str) -> str | None:
    """Why the model cannot be created with this attention kernel; None if it can."""
    import copy

    import torch
    import transformers

    name = class_name(settings.to_dict(), config)
    made_by = getattr(transformers, name, None)
    if made_by is None:
        return f"transformers has no class {name}: check model.architecture"
    is_automatic = name == "AutoModelForCausalLM"
    if not is_automatic and not hasattr(made_by, "config_class"):
        return f"{name} is no model of transformers: check model.architecture"
    own = copy.deepcopy(settings)
    if not is_automatic:
        own = own.get_text_config() if "Text" in made_by.config_class.__name__ else own
        make = made_by._from_config
        arguments: dict[str, Any] = {}
    else:
        make = made_by.from_config
        arguments = {"trust_remote_code": config.trust_remote_code}
    try:
        with torch.device("meta"):
            make(own, attn_implementation=attention, **arguments)
    except Exception as error:  # each model class raises its own
        return reason_of(error, max_chars=200)
    return None


def _multimodal_class(settings: Any, config: ModelConfig) -> str | None:
    """The name of the class of an image-to-text model; None for any other kind of model."""
    import transformers

    automatic: Any = transformers.AutoModelForImageTextToText._model_mapping
    if config.architecture is not None or type(settings) not in automatic:
        return None
    return str(automatic[type(settings)].__name__)


def check_vocabulary(
    settings: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Sequence[int]],
) -> None:
    """Refuse rows with tokens that have no row in the model's embedding.

    A tokenizer may have such tokens as long as no row uses them: Gemma 3's text models share the
    tokenizer of the larger models, which has a token for images.

    Args:
        settings: The model's config.json.
        rows: The token ids of each row.

    Raises:
        UserError: Names such a token.
    """
    size = _text(settings).get("vocab_size")
    last = max((max(row, default=0) for row in rows), default=0)
    if size is not None and last >= size:
        raise UserError(
            f"the rows have tokens beyond the model's embedding: "
            f"{tokenizer.convert_ids_to_tokens(last)!r} is number {last}, the embedding has {size} "
            "rows; grow it (resize_token_embeddings, save_pretrained), or use the tokenizer that "
            "the model was made with"
        )


def check_top_k(settings: Mapping[str, Any], top_k: int | None) -> None:
    """Refuse to look at more of the likeliest tokens than the model knows."""
    size = _text(settings).get("vocab_size")
    if top_k is not None and size is not None and top_k > size:
        raise UserError(
            f"objective.top_k={top_k}: the model has {size} tokens in all; null takes all of them"
        )


def share_vocabulary(
    settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, other: ModelSource
) -> bool:
    """Whether token ids mean the same in two models, so that their predictions can be compared.

    Up to 1 % of the tokens may differ, such as renamed special ones.

    Args:
        settings: The config.json of one model.
        tokenizer: The tokenizer of that model.
        other: The other model, which is not an adapter.
    """
    from transformers import AutoTokenizer

    theirs = read_json_object(other.directory / "config.json", NEW_COPY)
    if _text(settings).get("vocab_size") != _text(theirs).get("vocab_size"):
        return False
    try:
        known: dict[str, int] = AutoTokenizer.from_pretrained(other.directory).get_vocab()
    except Exception:  # if its tokenizer cannot be read, equal sizes must suffice
        return True
    own: dict[str, int] = tokenizer.get_vocab()
    alike = sum(own.get(token) == number for token, number in known.items())
    return alike >= 0.99 * len(known)


def max_positions(settings: Mapping[str, Any]) -> int | None:
    """The most tokens of a sequence, by the model's config.json; None if it sets no limit."""
    text = _text(settings)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        most = text.get(name)
        if isinstance(most, int) and most > 0:
            rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
            stretched = rope.get("factor")
            if isinstance(stretched, int | float):
                before = rope.get("original_max_position_embeddings") or most
                most = max(most, int(stretched * before))
            # Doge keeps so many keys. Beyond, equal tokens tie, and which are kept is by chance.
            return min(most, text.get("keep_window_size") or most)
    return None


def rope_switch_length(settings: Mapping[str, Any]) -> int | None:
    """The length above which a model's rotary frequencies change; None if they never do.

    With rope scaling `longrope` (Phi-3 and 4) or `dynamic`, transformers chooses the frequencies of
    a whole batch by its longest row. So the results for a row may depend on longer rows in its
    batch.
    """
    text = _text(settings)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    for one in (rope, *(part for part in rope.values() if isinstance(part, Mapping))):
        if one.get("rope_type", one.get("type")) in ("longrope", "su", "dynamic"):
            name = "original_max_position_embeddings"
            return one.get(name) or text.get(name) or text.get("max_position_embeddings")
    return None


def check_length(
    settings: Mapping[str, Any], longest: int, what: str, way_out: str, new_tokens: int = 0
) -> None:
    """Refuse rows that are longer than the model's positions.

    Args:
        settings: The model's config.json.
        longest: The number of tokens of the longest row.
        what: What the rows are called in the message, such as "training rows".
        way_out: What to do, such as "trainer.max_length={positions}".
        new_tokens: How many tokens are to be generated after a row.

    Raises:
        UserError: Names the lengths and the way out.
    """
    most = max_positions(settings)
    if most is not None and longest + new_tokens > most:
        answer = f" and an answer of {new_tokens}" if new_tokens else ""
        raise UserError(
            f"the longest of the {what} has {longest} tokens{answer}, the model has {most} "
            f"positions: {way_out.format(positions=most, rest=max(most - longest, 0))}"
        )


def _text(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return settings.get("text_config") or settings
