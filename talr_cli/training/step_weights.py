"""The weights of a batch's targets, where they depend on the other targets of the optimizer step.

Knows which targets a step has, and puts them in the order of its rows, whatever micro-batches and
ranks these are dealt to. How weights follow from them is the objective's part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from talr_cli.methods.base import Objective, Step, TargetTokens
from talr_cli.training.temperature import StepTemperature

# The optional fields of TargetTokens that have a value for each target.
VALUES = ("entropy", "topk_entropy", "log_sum_sq_probs", "sequence_weights", "base_log_probs")


class StepWeights:
    """Follows the optimizer steps of a training run and answers with weights for each micro-batch.

    An objective that looks at the whole step is asked once, before the first backward pass. With
    one micro-batch in each process it sees the pass that is trained, else one without gradient.
    """

    def __init__(self, objective: Objective, accelerator: Accelerator) -> None:
        self._objective = objective
        self._accelerator = accelerator
        self.temperature = StepTemperature(objective, accelerator)
        self._step = Step(0, 1, 0)
        self._known: list[torch.Tensor] = []

    def start_step(self, batches: int, score: Callable[[int], TargetTokens], step: Step) -> None:
        """A new optimizer step over so many micro-batches; `score` runs one without gradient."""
        self._step = step
        self.temperature.start_step(batches, score)
        if self._objective.looks_at_step and batches > 1:
            scored = [score(one) for one in range(batches)]
            taus = [self.temperature.known(tokens) for tokens in scored]
            self._known = self._over_step(scored, taus)

    def of(self, tokens: TargetTokens) -> tuple[torch.Tensor, torch.Tensor | None]:
        """weights[N] of the next micro-batch, without gradient, and its tau."""
        tau = self.temperature.of(tokens)
        if not self._objective.looks_at_step:
            return self._objective.weights(tokens, tau).detach(), tau
        if not self._known:
            self._known = self._over_step([tokens], [tau])
        return self._known.pop(0), tau

    def _over_step(
        self, batches: Sequence[TargetTokens], taus: Sequence[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """The weights of this rank's micro-batches, made of all that the step has."""
        weights = [
            self._objective.weights(tokens, tau).detach()
            for tokens, tau in zip(batches, taus, strict=True)
        ]
        names = [name for name in VALUES if getattr(batches[0], name) is not None]
        shares: list[torch.Tensor] = []  # of all micro-batches and ranks, in the order of the rows
        sequences: list[int] = []  # how many each has
        own: list[int] = []  # which of them are this rank's
        for tokens, weight in zip(batches, weights, strict=True):
            known = [tokens.log_probs.detach(), *(getattr(tokens, name) for name in names)]
            columns = [weight, tokens.sequence_index(), *known]
            values = torch.stack([one.to(weight) for one in columns], dim=1)
            own.append(len(shares) + self._accelerator.process_index)
            for share, count in self._of_ranks(values, len(tokens.target_counts())):
                shares.append(share)
                sequences.append(count)
        # A row belongs to one share: those of different shares are different sequences.
        places, first = [], 0
        for share, count in zip(shares, sequences, strict=True):
            places.append(share[:, 1].long() + first)
            first += count
        whole, sequence = torch.cat(shares), torch.cat(places)
        ones = torch.ones_like(sequence)
        tokens = TargetTokens(
            log_probs=whole[:, 2],
            sequence=sequence,
            counts=sequence.new_zeros(first).index_add(0, sequence, ones),
            **{name: whole[:, 3 + number] for number, name in enumerate(names)},
        )
        made = self._objective.step_weights(whole[:, 0], tokens, self._step).detach()
        parts = made.split([len(share) for share in shares])
        return [parts[one].to(weights[0]) for one in own]

    def _of_ranks(self, values: torch.Tensor, sequences: int) -> list[tuple[torch.Tensor, int]]:
        """(values[N, F], how many sequences they are of) of every rank; both may differ."""
        if self._accelerator.num_processes == 1:
            return [(values, sequences)]
        own = torch.tensor([[len(values), sequences]], device=values.device)
        counts = self._accelerator.gather(own).tolist()
        most = max(count for count, _ in counts)
        padded = torch.cat([values, values.new_zeros(most - len(values), values.shape[1])])
        gathered = self._accelerator.gather(padded)
        return [
            (gathered[rank * most :][:count], found) for rank, (count, found) in enumerate(counts)
        ]
