"""Adapters by PEFT: which weights are added to a model and trained in the place of its own.

Merging them into the model afterwards is done in `models/adapter.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError
from talr_cli.fields import value
from talr_cli.models.adapter import quiet_peft
from talr_cli.printable import rate_text

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, OFTConfig, PeftConfig, PeftModel
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


def _add_adapter(model: PreTrainedModel, config: LoraConfig | OFTConfig, base_path: str) -> Any:
    from peft import get_peft_model
    from peft.tuners.tuners_utils import check_target_module_exists

    unfit = _unfit_layers(model, config)
    if unfit and config.target_modules == "all-linear":
        config.exclude_modules = sorted(unfit)
        for reason in sorted(set(unfit.values())):
            left_out = {name.rpartition(".")[2] for name in unfit if unfit[name] == reason}
            log.info("no adapter on %s: %s", ", ".join(sorted(left_out)), reason)
    for name, reason in unfit.items():
        if config.target_modules != "all-linear" and check_target_module_exists(config, name):
            module = name.rpartition(".")[2]
            raise UserError(f"adapter.target_modules: no adapter can be on {module}: {reason}")
    with quiet_peft():
        adapted: Any = get_peft_model(model, config)
    # By itself PEFT names the folder that the model was loaded from, such as one of a cache.
    adapted.peft_config["default"].base_model_name_or_path = base_path
    return adapted


def _unfit_layers(model: PreTrainedModel, config: PeftConfig) -> dict[str, str]:
    """{name of a linear layer on which an adapter would be wrong: the reason}."""
    import torch
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    head = model.get_output_embeddings()
    uses = Counter(id(layer.weight) for layer in layers.values() if layer is not head)
    unfit = {}
    for name, layer in layers.items():
        of_model = type(layer).__module__.startswith("transformers")  # and not of a quantiser
        if uses[id(layer.weight)] > 1:  # each adapter would be merged into it
            unfit[name] = "several layers share its matrix"
        elif of_model and not _only_multiplies(layer):
            unfit[name] = "it does more than multiply by its matrix"
        else:
            try:
                _check_lora_target_modules_mamba(config, model, name.rpartition(".")[2])
            except ValueError:
                unfit[name] = "Mamba's kernels would pass over it"
    return unfit


def _only_multiplies(layer: torch.nn.Linear) -> bool:
    """Whether a layer, perhaps of a class of its own, computes what a linear layer computes."""
    import torch

    if type(layer).forward is torch.nn.Linear.forward:
        return True
    states = torch.linspace(-1, 1, 2 * layer.in_features).reshape(2, -1).to(layer.weight)
    try:
        with torch.no_grad():
            made = layer(states)
            torch.testing.assert_close(
                made, torch.nn.functional.linear(states, layer.weight, layer.bias)
            )
    except Exception:  # it takes or gives something else: each class fails in its own way
        return False
    return True


def warn_of_low_lr(lr: float) -> None:
    """Log a warning if adapters hardly move at this learning rate."""
    if lr < LOWEST_ADAPTER_LR:
        log.warning(
            "lr=%s is a rate for training all weights: adapters hardly move at it, try lr=%s",
            rate_text(lr),
            rate_text(max(10 * lr, 2 * LOWEST_ADAPTER_LR)),
        )
