"""Adapters by PEFT: which weights are added to a model and trained in the place of its own.

Merging them into the model afterwards is done in `models/adapter.py`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talr_cli.fields import value
from talr_cli.models.adapter import quiet_peft
from talr_cli.printable import rate_text

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


# Below this learning rate adapters hardly move: they need about ten times that of full fine-tuning.
LOWEST_ADAPTER_LR = 5e-5

log = logging.getLogger(__name__)


@dataclass
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by PEFT, merged after training."""

    rank: int = value("rank of every adapter", 64, at_least=1)
    alpha: float = value("the update is scaled by alpha / rank", 64.0, above=0)
    dropout: float = value("dropout of the adapters' inputs", 0.0, at_least=0, below=1)
    target_modules: Any = value(
        "`all-linear` (all but the head), or a list of module names", "all-linear"
    )
    rslora: bool = value("scale by alpha / sqrt(rank) instead (rsLoRA)", False)
    dora: bool = value(
        "weight-decomposed adapters (DoRA, Liu et al. 2024, arXiv 2402.09353)", False
    )
    base_dtype: str = value(
        "dtype of the frozen base weights while the adapters (fp32) are trained; auto: that "
        "of the arithmetic (bf16, fp16), which changes no number, or float32; nf4: 4 bits "
        "(QLoRA), by bitsandbytes. Adapters are merged into the checkpoint's own weights, in fp32",
        "auto",
        choices=("auto", "float32", "nf4"),
    )

    @property
    def name(self) -> str:
        """The name in tables."""
        return ("rs" if self.rslora else "") + ("dora" if self.dora else "lora")

    def wrap(self, model: PreTrainedModel, base_path: str) -> PeftModel:
        """See `base.Adapter`."""
        from peft import LoraConfig

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            use_rslora=self.rslora,
            use_dora=self.dora,
        )
        return _add_adapter(model, config, base_path)


@dataclass
class Oft:
    """OFT: rotates each matrix's inputs, block by block (Qiu et al. 2023, arXiv 2306.07280).

    A block x of the inputs becomes x R with R = (I - Q) (I + Q)^-1; the skew-symmetric Q is
    trained.
    """

    block_size: int = value(
        "number of inputs of a matrix that are rotated together; if their number is not a "
        "multiple of it, the nearest divisor is used",
        32,
        at_least=2,
    )
    dropout: float = value(
        "share of the blocks that are not rotated in a forward pass", 0.0, at_least=0, below=1
    )
    target_modules: Any = value(
        "`all-linear` (all but the head), or a list of module names", "all-linear"
    )
    cayley_neumann: bool = value(
        "use five terms of a series instead of the matrix inverse: faster, but not quite a "
        "rotation",
        False,
    )
    base_dtype: str = value(
        "dtype of the frozen base weights during the training, as for lora",
        "auto",
        choices=("auto", "float32"),
    )

    def wrap(self, model: PreTrainedModel, base_path: str) -> PeftModel:
        """See `base.Adapter`."""
        from peft import OFTConfig

        config = OFTConfig(
            task_type="CAUSAL_LM",
            oft_block_size=self.block_size,
            module_dropout=self.dropout,
            target_modules=self.target_modules,
            use_cayley_neumann=self.cayley_neumann,
        )
        return _add_adapter(model, config, base_path)


def _add_adapter(model: PreTrainedModel, config: PeftConfig, base_path: str) -> Any:
    from peft import get_peft_model

    with quiet_peft():
        adapted: Any = get_peft_model(model, config)
    # By itself PEFT names the folder that the model was loaded from, such as one of a cache.
    adapted.peft_config["default"].base_model_name_or_path = base_path
    return adapted


def warn_of_low_lr(lr: float) -> None:
    """Log a warning if adapters hardly move at this learning rate."""
    if lr < LOWEST_ADAPTER_LR:
        log.warning(
            "lr=%s is a rate for training all weights: adapters hardly move at it, try lr=%s",
            rate_text(lr),
            rate_text(max(10 * lr, 2 * LOWEST_ADAPTER_LR)),
        )
