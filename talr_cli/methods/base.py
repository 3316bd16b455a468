"""The parts a method is made of: what each may see, and when it is asked.

An objective sees the targets of a batch and nothing else: no model, no config file, no optimizer.
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
    """The target tokens of a batch, rows joined one after the other.

    What an objective does not list in `outputs` is None.

    Attributes:
        log_probs[N]: Log-probability of each target token under the current model, in nats.
        sequence[N]: Which sequence each target belongs to, counted from 0 in order of appearance.
        entropy[N]: Entropy of each prediction over the vocabulary, in nats.
        topk_entropy[N]: Entropy of each prediction restricted to its likeliest tokens.
        log_sum_sq_probs[N]: log of the sum over the vocabulary of the squared probabilities.
        sequence_weights[N]: The weight of each target's sequence, computed before training.
        base_log_probs[N]: As log_probs, under the base model, computed before training.
        counts[S]: How many targets each sequence has, where the collator has counted them. To count
            them here would make the host wait for the device.
    """

    log_probs: torch.Tensor
    sequence: torch.Tensor
    entropy: torch.Tensor | None = None
    topk_entropy: torch.Tensor | None = None
    log_sum_sq_probs: torch.Tensor | None = None
    sequence_weights: torch.Tensor | None = None
    base_log_probs: torch.Tensor | None = None
    counts: torch.Tensor | None = None

    def sequence_losses(self, log_probs: torch.Tensor | None = None) -> torch.Tensor:
        """Mean negative log-likelihood of every sequence that has a target: losses[S].

        Args:
            log_probs[N]: Of the targets; by default those under the current model.
        """
        values = (self.log_probs if log_probs is None else log_probs).detach()
        counts = self.sizes()
        return values.new_zeros(len(counts)).index_add(0, self.places(), -values) / counts

    def sizes(self) -> torch.Tensor:
        """sizes[S]: how many targets each sequence that has one has."""
        if self.counts is not None:
            return self.counts
        return self.sequence.unique_consecutive(return_counts=True)[1]

    def places(self) -> torch.Tensor:
        """places[N]: where in `sequence_losses` the sequence of each target stands."""
        if self.counts is not None:
            return self.sequence
        return self.sequence.unique_consecutive(return_inverse=True)[1]


@dataclass(frozen=True)
class Step:
    """An optimizer step: `number` of `total`, from 0, in a run with this `seed`."""

    number: int
    total: int
    seed: int


class Objective:
    """Per-token weights. The minimised loss is `sum(weights * -log_probs) / number of targets`.

    Subclasses are dataclasses whose fields are the objective's config values.
    """

    # What the head has to compute besides the log-probabilities: fields of TargetTokens.
    outputs: tuple[str, ...] = ()
    # How many of the likeliest tokens `topk_entropy` looks at.
    top_k: int | None = None
    # Statistic over the sequences of a batch that `weights` needs: see `temperature`.
    tau_scope: str = "none"
    tau_estimator: str = "none"
    # Whether `sequence_weights` is to be asked, once, before training.
    weighs_sequences: ClassVar[bool] = False
    # Whether `kept` is to be asked, once, before training.
    masks_targets: ClassVar[bool] = False
    # Whether TargetTokens have `base_log_probs`; and whether the weights follow from those alone,
    # so that they are known without a pass of the current model.
    sees_base: bool = False
    sees_base_alone: bool = False
    # Whether `over_step` is to be asked, in every step. Under accumulation that takes a forward
    # pass over all micro-batches first, about a third more time.
    looks_at_step: bool = False

    @property
    def reads_base(self) -> bool:
        """Whether the base model goes over the training rows first, once for all such runs."""
        return self.weighs_sequences or self.masks_targets or self.sees_base

    @property
    def sees_a_pass(self) -> bool:
        """Whether it looks at the rows of one forward pass together.

        How a batch is cut up then changes its gradient.
        """
        return self.tau_scope == "microbatch" or bool(getattr(self, "normalise", False))

    def sequence_weights(self, base_losses: torch.Tensor) -> torch.Tensor:
        """weights[R] from the mean losses[R] of the training rows under the base model."""
        raise NotImplementedError

    def kept(self, base_losses: torch.Tensor) -> torch.Tensor:
        """kept[N]: which targets are trained, from their losses[N] under the base model.

        The others are no longer targets: they do not count in what the loss is divided by either.
        """
        raise NotImplementedError

    def sequence_losses(self, tokens: TargetTokens) -> torch.Tensor:
        """losses[S] that `temperature` is a statistic of."""
        return tokens.sequence_losses()

    def temperature(self, sequence_losses: torch.Tensor) -> torch.Tensor:
        """The batch statistic tau from sequence_losses[S]; a scalar. Only with a `tau_scope`."""
        raise NotImplementedError

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        """weights[N], none negative, for the targets; `tau` is None without a batch statistic."""
        raise NotImplementedError

    def over_step(self, weights: torch.Tensor, tokens: TargetTokens, step: Step) -> torch.Tensor:
        """weights[N] of all targets of an optimizer step, from those that `weights` gave.

        Targets stand in the order of the step's rows, however these are dealt to micro-batches and
        ranks.
        """
        raise NotImplementedError


class Regulariser:
    """What holds the model to its base: a term of the loss, or something added to the gradient."""

    def start(self, model: Any, load_base: Callable[[], PreTrainedModel]) -> None:
        """Called once, before training, while `model` still has the base's weights.

        Under FSDP2 its weights are split over the ranks already.
        """
        raise NotImplementedError

    def loss(
        self, model: Any, inputs: Mapping[str, torch.Tensor], hidden: torch.Tensor
    ) -> torch.Tensor | None:
        """Sum over the batch's targets of a differentiable penalty; None for none.

        Args:
            inputs: The batch, see `score_targets`.
            hidden[N, H]: What the head of `model` turned into the targets' predictions.
        """
        return None

    def add_gradient(self, model: Any) -> torch.Tensor | None:
        """Add to the gradients once per optimizer step, before clipping; the penalty's value."""
        return None


@runtime_checkable
class Adapter(Protocol):
    """Adds weights that are trained instead of the model's own, and merged into them afterwards."""

    def wrap(self, model: PreTrainedModel, base_path: str) -> Any:
        """The model with fresh adapters; only they are trained. `base_path` names the base."""
        ...


@runtime_checkable
class Merge(Protocol):
    """Makes checkpoints of the base and a tuned model, without training.

    It may have `share_of(tensor, layers)`: the alpha of a weight, by its name and the number of the
    model's layers.
    """

    @property
    def name(self) -> str:
        """What stands in tables, different for settings that give different checkpoints."""
        ...

    @property
    def alphas(self) -> list[float]:
        """One checkpoint for each: the share of the tuned weights."""
        ...
