"""The optimizers that can be chosen: what the trainer has to know about each of them.

The study trains with AdamW. The fields of a class are exactly the config values that its optimizer
reads. Learning rate and schedule are set by the trainer.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

from talr_cli.errors import UserError, install_command
from talr_cli.fields import value

_DECAY: dict[str, Any] = {
    "doc": "weight decay towards zero, per step and unit of learning rate",
    "default": 0.0,
    "at_least": 0,
}
_BETA1: dict[str, Any] = {
    "doc": "decay of the running mean of the gradients", "default": 0.9, "at_least": 0, "below": 1
}  # fmt: skip
_BETA2: dict[str, Any] = {
    "doc": "decay of the running mean of their squares", "default": 0.999, "at_least": 0, "below": 1
}  # fmt: skip


class Optimizer:
    """The base class. Subclasses are dataclasses with the optimizer's config values."""

    choice: ClassVar[str | None] = None  # name in conf/optimizer, if not that of the class
    needs: ClassVar[str | None] = None  # package that is not installed together with talr
    extra: ClassVar[str] = ""  # talr's extra that installs it
    bf16_weights: ClassVar[bool] = False  # whether the weights it updates are bf16, not fp32
    supports_fsdp2: ClassVar[bool] = True
    compiles: ClassVar[bool] = False  # whether it compiles its update, in the first step
    bytes_per_weight: ClassVar[float] = 8  # of its state, for each trained weight
    # The same for the embedding and for an untied head; None: as for all other weights.
    bytes_of_ends: ClassVar[tuple[float, float] | None] = None

    def state_bytes(self, trained: int, embedding: int = 0, head: int = 0) -> float:
        """Bytes of the optimizer's state.

        Args:
            trained: The number of trained weights.
            embedding: How many of them belong to the embedding.
            head: How many belong to the head; 0 if it is tied to the embedding.
        """
        of_embedding, of_head = self.bytes_of_ends or (self.bytes_per_weight, self.bytes_per_weight)
        rest = trained - embedding - head
        return self.bytes_per_weight * rest + of_embedding * embedding + of_head * head

    def temporary_bytes(self, trained: int, largest: int, device: str) -> float:
        """Bytes that are allocated only during an update, besides state and gradient.

        Args:
            trained: The number of trained weights.
            largest: The number of weights of the largest matrix.
            device: cuda or cpu.
        """
        return 0

    def arguments(self) -> dict[str, Any]:
        """The arguments of transformers' TrainingArguments that select and configure it."""
        return {}

    def class_and_arguments(self, lr: float) -> tuple[Any, dict[str, Any]] | None:
        """Trainer's `optimizer_cls_and_kwargs`; None for one that `arguments` can select."""
        return None

    def check(self, sharded: bool, adapted: bool, precision: str) -> None:
        """Refuse a training that this optimizer cannot do, here or at all.

        Args:
            sharded: Whether FSDP2 shards the weights.
            adapted: Whether an adapter is trained, not all weights.
            precision: The precision of the arithmetic: bf16, fp16 or fp32.

        Raises:
            UserError: Says what to type instead.
        """
        name = self.choice or type(self).__name__.lower()
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            raise UserError(f"optimizer={name} needs {self.needs}: {install_command(self.extra)}")
        if sharded and not self.supports_fsdp2:
            raise UserError(
                f"optimizer={name} does not go with distributed=fsdp2: use distributed=ddp or "
                "optimizer=adamw"
            )
        if self.bf16_weights and (adapted or precision != "bf16"):
            raise UserError(
                f"optimizer={name} trains all weights, in bf16: it goes with adapter=none and "
                "trainer.precision=bf16 only; use optimizer=adamw"
            )


@dataclass
class AdamW(Optimizer):
    """Adam with decoupled weight decay (arXiv 1711.05101); 8 bytes of state per weight."""

    weight_decay: float = value(**_DECAY)
    beta1: float = value(**_BETA1)
    beta2: float = value(**_BETA2)

    def arguments(self) -> dict[str, Any]:
        return {
            "optim": "adamw_torch_fused",
            "weight_decay": self.weight_decay,
            "adam_beta1": self.beta1,
            "adam_beta2": self.beta2,
        }


