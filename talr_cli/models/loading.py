"""Loads a model in a dtype on a device, and refuses weights that do not fit.

Knows nothing about data or training, nor where the files came from.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError, reason_of
from talr_cli.models.adapter import check_adapter, full_model_source, load_and_merge, mark_untied
from talr_cli.models.config import ModelConfig
from talr_cli.models.gpu_driver import VISIBLE, unusable_gpu
from talr_cli.models.saving import cast_weights, weight_not_finite
from talr_cli.models.sources import ModelSource
from talr_cli.models.weight_files import stored_dtype_name
from talr_cli.runs.atomic import NEW_COPY, read_json_object

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def load_model(
    source: ModelSource,
    config: ModelConfig,
    dtype: torch.dtype | str,
    device: str,
    quantization: Any = None,
) -> PreTrainedModel:
    """Load a model; an adapter is merged into its base, in fp32.

    Args:
        dtype: "auto": as stored.
        quantization: A quantisation config of transformers, by which the weights of a model that is
            not an adapter are quantised while they are read.

    Raises:
        UserError: The model cannot be loaded, or its weights do not fit or are not finite.
    """
    import torch

    quantized: dict[str, Any] = {}
    if quantization is not None:
        quantized = {"quantization_config": quantization, "device_map": {"": device}}
    with one_line_errors(source):
        base = full_model_source(source, config)
        if base is not source:
            target = stored_dtype(base) if isinstance(dtype, str) else dtype
            model = cast_weights(load_and_merge(_load(base, config, torch.float32), source), target)
        else:
            model = _load(source, config, dtype, **quantized)
    model = model if quantized else model.to(device)
    if (name := weight_not_finite(model)) is not None:
        raise UserError(
            f"{source.origin}: {name} holds a number that is not finite (NaN or infinite): get "
            "another copy of the model"
        )
    return model


def load_without_weights(source: ModelSource, config: ModelConfig) -> PreTrainedModel:
    """Create the model, or an adapter's base, on the meta device, without reading weights.

    Names and shapes of the weights are checked. It takes a moment and no memory.

    Raises:
        UserError: The same as by `load_model`.
    """
    with one_line_errors(source):
        base = full_model_source(source, config)
        model = _load(base, config, "auto", device_map="meta")
        if base is not source:
            check_adapter(model, source)
    return model


def class_name(settings: Mapping[str, Any], config: ModelConfig) -> str:
    """The transformers class to load: what is typed, else the automatic one.

    The automatic one does not know the saved text models of Mllama and Emu3. It is then the one
    that config.json names.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = settings.get("model_type")
    if config.architecture is None and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        for name in map(str, settings.get("architectures") or []):
            made_by = getattr(getattr(transformers, name, None), "config_class", None)
            if name.endswith("ForCausalLM") and getattr(made_by, "model_type", None) == kind:
                return name
    return config.architecture or "AutoModelForCausalLM"


