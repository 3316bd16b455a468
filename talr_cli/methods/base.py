"""What an objective is: per-token weights on the negative log-likelihood, without gradient.

An objective sees the targets of a batch and nothing else: no model, no config file, no optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch


@dataclass
class TargetTokens:
    """The target tokens of a batch, rows joined one after the other.

    Attributes:
        log_probs[N]: Log-probability of each target token under the current model, in nats.
        sequence[N]: Which sequence each target belongs to, counted from 0 in order of appearance.
        entropy[N]: Entropy of each prediction in nats; None unless asked for.
    """

    log_probs: torch.Tensor
    sequence: torch.Tensor
    entropy: torch.Tensor | None = None

    def sequence_losses(self) -> torch.Tensor:
        """Mean negative log-likelihood of every sequence that has a target: losses[S]."""
        sequences, counts = self.sequence.unique_consecutive(return_counts=True)
        sums = self.log_probs.new_zeros(len(sequences))
        position = self.sequence.new_zeros(len(self.sequence))
        if len(sequences):
            position = (self.sequence.diff(prepend=self.sequence[:1]) != 0).cumsum(0)
        return sums.index_add(0, position, -self.log_probs.detach()) / counts


class Objective:
    """Per-token weights. The minimised loss is `sum(weights * -log_probs) / number of targets`.

    Subclasses are dataclasses whose fields are the objective's config values.
    """

    # What the fused head has to compute besides the log-probabilities.
    outputs: ClassVar[tuple[str, ...]] = ()
    # Statistic over the sequences of a batch that `weights` needs: see `temperature`.
    tau_scope: str = "none"
    tau_estimator: str = "none"

    def temperature(self, sequence_losses: torch.Tensor) -> torch.Tensor:
        """The batch statistic tau from sequence_losses[S]; a scalar. Only with a `tau_scope`."""
        raise NotImplementedError

    def weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        """weights[N] for the targets; `tau` is None when the objective has no batch statistic."""
        raise NotImplementedError