@dataclass
class AdamW8bit(AdamW):
    """AdamW with 8-bit state (arXiv 2110.02861), by bitsandbytes; 2 bytes of state per weight.

    The state of the embedding and of small tensors stays in 32 bits.
    """

    paged: bool = value(
        "let the running means move to the host's memory when the GPU's runs out", False
    )
    choice: ClassVar[str | None] = "adamw-8bit"
    needs: ClassVar[str | None] = "bitsandbytes"
    extra: ClassVar[str] = "bnb"
    supports_fsdp2: ClassVar[bool] = False
    bytes_per_weight: ClassVar[float] = 2
    bytes_of_ends: ClassVar[tuple[float, float] | None] = (8, 2)

    def arguments(self) -> dict[str, Any]:
        optim = "paged_adamw_8bit" if self.paged else "adamw_bnb_8bit"
        return {**super().arguments(), "optim": optim}


@dataclass
class AdamWBf16(AdamW):
    """AdamW on bf16 weights with stochastic rounding and 8-bit state, by torchao.

    Near 0.03 bf16 numbers are 1e-4 apart. Stochastic rounding makes an update of 1e-6 about once in
    a hundred times, so that it survives on average. Weights, gradient and state take 6 bytes per
    weight instead of 16.
    """

    choice: ClassVar[str | None] = "adamw-bf16"
    needs: ClassVar[str | None] = "torchao"
    extra: ClassVar[str] = "ao"
    supports_fsdp2: ClassVar[bool] = False
    bytes_per_weight: ClassVar[float] = 2
    bf16_weights: ClassVar[bool] = True
    compiles: ClassVar[bool] = True

    def arguments(self) -> dict[str, Any]:
        rounding = "bf16_stochastic_round=True"
        return {**super().arguments(), "optim": "adamw_torch_8bit", "optim_args": rounding}


@dataclass
class Adafactor(Optimizer):
    """Adafactor (arXiv 1804.04235): second moments by rows and columns only, without momentum.

    It has next to no state.
    """

    weight_decay: float = value(**_DECAY)
    supports_fsdp2: ClassVar[bool] = False
    bytes_per_weight: ClassVar[float] = 0

    def temporary_bytes(self, trained: int, largest: int, device: str) -> float:
        return 2 * 4 * min(trained, largest)  # the squared gradient of a matrix, and its update

    def arguments(self) -> dict[str, Any]:
        return {"optim": "adafactor", "weight_decay": self.weight_decay}


@dataclass
class Sgd(Optimizer):
    """Stochastic gradient descent with momentum, which takes 4 bytes of state per weight."""

    weight_decay: float = value(**_DECAY)
    momentum: float = value(
        "momentum: the decay of the sum of the gradients", 0.9, at_least=0, below=1
    )
    bytes_per_weight: ClassVar[float] = 4

    def temporary_bytes(self, trained: int, largest: int, device: str) -> float:
        # Weight decay is added to a copy of the gradient; on a GPU for all weights at once.
        decayed = trained if device == "cuda" else min(trained, largest)
        return 4 * decayed if self.weight_decay else 0

    def arguments(self) -> dict[str, Any]:
        momentum = f"momentum={self.momentum}"
        return {"optim": "sgd", "weight_decay": self.weight_decay, "optim_args": momentum}


@dataclass
class Muon(Optimizer):
    """Muon (arXiv 2502.16982) for the hidden matrices, AdamW for all other weights.

    Muon's updates are scaled to the size of AdamW's, so that both take the same learning rates.
    """

    weight_decay: float = value(**_DECAY)
    momentum: float = value("momentum of Muon, for the hidden matrices", 0.95, at_least=0, below=1)
    beta1: float = value(**_BETA1)
    beta2: float = value(**_BETA2)
    supports_fsdp2: ClassVar[bool] = False
    bytes_per_weight: ClassVar[float] = 4
    bytes_of_ends: ClassVar[tuple[float, float] | None] = (8, 8)

    def class_and_arguments(self, lr: float) -> tuple[Any, dict[str, Any]]:
        from talr_cli.methods.muon import MuonAndAdamW

        betas = (self.beta1, self.beta2)
        arguments = {"weight_decay": self.weight_decay, "momentum": self.momentum, "betas": betas}
        return lambda: MuonAndAdamW, {"lr": lr, **arguments}
