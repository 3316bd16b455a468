"""The harness's model, HFLM, with our own decoding: greedy answers, shared contexts read once.

What the harness asks and how it judges stays its own: prompts, tokens, truncation, stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from talr_cli import progress
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.continuations import Choices, read_once
from talr_cli.evaluation.generation import Request, greedy, only_ends_inherited
from talr_cli.models.row_batches import rows_are_apart
from talr_cli.models.saving import end_tokens

# Settings that a task may name and still be greedy: without do_sample they mean nothing.
_GREEDY = {"do_sample", "temperature", "top_p", "top_k"}

# A request of the harness for a log-likelihood: (its text, context tokens, continuation tokens).
Likelihood = tuple[Any, list[int], list[int]]
# Requests -> (new tokens, whether they were cut) of each.
Generate = Callable[[Sequence[Request]], Sequence[tuple[list[int], bool]]]


def is_greedy(settings: Mapping[str, Any]) -> bool:
    """Whether a task's settings for generation ask for the likeliest tokens and nothing else."""
    return not _samples(normalize_gen_kwargs(dict(settings)), {"until", "max_gen_toks"})


def _samples(settings: Mapping[str, Any], known: Collection[str]) -> bool:
    return bool(settings.get("do_sample")) or bool(settings.keys() - _GREEDY - {*known})


class Answering(HFLM):
    """Answers `rows` requests at once with a model in memory, or `generate` in its place."""

    def __init__(
        self,
        model: Any,
        renderer: Renderer,
        rows: int,
        generate: Generate | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, tokenizer=renderer.tokenizer, batch_size=rows, **settings)
        self._ends = set(end_tokens(model, renderer.end_of_turn))
        # By their text: a text that is no token has the id of <unk>, which may be an end token.
        self._end_texts = set(renderer.tokenizer.convert_ids_to_tokens([*self._ends]))
        self._rows = rows
        self._asked = 0  # requests of the call that is answered now
        self._generate = generate or self._greedy

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self._asked = len(requests)
        return super().generate_until(requests, disable_tqdm)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **settings: Any
    ) -> torch.Tensor:
        """ids[B, T'] of prompts and answers, padded on the right where an answer has ended."""
        if _samples(settings, {"attention_mask"}):
            with only_ends_inherited(self.model):  # sampled as the task asks, by HFLM itself
                return super()._model_generate(context, max_length, stop, **settings)
        with progress.share(len(context), of=self._asked or len(context)):
            return self._greedily(context, max_length, stop, settings)

    def _greedily(
        self, context: torch.Tensor, max_length: int, stop: list[str], settings: Mapping[str, Any]
    ) -> torch.Tensor:
        tokenizer: Any = self.tokenizer
        strings = [text for text in stop if text not in self._end_texts]
        new_tokens = max_length - context.shape[1]
        answers = self._generate(
            [
                Request(tuple(row[mask.bool()].tolist()), new_tokens, tuple(strings))
                for row, mask in zip(context, settings["attention_mask"], strict=True)
            ]
        )
        width = max(len(tokens) for tokens, _ in answers)
        ids = torch.full((len(answers), width), tokenizer.pad_token_id)
        for row, (tokens, _) in enumerate(answers):
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        return torch.cat([context, ids.to(context.device)], dim=-1)

    def _greedy(self, requests: Sequence[Request]) -> list[tuple[list[int], bool]]:
        """Answers to requests that have the same stop strings."""
        tokenizer: Any = self.tokenizer
        strings = requests[0].stop
        window = max(
            (len(tokenizer(text, add_special_tokens=False).input_ids) + 2 for text in strings),
            default=0,
        )

        def stopped(tokens: list[int]) -> bool:
            text = tokenizer.decode(tokens[-window:]) if strings else ""
            return any(string in text for string in strings)

        return greedy(self.model, requests, self._ends, stopped)

    def _loglikelihood_tokens(
        self,
        requests: list[Likelihood],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        shared = self._read_once(requests) if override_bs is None else None
        if shared:
            return shared
        self._asked = len(requests)
        longest = max(len(context) + len(answer) for _, context, answer in requests)
        together: Any = self.batch_size_per_gpu  # type: ignore[has-type]
        if not rows_are_apart(self.model, min(longest, self.max_length)):
            self.batch_size_per_gpu = 1
        try:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        finally:
            self.batch_size_per_gpu = together

    def _model_call(self, inps: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
        with progress.share(len(inps), of=max(self._asked, len(inps))):
            return super()._model_call(inps, *args, **settings)

    def _read_once(self, requests: Sequence[Likelihood]) -> list[tuple[float, bool]] | None:
        """Likelihoods, each context read once; None where none is shared or the model cannot."""
        places: dict[tuple[int, ...], list[int]] = {}
        for place, (_, context, _continuation) in enumerate(requests):
            places.setdefault(tuple(context), []).append(place)
        longest = max(len(context) + len(answer) for _, context, answer in requests)
        if len(places) == len(requests) or longest > self.max_length + 1:
            return None
        if self.model._is_stateful or min(map(len, places)) < 2:
            return None
        ordered = sorted(
            places.items(),
            key=lambda item: (-max(len(requests[place][2]) for place in item[1]), -len(item[0])),
        )
        questions = [
            Choices(context, [requests[place][2] for place in own]) for context, own in ordered
        ]
        found = read_once(self.model, questions, self._rows, self.softmax_dtype)
        if found is None:
            return None
        answers: list[Any] = [None] * len(requests)
        for (_, own), likelihoods in zip(ordered, found, strict=True):
            for place, likelihood in zip(own, likelihoods, strict=True):
                answers[place] = likelihood
        return answers
