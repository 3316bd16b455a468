"""The base model's own correct answers to training prompts.

Answers are cached in pieces, so that a killed process can go on where it was. They are scored anew
each time. Knows a model, a renderer and a scorer; does not know what the answers are for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from transformers import PreTrainedModel

from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.base_answers import Tokens, cached_answers
from talr_cli.evaluation.generation import (
    SAMPLED_AT_ONCE,
    Request,
    choose_likeliest,
    generate_tokens,
    make_request,
    sampler,
)
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.checks import max_positions
from talr_cli.models.sources import cache_dir
from talr_cli.runs.identity import run_identity
from talr_cli.scorers.base import Scorer
from talr_cli.scorers.thoughts import without_thoughts
from talr_cli.scorers.user import judged

PIECE = 128  # how many prompts' answers are cached in one file

log = logging.getLogger(__name__)


def correct_answers(
    load: Callable[[], PreTrainedModel],
    fingerprint: str,
    settings: dict[str, Any],
    renderer: Renderer,
    examples: Sequence[Example],
    scorer: Scorer,
    max_new_tokens: int,
    samples: int,
    temperature: float,
) -> list[Example]:
    """A copy of a row for each correct answer of the base to it, with that answer as completion.

    Answers that were cut off are left out, and so are repeated answers to the same prompt.

    Args:
        load: Loads the model; called only if an answer is not cached.
        fingerprint: Identifies the model and all that answers depend on, but for the arguments
            below.
        settings: The model's config.json.
        max_new_tokens: The most tokens of an answer.
        samples: How many answers are sampled for each prompt.
        temperature: The sampling temperature; 0: greedy, and `samples` is 1.
    """
    most = max_positions(settings)
    every = [(one, make_request(renderer, one, max_new_tokens, most)) for one in examples]
    asked = [(one, what) for one, what in every if what.max_new_tokens > 0]
    model = cache(load)
    kept, unjudged = [], []
    for start in range(0, len(asked), PIECE):
        rows, requests = zip(*asked[start : start + PIECE], strict=True)
        answers = _answer_piece(start, model, fingerprint, renderer, requests, samples, temperature)
        for example, own in zip(rows, answers, strict=True):
            ended = dict.fromkeys(text for text, cut in own if not cut and text.strip())
            for number, text in enumerate(ended):
                try:
                    verdict = judged(scorer, without_thoughts(text), example.reference)
                except (ValueError, LookupError) as error:  # the row lacks what the scorer needs
                    unjudged.append(f"{example.id}: {error}")
                    break
                if verdict.correct == 1:
                    # `turns` are earlier replies to train on, which are not the base's own. A
                    # thought is left out if special tokens mark it, which text cannot contain.
                    said = without_thoughts(text) if renderer.thought_marks else text
                    made = replace(example, completion=said, reply_fields={}, turns=())
                    kept.append(replace(made, id=f"{example.id}/{number}"))
    if unjudged:
        log.warning("answers to %d rows cannot be judged, such as %s", len(unjudged), unjudged[0])
    return kept


def _answer_piece(
    start: int,
    model: Callable[[], PreTrainedModel],
    fingerprint: str,
    renderer: Renderer,
    requests: Sequence[Request],
    samples: int,
    temperature: float,
) -> list[list[tuple[str, bool]]]:
    """For each prompt its answers as (text, whether it was cut off), cached or generated."""
    repeated = [one for one in requests for _ in range(samples)]
    key = run_identity(
        {
            "base": fingerprint,
            "rows": [[list(one.prompt), one.max_new_tokens] for one in repeated],
            "drawn": [temperature, start],
        },
        {},
    )

    def answer() -> Tokens:
        log.info("own answers: the base answers %d prompts", len(requests))
        # The seed is the piece's, as samples must not depend on which earlier ones were cached.
        choose = choose_likeliest if temperature == 0 else sampler(start, temperature)
        size = BatchSize(SAMPLED_AT_ONCE)
        return generate_tokens(model(), renderer, repeated, size, choose)

    file = cache_dir() / "own_answers" / f"{key}.json.gz"
    texts = [
        (renderer.decode(tokens), cut) for tokens, cut in cached_answers(file, repeated, answer)
    ]
    return [texts[place : place + samples] for place in range(0, len(texts), samples)]
