"""The base model's own answers to training prompts, those that are right.

Answers are kept in talr's cache in pieces, so that a process that is killed goes on where it was.
They are judged anew each time. Knows a model, a renderer and a scorer; does not know what the
answers are for.
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
from talr_cli.evaluation.base_answers import Tokens, kept_answers
from talr_cli.evaluation.generation import Request, answer_tokens, drawn, likeliest, request
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.checks import positions
from talr_cli.models.sources import cache_dir
from talr_cli.runs.identity import run_identity
from talr_cli.scorers.base import Scorer
from talr_cli.scorers.thoughts import without_thoughts
from talr_cli.scorers.user import judged

PIECE = 128  # prompts whose answers are written together

log = logging.getLogger(__name__)


def right_answers(
    load: Callable[[], PreTrainedModel],
    fingerprint: str,
    settings: dict[str, Any],
    renderer: Renderer,
    examples: Sequence[Example],
    scorer: Scorer,
    max_new_tokens: int,
    samples: int,
    temperature: float,
    batch_size: BatchSize,
) -> list[Example]:
    """Rows whose completion is an answer of the base that is right, one for each such answer.

    Answers that were cut are left out, and so are repetitions of an answer to the same prompt.

    Args:
        load: Loads the model; called only where something has to be answered.
        fingerprint: Of the model and all else that answers depend on, but for what follows.
        settings: The model's config.json.
        temperature: 0: the likeliest token of every step; `samples` is 1 then.
    """
    most = positions(settings)
    every = [(one, request(renderer, one, max_new_tokens, most)) for one in examples]
    asked = [(one, what) for one, what in every if what.max_new_tokens > 0]
    model = cache(load)
    kept, unjudged = [], []
    for start in range(0, len(asked), PIECE):
        rows, requests = zip(*asked[start : start + PIECE], strict=True)
        answers = _piece(
            start, model, fingerprint, renderer, requests, samples, temperature, batch_size
        )
        for example, own in zip(rows, answers, strict=True):
            ended = dict.fromkeys(text for text, cut in own if not cut and text.strip())
            for number, text in enumerate(ended):
                try:
                    verdict = judged(scorer, without_thoughts(text), example.reference)
                except (ValueError, LookupError) as error:  # a row lacks what the scorer needs
                    unjudged.append(f"{example.id}: {error}")
                    break
                if verdict.correct == 1:
                    # Earlier turns that are trained are not its own.
                    # Where special tokens are around a thought no text can carry them.
                    said = without_thoughts(text) if renderer.thought_marks else text
                    made = replace(example, completion=said, reply_fields={}, turns=())
                    kept.append(replace(made, id=f"{example.id}/{number}"))
    if unjudged:
        log.warning("answers to %d rows cannot be judged, such as %s", len(unjudged), unjudged[0])
    return kept


def _piece(
    start: int,
    model: Callable[[], PreTrainedModel],
    fingerprint: str,
    renderer: Renderer,
    requests: Sequence[Request],
    samples: int,
    temperature: float,
    batch_size: BatchSize,
) -> list[list[tuple[str, bool]]]:
    """(text, whether it was cut) of each answer to each prompt, found or made."""
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
        # Seeded by the piece: the samples must not depend on whether earlier ones were found.
        choose = likeliest if temperature == 0 else drawn(start, temperature)
        return answer_tokens(model(), renderer, repeated, batch_size, choose)

    file = cache_dir() / "own_answers" / f"{key}.json.gz"
    texts = [
        (renderer.text_of(tokens), cut) for tokens, cut in kept_answers(file, repeated, answer)
    ]
    return [texts[place : place + samples] for place in range(0, len(texts), samples)]
