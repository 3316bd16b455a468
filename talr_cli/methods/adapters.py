"""model -> trainable model -> plain model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talr_cli.fields import value

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


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
