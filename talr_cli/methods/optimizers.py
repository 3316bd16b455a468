"""How the weights follow the gradients: what the trainer is told of each optimizer.

The study trains with AdamW. Each class has the values that its optimizer reads and no others; the
learning rate and the schedule are the trainer's.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

from talr_cli.errors import UserError, install
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
    """What the trainer needs to know. Subclasses are dataclasses with the optimizer's values."""

    choice: ClassVar[str | None] = None  # its name in conf/optimizer, where not the class's name
    needs: ClassVar[str | None] = None  # a package that talr does not install by itself
    extra: ClassVar[str] = ""  # talr's extra that brings it
    bf16_weights: ClassVar[bool] = False  # whether it updates weights in bf16, not in fp32
    shards: ClassVar[bool] = True  # whether it takes weights that FSDP2 has split up
    state_bytes: ClassVar[float] = 8  # for each number that it trains
    # The same for the embedding and for a head that is a matrix of its own; None: as for the rest.
    ends_bytes: ClassVar[tuple[float, float] | None] = None

    def state(self, trained: int, embedding: int = 0, head: int = 0) -> float:
        """Bytes of its state for `trained` numbers.

        Args:
            embedding: How many of them are the embedding's.
            head: How many are the head's; 0 where the head is the embedding.
        """
        of_embedding, of_head = self.ends_bytes or (self.state_bytes, self.state_bytes)
        rest = trained - embedding - head
        return self.state_bytes * rest + of_embedding * embedding + of_head * head

    def working(self, trained: int, largest: int, device: str) -> float:
        """Bytes that a step takes beside its state: of so many numbers, `largest` in one matrix."""
        return 0

    def arguments(self) -> dict[str, Any]:
        """What transformers' TrainingArguments say about it."""
        return {}

    def maker(self, lr: float) -> tuple[Any, dict[str, Any]] | None:
        """For one that transformers does not know: (class or factory of it, its arguments)."""
        return None

    def check(self, sharded: bool, adapted: bool, precision: str) -> None:
        """Refuse a training that this optimizer cannot do here.

        Args:
            adapted: Whether an adapter is trained, and not all weights.
            precision: bf16, fp16 or fp32: what is computed in.

        Raises:
            UserError: With what to type instead.
        """
        name = self.choice or type(self).__name__.lower()
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            raise UserError(f"optimizer={name} needs {self.needs}: {install(self.extra)}")
        if sharded and not self.shards:
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
    """Adam with decoupled weight decay (arXiv 1711.05101), 8 bytes of state a weight."""

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
    """AdamW with its two means in 8 bits (arXiv 2110.02861), by bitsandbytes: 2 bytes a weight.

    The embedding's, and those of small tensors, stay in 32 bits.
    """

    paged: bool = value(
        "let the running means move to the host's memory when the GPU's runs out", False
    )
    choice: ClassVar[str | None] = "adamw-8bit"
    needs: ClassVar[str | None] = "bitsandbytes"
    extra: ClassVar[str] = "bnb"
    shards: ClassVar[bool] = False
    state_bytes: ClassVar[float] = 2
    ends_bytes: ClassVar[tuple[float, float] | None] = (8, 2)

    def arguments(self) -> dict[str, Any]:
        optim = "paged_adamw_8bit" if self.paged else "adamw_bnb_8bit"
        return {**super().arguments(), "optim": optim}


@dataclass
class AdamWBf16(AdamW):
    """AdamW on bf16 weights that are rounded at random, with 8-bit means, by torchao.

    A weight of 0.03 has neighbours 1e-4 apart in bf16: an update of 1e-6 is made in one case of a
    hundred, so that it survives on average. 6 bytes a weight in all, in the place of 16.
    """

    choice: ClassVar[str | None] = "adamw-bf16"
    needs: ClassVar[str | None] = "torchao"
    extra: ClassVar[str] = "ao"
    shards: ClassVar[bool] = False
    state_bytes: ClassVar[float] = 2
    bf16_weights: ClassVar[bool] = True

    def arguments(self) -> dict[str, Any]:
        rounding = "bf16_stochastic_round=True"
        return {**super().arguments(), "optim": "adamw_torch_8bit", "optim_args": rounding}


@dataclass
class Adafactor(Optimizer):
    """Second moments by rows and columns (arXiv 1804.04235), next to no state, without momentum."""

    weight_decay: float = value(**_DECAY)
    shards: ClassVar[bool] = False
    state_bytes: ClassVar[float] = 0

    def working(self, trained: int, largest: int, device: str) -> float:
        return 2 * 4 * min(trained, largest)  # a matrix's squares, then its update

    def arguments(self) -> dict[str, Any]:
        return {"optim": "adafactor", "weight_decay": self.weight_decay}


@dataclass
class Sgd(Optimizer):
    """The gradient itself, with momentum: 4 bytes of state a weight, without it none."""

    weight_decay: float = value(**_DECAY)
    momentum: float = value(
        "momentum: the decay of the sum of the gradients", 0.9, at_least=0, below=1
    )
    state_bytes: ClassVar[float] = 4

    def working(self, trained: int, largest: int, device: str) -> float:
        # A gradient with the decay in it: on a GPU of all weights at once.
        decayed = trained if device == "cuda" else min(trained, largest)
        return 4 * decayed if self.weight_decay else 0

    def arguments(self) -> dict[str, Any]:
        momentum = f"momentum={self.momentum}"
        return {"optim": "sgd", "weight_decay": self.weight_decay, "optim_args": momentum}


@dataclass
class Muon(Optimizer):
    """Orthogonalised momentum for the hidden matrices (arXiv 2502.16982), AdamW for all else.

    Its updates are scaled to the size of AdamW's, so that learning rates are alike.
    """

    weight_decay: float = value(**_DECAY)
    momentum: float = value("momentum of Muon, for the hidden matrices", 0.95, at_least=0, below=1)
    beta1: float = value(**_BETA1)
    beta2: float = value(**_BETA2)
    shards: ClassVar[bool] = False
    state_bytes: ClassVar[float] = 4
    ends_bytes: ClassVar[tuple[float, float] | None] = (8, 8)

    def maker(self, lr: float) -> tuple[Any, dict[str, Any]]:
        from talr_cli.methods.muon import MuonAndAdamW

        betas = (self.beta1, self.beta2)
        arguments = {"weight_decay": self.weight_decay, "momentum": self.momentum, "betas": betas}
        return lambda: MuonAndAdamW, {"lr": lr, **arguments}
