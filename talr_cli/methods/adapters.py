"""model -> trainable model -> plain model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by PEFT, merged after training.

    Args:
        rank: Of every adapter.
        alpha: The update is scaled by alpha / rank, or alpha / sqrt(rank) with `rslora`.
        target_modules: `all-linear` (all but the head), or a list of module names.
        dora: Weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353).
    """

    rank: int = 64
    alpha: float = 64.0
    dropout: float = 0.0
    target_modules: Any = "all-linear"
    rslora: bool = False
    dora: bool = False

    def wrap(self, model: PreTrainedModel, base_path: str) -> PeftModel:
        """The model with fresh adapters; only they are trained. `base_path` names the base."""
        from omegaconf import ListConfig
        from peft import LoraConfig, get_peft_model

        targets = self.target_modules
        adapted: Any = get_peft_model(
            model,
            LoraConfig(
                base_model_name_or_path=base_path,
                task_type="CAUSAL_LM",
                r=self.rank,
                lora_alpha=self.alpha,  # type: ignore[arg-type]
                lora_dropout=self.dropout,
                target_modules=list(targets) if isinstance(targets, ListConfig) else targets,
                use_rslora=self.rslora,
                use_dora=self.dora,
            ),
        )
        adapted.peft_config["default"].base_model_name_or_path = base_path
        return adapted
