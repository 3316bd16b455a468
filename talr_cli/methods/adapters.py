"""model -> trainable model -> plain model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talr_cli.fields import value
from talr_cli.printable import rate_text

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


# Below such a learning rate adapters hardly move: they want about ten times that of all weights.
LEAST_RATE = 5e-5

log = logging.getLogger(__name__)


@dataclass
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by PEFT, merged after training."""

    rank: int = value("of every adapter", 64, at_least=1)
    alpha: float = value("the update is scaled by alpha / rank", 64.0, above=0)
    dropout: float = value("of the adapters' inputs", 0.0, at_least=0, below=1)
    target_modules: Any = value(
        "`all-linear` (all but the head), or a list of module names", "all-linear"
    )
    rslora: bool = value("scale by alpha / sqrt(rank) instead", False)
    dora: bool = value("weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353)", False)
    base_dtype: str = value(
        "how the base's weights are held while the adapters (fp32) are trained; auto: in what is "
        "computed in (bf16, fp16), which changes no number, or float32; nf4: in 4 bits (QLoRA), by "
        "bitsandbytes. They are merged into the checkpoint's own weights, in fp32",
        "auto",
        choices=("auto", "float32", "nf4"),
    )

    def wrap(self, model: PreTrainedModel, base_path: str) -> PeftModel:
        """The model with fresh adapters; only they are trained. `base_path` names the base."""
        from peft import LoraConfig, get_peft_model

        adapted: Any = get_peft_model(
            model,
            LoraConfig(
                base_model_name_or_path=base_path,
                task_type="CAUSAL_LM",
                r=self.rank,
                lora_alpha=self.alpha,  # type: ignore[arg-type]
                lora_dropout=self.dropout,
                target_modules=self.target_modules,
                use_rslora=self.rslora,
                use_dora=self.dora,
            ),
        )
        adapted.peft_config["default"].base_model_name_or_path = base_path
        return adapted


def warn_of_low_rate(lr: float) -> None:
    """Say so where the learning rate is one at which adapters hardly move."""
    if lr < LEAST_RATE:
        log.warning(
            "lr=%s is a rate for training all weights: adapters hardly move at it, try lr=%s",
            rate_text(lr),
            rate_text(max(10 * lr, 2 * LEAST_RATE)),
        )
