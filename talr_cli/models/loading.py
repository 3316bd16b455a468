"""How a model is loaded, in which dtype and on which device; weights that do not fit are refused.

Knows nothing about data or training, nor where the files came from.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError, reason_of
from talr_cli.models.adapter import check_adapter, merged, say_untied, whole
from talr_cli.models.config import ModelConfig
from talr_cli.models.saving import cast
from talr_cli.models.sources import ModelSource
from talr_cli.models.weight_files import stored_kind
from talr_cli.runs.atomic import ANOTHER, read_object

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
    """The model in `dtype` ("auto": as stored) on `device`; an adapter is merged into its base.

    The merge is done in fp32, as after a training. `quantization` is a config of transformers, by
    which the weights of a model that is no adapter are quantised as they are read.
    """
    import torch

    quantized: dict[str, Any] = {}
    if quantization is not None:
        quantized = {"quantization_config": quantization, "device_map": {"": device}}
    with _refused(source):
        base = whole(source, config)
        if base is not source:
            target = stored_dtype(base) if isinstance(dtype, str) else dtype
            model = cast(merged(_load(base, config, torch.float32), source), target)
        else:
            model = _load(source, config, dtype, **quantized)
    return model if quantized else model.to(device)


def without_weights(source: ModelSource, config: ModelConfig) -> PreTrainedModel:
    """The model, or an adapter's base, on torch's device `meta`.

    Names and shapes of the weights are read and must fit. It takes a moment and no memory.

    Raises:
        UserError: As `load_model` does.
    """
    with _refused(source):
        base = whole(source, config)
        model = _load(base, config, "auto", device_map="meta")
        if base is not source:
            check_adapter(model, source)
    return model


@contextmanager
def _refused(source: ModelSource) -> Iterator[None]:
    """Inside, any error of transformers, PEFT or safetensors becomes a UserError of one line.

    Their warnings are not shown: what they warn of is either refused here or meant.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # a damaged file raises errors of any kind in them
        reason = reason_of(error, most=300)
        if "custom code" in reason:
            reason += " If you trust it, set model.trust_remote_code=true."
        raise UserError(f"cannot load {source.origin}: {reason}") from error


def _load(
    source: ModelSource, config: ModelConfig, dtype: torch.dtype | str, **where: Any
) -> PreTrainedModel:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model_class = getattr(transformers, config.architecture or "AutoModelForCausalLM")
    if "_attn_implementation" in (source.directory / "config.json").read_text(encoding="utf-8"):
        # An attention kernel in the file would win over the one that is asked for.
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
        **where,
    )
    if config.key_mapping:
        # transformers would try to undo these renamings when it saves, and fail; besides, the names
        # would not be those of the class that the saved config names.
        model._weight_conversions = [
            one
            for one in model._weight_conversions
            if not set(one.source_patterns) & set(config.key_mapping)
        ]
    _check_fit(model, report, source, config)
    if model.device.type != "meta" and say_untied(model):
        # transformers loads both, whatever the config says.
        log.warning(
            "%s: its config.json says that the head is the embedding (tie_word_embeddings), but "
            "its files hold a head of its own: that one is used, and a model saved here says so",
            source.origin,
        )
    return model


def _check_fit(
    model: Any, report: dict[str, Any], source: ModelSource, config: ModelConfig
) -> None:
    """Refuse weights that are not those of the model: transformers only warns and goes on.

    Raises:
        UserError: Some are missing, of another shape, or left over; or an answer could not end.
    """
    generation = source.directory / "generation_config.json"
    if generation.exists():
        read_object(generation, ANOTHER)  # transformers would do without it
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):  # what answers begin and end by
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
        if config.architecture is None or not _of_another_part(model, name)
    )
    if left_over:
        raise UserError(
            f"{source.origin} has {len(left_over)} weights that {kind} does not use, such as "
            f"{left_over[0]}: check its config.json; where they are of a part that is not to be "
            f"trained, such as a vision tower, say so with model.architecture={kind}"
        )


def _of_another_part(model: Any, name: str) -> bool:
    """Whether a weight lies beside the language model, and not in one more layer of it."""
    module, *rest = name.split(".")
    while rest and hasattr(model, module):
        model, (module, *rest) = getattr(model, module), rest
    return not module.isdigit() and bool(rest)


def stored_dtype(source: ModelSource) -> torch.dtype:
    """The dtype that the checkpoint's config names, or else that of its weights."""
    import torch

    config = json.loads((source.directory / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", {})
    name = config.get("dtype") or config.get("torch_dtype") or text.get("dtype")
    return getattr(torch, name or stored_kind(source.directory))


def choose_device(device: str) -> str:
    """`auto` is the GPU when there is one: CUDA's, or that of an Apple machine."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next((name for name, found in there.items() if found), "cpu")
    if not there.get(device, True):
        raise UserError(f"device={device}, but torch sees no such device: use device=cpu or auto")
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
        return False  # Apple's GPUs have it, but we could not try it there
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_precision(precision: str, device: str) -> tuple[str, str]:
    """(bf16, fp16 or fp32; why): what a training computes in on a device (cpu, cuda, mps).

    Raises:
        UserError: The device cannot train so.
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
