"""How a model is loaded and saved, in which dtype and on which device.

Knows nothing about data or training, nor where the files came from.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError
from talr_cli.models.sources import ModelSource, resolve_base
from talr_cli.runs.atomic import made_whole

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def load_model(
    source: ModelSource, config: Any, dtype: torch.dtype | str, device: str
) -> PreTrainedModel:
    """The model in `dtype` ("auto": as stored) on `device`; an adapter comes merged into its base.

    The merge is done in fp32, as it is when an adapter is trained.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.disable_progress_bar()
    adapter = source.directory / "adapter_config.json"
    try:
        if adapter.exists():
            from peft import PeftModel

            base = resolve_base(source, config)
            target = stored_dtype(base) if dtype == "auto" else dtype
            plain = _load(base, config, torch.float32)
            adapted = PeftModel.from_pretrained(plain, str(source.directory))
            model = adapted.merge_and_unload().to(target)
        else:
            model = _load(source, config, dtype)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        if "custom code" in reason:
            reason += " If you trust it, set model.trust_remote_code=true."
        raise UserError(f"cannot load {source.origin}: {reason}") from error
    return model.to(device)


def _load(source: ModelSource, config: Any, dtype: torch.dtype | str) -> PreTrainedModel:
    import transformers

    model_class = getattr(transformers, config.architecture or "AutoModelForCausalLM")
    model, report = model_class.from_pretrained(
        source.directory,
        dtype=dtype,
        attn_implementation=config.attention,
        trust_remote_code=config.trust_remote_code,
        use_safetensors=True,
        key_mapping=dict(config.key_mapping) or None,
        output_loading_info=True,
    )
    # transformers fills in random weights and only warns.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{source.origin} lacks {len(missing)} weights of {type(model).__name__}, such as "
            f"{missing[0]}: check model.architecture and model.key_mapping"
        )
    return model


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a checkpoint that appears only when it is complete."""
    with made_whole(folder) as building:
        model.save_pretrained(building)
        tokenizer.save_pretrained(building)


def stored_dtype(source: ModelSource) -> torch.dtype:
    """The dtype that the checkpoint's config names; float32 where it names none."""
    import torch

    config = json.loads((source.directory / "config.json").read_text())
    text = config.get("text_config", {})
    name = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or "float32"
    return getattr(torch, name)


def choose_device(device: str) -> str:
    """`auto` is the GPU when there is one."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device: use device=cpu or auto")
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
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
