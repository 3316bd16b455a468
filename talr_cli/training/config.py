"""The config values of conf/trainer: how a model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from talr_cli.errors import UserError
from talr_cli.fields import value


@dataclass
class TrainerConfig:
    """The optimisation. conf/trainer says which values the study specifies and which are ours."""

    epochs: float = value("passes over the training rows", above=0)
    max_steps: int | None = value("number of optimizer steps; replaces epochs", None, at_least=1)
    batch_size: int = value("sequences per optimizer step, over all processes", at_least=1)
    micro_batch_size: Any = value(
        "sequences per forward pass of one process; auto or null: chosen for the free memory",
        "auto",
        or_auto=True,
        at_least=1,
        identity=False,  # how a batch is cut up for memory changes no gradient
    )
    max_length: int = value(
        "maximum number of tokens of a row; longer rows are cut, and are bad rows if no target "
        "token is left",
        4096,
        at_least=2,
    )
    max_grad_norm: float = value("clip the gradients to this Euclidean norm", 1.0, above=0)
    precision: str = value(
        "precision of the arithmetic; bf16 and fp16 (with loss scaling) are autocast and keep the "
        "weights in fp32; auto: bf16 if the hardware supports it, else fp16 on CUDA GPUs and fp32 "
        "elsewhere",
        "auto",
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    save_dtype: str = value(
        "dtype in which the model is saved and scored; auto: that of the base checkpoint",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    padding_free: bool | None = value(
        "join rows instead of padding them; null: on a CPU, and on a GPU with a kernel for it",
        None,
        identity=False,
    )
    gradient_checkpointing: Any = value(
        "compute activations again in the backward pass to save memory; auto: if that is faster "
        "than fewer sequences at once",
        "auto",
        choices=("auto", True, False),
        identity=False,
    )
    compile: bool = value(
        "compile the decoder layers with torch.compile: results are equal up to rounding; "
        "compilation takes up to a few minutes",
        False,
        identity=False,
    )
    deterministic: bool = value(
        "on CUDA GPUs: sum in a fixed order, so that a killed run resumes to exactly the same "
        "weights; false: the gradient of attention is summed in any order, which may be a few "
        "percent faster",
        True,
        identity=False,  # results differ by rounding only
    )
    checkpoint_every_epoch: bool = value(
        "save a checkpoint after every epoch, from which an interrupted run resumes; deleted "
        "at the end",
        True,
        identity=False,
    )
    validate: bool = value("compute the loss on the validation rows after every epoch", False)

    def __post_init__(self) -> None:
        if self.gradient_checkpointing in (0, 1):
            self.gradient_checkpointing = bool(self.gradient_checkpointing)
        if self.rows_at_once and self.batch_size % self.rows_at_once:
            raise UserError(
                f"trainer.batch_size={self.batch_size} is not a multiple of "
                f"trainer.micro_batch_size={self.micro_batch_size}"
            )

    @property
    def rows_at_once(self) -> int | None:
        """The micro-batch size as typed; None if talr is to choose it."""
        return self.micro_batch_size if isinstance(self.micro_batch_size, int) else None
