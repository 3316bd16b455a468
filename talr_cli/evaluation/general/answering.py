"""The harness's model class, HFLM, with our own decoding: greedy, and with shared contexts.

Prompts, tokenisation, truncation, stop strings and scoring remain the harness's.
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
from talr_cli.evaluation.continuations import Choices, continuation_likelihoods
from talr_cli.evaluation.decoding import Request, without_generation_config
from talr_cli.evaluation.generation import generate_batch
from talr_cli.models.row_batches import can_batch_lengths
from talr_cli.models.saving import end_tokens

# Settings that a greedy task may have: without do_sample they have no effect.
_GREEDY = {"do_sample", "temperature", "top_p", "top_k"}

# A request of the harness for a log-likelihood: (text, context tokens, continuation tokens).
Likelihood = tuple[Any, list[int], list[int]]
# Requests -> for each (new tokens, whether they were cut off).
Generate = Callable[[Sequence[Request]], Sequence[tuple[list[int], bool]]]


def is_greedy(settings: Mapping[str, Any]) -> bool:
    """Whether a task's generation settings ask for plain greedy decoding."""
    return not _asks_to_sample(normalize_gen_kwargs(dict(settings)), {"until", "max_gen_toks"})


def _asks_to_sample(settings: Mapping[str, Any], known: Collection[str]) -> bool:
    return bool(settings.get("do_sample")) or bool(settings.keys() - _GREEDY - {*known})


class Answering(HFLM):
    """Answers the harness's requests, `rows` at once.

    Args:
        model: Answers the requests, in this process.
        generate: Generates answers instead of `model`.
    """

    def __init__(
        self,
        model: Any,
        renderer: Renderer,
        rows: int,
        generate: Generate | None = None,
        **settings: Any,
    ) -> None:
        # By itself HFLM takes the decoder of a BART alone for an encoder with a decoder.
        super().__init__(
            model,
            backend="causal",
            tokenizer=renderer.tokenizer,
            batch_size=rows,
            **settings,
        )
        self._ends = set(end_tokens(model, renderer.end_of_turn))
        # By their text: a text that is no token has the id of <unk>, which may be an end token.
        self._end_texts = set(renderer.tokenizer.convert_ids_to_tokens([*self._ends]))
        self._rows = rows
        self._asked = 0  # the number of requests in the current call, for the progress
        self._generate = generate or self._generate_here

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self._asked = len(requests)
        return super().generate_until(requests, disable_tqdm)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **settings: Any
    ) -> torch.Tensor:
        """ids[B, T'] of prompts and answers, which are padded on the right."""
        if _asks_to_sample(settings, {"attention_mask"}):
            with without_generation_config(self.model):  # HFLM itself samples as the task asks
                return super()._model_generate(context, max_length, stop, **settings)
        with progress.share(len(context), of=self._asked or len(context)):
            return self._generate_ids(context, max_length, stop, settings)

    def _generate_ids(
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

    def _generate_here(self, requests: Sequence[Request]) -> list[tuple[list[int], bool]]:
        """Greedy answers to requests that all have the same stop strings."""
        tokenizer: Any = self.tokenizer
        strings = requests[0].stop
        window = max(
            (len(tokenizer(text, add_special_tokens=False).input_ids) + 2 for text in strings),
            default=0,
        )

        def stopped(tokens: list[int]) -> bool:
            text = tokenizer.decode(tokens[-window:]) if strings else ""
            return any(string in text for string in strings)

        return generate_batch(self.model, requests, self._ends, stopped)

    def _loglikelihood_tokens(
        self,
        requests: list[Likelihood],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        shared = self._likelihoods_by_context(requests) if override_bs is None else None
        if shared:
            return shared
        self._asked = len(requests)
        longest = max(len(context) + len(answer) for _, context, answer in requests)
        together: Any = self.batch_size_per_gpu  # type: ignore[has-type]
        if not can_batch_lengths(self.model, min(longest, self.max_length)):
            self.batch_size_per_gpu = 1
        try:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        finally:
            self.batch_size_per_gpu = together

    def _model_call(self, inps: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
        with progress.share(len(inps), of=max(self._asked, len(inps))):
            return super()._model_call(inps, *args, **settings)

    def _likelihoods_by_context(
        self, requests: Sequence[Likelihood]
    ) -> list[tuple[float, bool]] | None:
        """The likelihoods, reading each context once; None if none is shared or that would fail."""
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
        found = continuation_likelihoods(self.model, questions, self._rows, self.softmax_dtype)
        if found is None:
            return None
        answers: list[Any] = [None] * len(requests)
        for (_, own), likelihoods in zip(ordered, found, strict=True):
            for place, likelihood in zip(own, likelihoods, strict=True):
                answers[place] = likelihood
        return answers
