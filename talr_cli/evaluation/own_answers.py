"""The base model's own answers to training prompts, those of them that are right.

Answers are kept in talr's cache in pieces, so that a process that is killed goes on where it was;
they are judged anew each time. Knows a model, a renderer and a scorer; does not know what the
answers are for.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.generation import Choose, Request, answer_tokens, drawn, likeliest
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.thoughts import without_thoughts
from talr_cli.models.checks import positions
from talr_cli.models.sources import cache_dir
from talr_cli.runs.atomic import read_packed, write_packed
from talr_cli.runs.identity import run_identity
from talr_cli.runs.lease import hold
from talr_cli.scorers.base import Scorer

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
    """The rows with an answer of the base in the place of their completion, where it is right.

    Answers that did not come to their end are none. Of several that are alike one counts.

    Args:
        load: Loads the model, where something has to be answered.
        fingerprint: Of the model, and of all that its answers depend on beside what follows.
        settings: The model's config.json.
        temperature: 0: the likeliest token of every step; `samples` is 1 then.
    """
    most = positions(settings) or sys.maxsize
    rows, asked = [], []
    for example in examples:
        prompt = tuple(renderer.prompt_ids(example.messages, example.tools))
        if len(prompt) < most:
            rows.append(example)
            asked.append(Request(prompt, min(max_new_tokens, most - len(prompt))))
    model = cache(load)
    kept, unjudged = [], []
    for start in range(0, len(rows), PIECE):
        requests = asked[start : start + PIECE]
        # A piece is drawn alike whether those before it are made or found.
        choose = likeliest if temperature == 0 else drawn(start, temperature)
        key = run_identity(
            {
                "base": fingerprint,
                "rows": [[list(one.prompt), one.max_new_tokens] for one in requests],
                "drawn": [samples, temperature, start],
            },
            {},
        )
        file = cache_dir() / "own_answers" / f"{key}.json.gz"
        answers = _piece(file, model, renderer, requests, samples, choose, batch_size)
        for example, own in zip(rows[start : start + PIECE], answers, strict=True):
            ended = dict.fromkeys(text for text, cut in own if not cut and text.strip())
            for number, text in enumerate(ended):
                try:
                    verdict = scorer(without_thoughts(text), example.reference)
                except (ValueError, LookupError) as error:  # training rows may lack what it needs
                    unjudged.append(f"{example.id}: {error}")
                    break
                if verdict.correct == 1:
                    # Earlier turns that are trained are not its own.
                    made = replace(example, completion=text, reply_fields={}, turns=())
                    kept.append(replace(made, id=f"{example.id}/{number}"))
    if unjudged:
        log.warning("answers to %d rows cannot be judged, such as %s", len(unjudged), unjudged[0])
    return kept


def _piece(
    file: Path,
    model: Callable[[], PreTrainedModel],
    renderer: Renderer,
    requests: Sequence[Request],
    samples: int,
    choose: Choose,
    batch_size: BatchSize,
) -> list[list[tuple[str, bool]]]:
    """(text, whether it was cut) of each answer to each prompt, found or made."""
    found = _found(file, len(requests), samples)
    if found is not None:
        return found
    with hold(file.with_suffix(".lock"), wait=True):
        found = _found(file, len(requests), samples)
        if found is not None:
            return found
        log.info("own answers: the base answers %d prompts", len(requests))
        repeated = [one for one in requests for _ in range(samples)]
        tokens = answer_tokens(model(), renderer, repeated, batch_size, choose)
        texts = [
            (str(renderer.tokenizer.decode(one, skip_special_tokens=True)), cut)
            for one, cut in tokens
        ]
        made = [texts[place : place + samples] for place in range(0, len(texts), samples)]
        write_packed(file, made)
    return made


def _found(file: Path, prompts: int, samples: int) -> list[list[tuple[str, bool]]] | None:
    value = read_packed(file)
    if value is None:
        return None
    whole = isinstance(value, list) and len(value) == prompts
    if not whole or not all(_are_answers(own, samples) for own in value):
        log.warning("%s does not hold the answers to %d prompts: it is made again", file, prompts)
        return None
    return [[(text, cut) for text, cut in own] for own in value]


def _are_answers(own: Any, samples: int) -> bool:
    return (
        isinstance(own, list)
        and len(own) == samples
        and all(
            isinstance(one, list) and [type(part) for part in one] == [str, bool] for one in own
        )
    )
