"""The interfaces of the parts of a method: what each part may see, and when it is called.

An objective sees the target tokens of a batch and nothing else: no model, no config file, no
optimizer. The implementations are in the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

HARD_TOKEN_PROBABILITY = 0.2  # "hard" as in the study's figures: p < 0.2


@dataclass
class TargetTokens:
    """The target tokens of a batch, those of each row behind those of the row before.

    N is the number of targets, S the number of sequences with at least one target. The optional
    tensors are None unless the objective asks for them.

    Attributes:
        log_probs[N]: Log-probability of each target token under the current model, in nats.
        sequence[N]: Which sequence each target belongs to, counted from 0 in order of appearance.
        entropy[N]: Entropy of each prediction over the vocabulary, in nats.
        topk_entropy[N]: Entropy of each prediction restricted to its likeliest tokens.
        log_sum_sq_probs[N]: Log of the sum over the vocabulary of the squared probabilities.
        sequence_weights[N]: The weight of each target's sequence, computed before training.
        base_log_probs[N]: Like log_probs, but under the base model; computed before training.
        counts[S]: How many targets each sequence has. The collator counts them: if it is left out,
            they are counted here, which makes the host wait for the device.
    """

    log_probs: torch.Tensor
    sequence: torch.Tensor
    entropy: torch.Tensor | None = None
    topk_entropy: torch.Tensor | None = None
    log_sum_sq_probs: torch.Tensor | None = None
    sequence_weights: torch.Tensor | None = None
    base_log_probs: torch.Tensor | None = None
    counts: Any = None

    def __post_init__(self) -> None:
        if self.counts is None:
            _, self.sequence, self.counts = self.sequence.unique_consecutive(
                return_inverse=True, return_counts=True
            )

    def sequence_losses(self, log_probs: torch.Tensor | None = None) -> torch.Tensor:
        """losses[S]: the mean negative log-likelihood of each sequence, in nats per target.

        Args:
            log_probs[N]: Of the targets; by default those under the current model.
        """
        values = (self.log_probs if log_probs is None else log_probs).detach()
        sums = values.new_zeros(len(self.counts)).index_add(0, self.sequence, -values)
        return sums / self.counts


@dataclass(frozen=True)
class Step:
    """An optimizer step: its `number` (from 0) of `total`, and the `seed` of the run."""

    number: int
    total: int
    seed: int


class Objective:
    """Per-token weights. The minimised loss is `sum(weights * -log_probs) / number of targets`.

    Subclasses are dataclasses whose fields are the objective's config values.
    """

    # Fields of TargetTokens that the head has to compute besides the log-probabilities.
    outputs: tuple[str, ...] = ()
    # Over how many of the likeliest tokens `topk_entropy` is taken.
    top_k: int | None = None
    # The batch over which `temperature` is taken, and how it is estimated; see `Talr`.
    tau_scope: str = "none"
    tau_estimator: str = "none"
    # Whether `sequence_weights` is called, once, before training.
    weighs_sequences: ClassVar[bool] = False
    # Whether `target_mask` is called, once, before training.
    masks_targets: ClassVar[bool] = False
    # Whether TargetTokens have `base_log_probs`; and whether the weights depend on nothing else, so
    # that they are known without a forward pass of the current model.
    sees_base: bool = False
    sees_only_base: bool = False
    # Whether `step_weights` is called in every step. With accumulation that costs a forward pass
    # over all micro-batches first, about a third more time.
    looks_at_step: bool = False

    @property
    def needs_base_losses(self) -> bool:
        """Whether the base model has to score the training rows first (once for all such runs)."""
        return self.weighs_sequences or self.masks_targets or self.sees_base

    @property
    def depends_on_micro_batch(self) -> bool:
        """Whether a weight depends on which rows share a forward pass.

        If so, the size of the micro-batches changes the gradient.
        """
        return self.tau_scope == "microbatch"

    def sequence_weights(self, base_losses: torch.Tensor) -> torch.Tensor:
        """weights[R] of the training rows, from their mean base_losses[R] (nats per target)."""
        raise NotImplementedError

    def target_mask(self, base_losses: torch.Tensor) -> torch.Tensor:
        """mask[N], True for the targets to train on, from their base_losses[N] in nats.

        The others are no longer targets: the loss is not divided by them either.
        """
        raise NotImplementedError

    def sequence_losses(self, tokens: TargetTokens) -> torch.Tensor:
        """losses[S] over which `temperature` is taken."""
        return tokens.sequence_losses()

    def temperature(self, sequence_losses: torch.Tensor) -> torch.Tensor:
        """The scalar tau of a batch, from its sequence_losses[S]; called if `tau_scope` is set."""
        raise NotImplementedError

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        """weights[N] of the targets, none negative; `tau` is None without a `tau_scope`."""
        raise NotImplementedError

    def step_weights(self, weights: torch.Tensor, tokens: TargetTokens, step: Step) -> torch.Tensor:
        """weights[N] of all targets of an optimizer step, from the weights[N] that `weights` gave.

        The targets are in the order of the step's rows, no matter how these are divided into
        micro-batches and among ranks.
        """
        raise NotImplementedError


class Regulariser:
    """Keeps the model close to its base, by a term of the loss or by a change of the gradient."""

    def start(self, model: Any, load_base: Callable[[], PreTrainedModel]) -> None:
        """Called once, before training, while `model` still has the base's weights.

        Under FSDP2 the weights are already sharded.

        Args:
            load_base: Loads another copy of the base.
        """
        raise NotImplementedError

    def loss(
        self, model: Any, inputs: Mapping[str, torch.Tensor], hidden: torch.Tensor
    ) -> torch.Tensor | None:
        """A differentiable penalty, summed over the batch's targets; None if there is none.

        Args:
            inputs: The batch; see `training/token_scores.py: score_targets`.
            hidden[N, H]: The hidden states from which the head of `model` predicted the targets.
        """
        return None

    def add_gradient(self, model: Any) -> torch.Tensor | None:
        """Change the gradients, once per optimizer step and before clipping.

        Returns:
            The value of the penalty, a scalar, for the log; None if there is none.
        """
        return None


@runtime_checkable
class Adapter(Protocol):
    """Adds weights that are trained instead of the model's own, and merged into them afterwards."""

    def wrap(self, model: PreTrainedModel, base_path: str) -> Any:
        """The model with fresh adapters, the only weights that are trained.

        Args:
            base_path: The hub id or path of the base, for the adapter's config.
        """
        ...


@runtime_checkable
class Merge(Protocol):
    """Makes checkpoints from the base and a tuned model, without training.

    It may have a method `share_of(tensor, layers)`, which gives the alpha of one weight from its
    name in the checkpoint and the number of the model's layers.
    """

    @property
    def name(self) -> str:
        """The name in tables; settings that give different checkpoints have different names."""
        ...

    @property
    def alphas(self) -> list[float]:
        """The share of the tuned weights in each checkpoint that is made."""
        ...
