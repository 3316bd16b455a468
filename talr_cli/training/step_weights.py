"""The weights of a micro-batch's targets, also if they depend on the whole optimizer step.

Knows which targets a step has, and puts them in the order of its rows, no matter how these are
divided into micro-batches and among ranks. The objective knows how to compute weights from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from talr_cli.methods.base import Objective, Step, TargetTokens
from talr_cli.methods.checks import checked
from talr_cli.training.temperature import StepTemperature

# The optional fields of TargetTokens that have a value for each target.
VALUES = ("entropy", "topk_entropy", "log_sum_sq_probs", "sequence_weights", "base_log_probs")


class StepWeights:
    """Follows the optimizer steps of a training and gives the weights of each micro-batch.

    An objective that looks at the whole step is called once per step, before the first backward
    pass. Without accumulation it gets the results of the forward pass that is trained, otherwise
    those of an additional forward pass without gradient.
    """

    def __init__(self, objective: Objective, accelerator: Accelerator) -> None:
        self._objective = objective
        self._accelerator = accelerator
        self.temperature = StepTemperature(objective, accelerator)
        self._step = Step(0, 1, 0)
        self._known: list[torch.Tensor] = []

    def start_step(self, batches: int, score: Callable[[int], TargetTokens], step: Step) -> None:
        """Start a new optimizer step.

        Args:
            batches: The number of micro-batches of this rank.
            score: Runs the micro-batch of an index without gradient.
        """
        self._step = step
        self.temperature.start_step(batches, score)
        if self._objective.looks_at_step and batches > 1:
            scored = [score(one) for one in range(batches)]
            taus = [self.temperature.tau_of(tokens) for tokens in scored]
            self._known = self._compute_step(scored, taus)

    def next_weights(self, tokens: TargetTokens) -> tuple[torch.Tensor, torch.Tensor | None]:
        """weights[N] of the next micro-batch, without gradient, and its tau."""
        tau = self.temperature.next_tau(tokens)
        if not self._objective.looks_at_step:
            return self._weights(tokens, tau), tau
        if not self._known:
            self._known = self._compute_step([tokens], [tau])
        return self._known.pop(0), tau

    def _weights(self, tokens: TargetTokens, tau: torch.Tensor | None) -> torch.Tensor:
        if not len(tokens.log_probs):  # a rank's share of an epoch's last batch may be empty
            return tokens.log_probs.detach()
        weights = self._objective.weights(tokens, tau)
        return checked(self._objective, "weights", weights, tokens.log_probs).detach()

    def _compute_step(
        self, batches: Sequence[TargetTokens], taus: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """The weights of each micro-batch of this rank, from all targets of the step."""
        weights = [self._weights(tokens, tau) for tokens, tau in zip(batches, taus, strict=True)]
        names = [name for name in VALUES if getattr(batches[0], name) is not None]
        shares: list[torch.Tensor] = []  # of each micro-batch and rank, in the order of the rows
        sequences: list[int] = []  # the number of sequences of each share
        own: list[int] = []  # the indices of this rank's shares
        for tokens, weight in zip(batches, weights, strict=True):
            known = [tokens.log_probs.detach(), *(getattr(tokens, name) for name in names)]
            columns = [weight, tokens.sequence, *known]
            values = torch.stack([one.to(weight) for one in columns], dim=1)
            own.append(len(shares) + self._accelerator.process_index)
            for share, count in self._gather(values, len(tokens.counts)):
                shares.append(share)
                sequences.append(count)
        # Each share counts its sequences from 0; in the step they are numbered consecutively.
        numbers, first = [], 0
        for share, count in zip(shares, sequences, strict=True):
            numbers.append(share[:, 1].long() + first)
            first += count
        table, sequence = torch.cat(shares), torch.cat(numbers)
        ones = torch.ones_like(sequence)
        tokens = TargetTokens(
            log_probs=table[:, 2],
            sequence=sequence,
            counts=sequence.new_zeros(first).index_add(0, sequence, ones),
            **{name: table[:, 3 + number] for number, name in enumerate(names)},
        )
        step_weights = self._objective.step_weights(table[:, 0], tokens, self._step)
        step_weights = checked(self._objective, "step_weights", step_weights, table[:, 0]).detach()
        parts = step_weights.split([len(share) for share in shares])
        return [parts[index].to(weights[0]) for index in own]

    def _gather(self, values: torch.Tensor, sequences: int) -> list[tuple[torch.Tensor, int]]:
        """(values[N, F], number of sequences) of each rank; N may differ among ranks."""
        if self._accelerator.num_processes == 1:
            return [(values, sequences)]
        own = torch.tensor([[len(values), sequences]], device=values.device)
        counts = self._accelerator.gather(own).tolist()
        most = max(count for count, _ in counts)
        padded = torch.cat([values, values.new_zeros(most - len(values), values.shape[1])])
        gathered = self._accelerator.gather(padded)
        return [
            (gathered[rank * most :][:count], rank_sequences)
            for rank, (count, rank_sequences) in enumerate(counts)
        ]