@contextmanager
def one_line_errors(source: ModelSource) -> Iterator[None]:
    """Turn any error of transformers, PEFT or safetensors into a UserError of one line.

    Their warnings are suppressed: they are about what is either refused here or intended.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # a damaged file may cause errors of any kind
        reason = reason_of(error, max_chars=300)
        if "custom code" in reason:
            reason += " If you trust it, set model.trust_remote_code=true."
        raise UserError(f"cannot load {source.origin}: {reason}") from error


def _load(
    source: ModelSource, config: ModelConfig, dtype: torch.dtype | str, **where: Any
) -> PreTrainedModel:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    text = (source.directory / "config.json").read_text(encoding="utf-8")
    model_class = getattr(transformers, class_name(json.loads(text), config))
    if "_attn_implementation" in text:
        # The attention kernel that the file names would override the config's.
        made_by = getattr(model_class, "config_class", None) or transformers.AutoConfig
        where["config"] = made_by.from_pretrained(
            source.directory, trust_remote_code=config.trust_remote_code
        )
        where["config"]._attn_implementation = config.attention
    model, report = model_class.from_pretrained(
        source.directory,
        dtype=dtype,
        attn_implementation=config.attention,
        trust_remote_code=config.trust_remote_code,
        use_safetensors=True,
        key_mapping=dict(config.key_mapping) or None,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `_check_fit` refuses them, and names one
        **where,
    )
    if config.key_mapping:
        # transformers would try to undo these renamings when it saves the model, and fail. Besides,
        # the names would not be those of the class that the saved config names.
        model._weight_conversions = [
            one
            for one in model._weight_conversions
            if not set(one.source_patterns) & set(config.key_mapping)
        ]
    _check_fit(model, report, source, config)
    if model.device.type != "meta" and mark_untied(model):
        # transformers loads both matrices, whatever the config says.
        log.warning(
            "%s: its config.json says that the head is the embedding (tie_word_embeddings), but "
            "its files hold a head of its own: that one is used, and a model saved here says so",
            source.origin,
        )
    return model


def _check_fit(
    model: Any, report: dict[str, Any], source: ModelSource, config: ModelConfig
) -> None:
    """Refuse weights that do not fit the model, about which transformers only warns.

    Raises:
        UserError: Weights are missing, of another shape or left over, or generation_config.json is
            damaged.
    """
    generation = source.directory / "generation_config.json"
    if generation.exists():
        read_json_object(generation, NEW_COPY)  # transformers would ignore a damaged one
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        ids = getattr(model.generation_config, name)
        numbers = ids if isinstance(ids, list) else [0 if ids is None else ids]
        if not all(type(one) is int and abs(one) < 2**31 for one in numbers):
            raise UserError(
                f"{source.origin}: {name}={str(ids)[:100]} in generation_config.json is no token's "
                "number"
            )
    kind = type(model).__name__
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{source.origin} lacks {len(missing)} weights of {kind}, such as "
            f"{missing[0]}: check model.architecture and model.key_mapping"
        )
    if report["mismatched_keys"]:
        name, *shapes = sorted(map(tuple, report["mismatched_keys"]))[0]
        raise UserError(
            f"{source.origin} does not fit its config.json: {name} has the shape "
            f"{' and not '.join(str(list(shape)) for shape in shapes)}"
        )
    left_over = sorted(
        name
        for name in report["unexpected_keys"]
        if config.architecture is None or not _is_outside_language_model(model, name)
    )
    if left_over:
        raise UserError(
            f"{source.origin} has {len(left_over)} weights that {kind} does not use, such as "
            f"{left_over[0]}: check its config.json; where they are of a part that is not to be "
            f"trained, such as a vision tower, say so with model.architecture={kind}"
        )


def _is_outside_language_model(model: Any, name: str) -> bool:
    """Whether a weight belongs to another part than the language model, such as a vision tower."""
    module, *rest = name.split(".")
    while rest and hasattr(model, module):
        model, (module, *rest) = getattr(model, module), rest
    return not module.isdigit() and bool(rest)


def stored_dtype(source: ModelSource) -> torch.dtype:
    """The dtype that the checkpoint's config names, else that of its weights."""
    import torch

    config = json.loads((source.directory / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", {})
    name = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
    return getattr(torch, name or stored_dtype_name(source.directory))


def choose_device(device: str) -> str:
    """Resolve `auto`: a CUDA GPU if there is one, else an Apple GPU, else the CPU.

    Raises:
        UserError: torch does not see the device that was typed, or that the environment names.
    """
    import torch

    there = {
        "cuda": torch.cuda.is_available() and unusable_gpu() is None,
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        device = next((name for name, found in there.items() if found), "cpu")
        if device == "cpu" and (why := unusable_gpu()) is not None:
            # As in a job of a cluster or of a sweep; perhaps its GPU was lost in the night.
            if named := [f"{one}={os.environ[one]}" for one in VISIBLE if os.environ.get(one)]:
                raise UserError(f"{named[0]}, but {why}; device=cpu does without")
            log.warning("the CPU is used, though there is a GPU: %s", why)
    if not there.get(device, True):
        why = unusable_gpu() if device == "cuda" else None
        seen = "torch sees no such device" if why is None else why
        raise UserError(f"device={device}, but {seen}: use device=cpu or auto")
    if device == "cuda" and torch.cuda.device_count() > 1:
        log.info(
            "%d GPUs are visible, each process uses one; distributed=ddp trains on all",
            torch.cuda.device_count(),
        )
    return device


def bf16_is_fast(device: str) -> bool:
    """Whether bf16 arithmetic is native on the device; emulated, it is slower than fp32."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps" or not torch.backends.mkldnn.is_available():
        return False  # Apple's GPUs support it, but it was never tried there
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_precision(precision: str, device: str) -> tuple[str, str]:
    """(bf16, fp16 or fp32, the reason): the precision of a training on a device (cpu, cuda, mps).

    Raises:
        UserError: The device cannot train in this precision.
    """
    if precision == "fp16" and device == "cpu":
        raise UserError("trainer.precision=fp16 needs a GPU: use trainer.precision=bf16 or fp32")
    if precision != "auto":
        return precision, "as asked for"
    if bf16_is_fast(device):
        return "bf16", "auto: it is native here"
    if device == "cuda":
        return "fp16", "auto: this GPU has no bf16; with loss scaling"
    return "fp32", "auto: bf16 is not native here" if device == "cpu" else "auto: not tried in less"
