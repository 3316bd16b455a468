"""Where KL(base || model) is taken on the domain: along answers of the base to its prompts.

"RL's Razor" (arXiv 2509.04259) finds that forgetting follows the KL divergence from the base on
the new task, E over prompts x of KL(base(y | x) || model(y | x)), y an answer. By the chain rule
that is the sum, along answers that are drawn from the base, of the KL of each prediction that makes
them: so the tokens are those of the base's answers, their end included, and the prompts' are not.
The paper's own way of estimating it could not be read; the number of prompts, one answer to each
and its greatest length are ours, and so is the division by the number of predictions.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.drift import AskBase
from talr_cli.evaluation.generation import Request, answer_tokens, drawn
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.checks import positions
from talr_cli.runs.atomic import read_packed, write_packed
from talr_cli.runs.disk import make_folder
from talr_cli.runs.identity import run_identity

PROMPTS = 64  # spread evenly over the rows
MOST_TOKENS = 128  # of an answer
SEED = 0

log = logging.getLogger(__name__)


def answered_prompts(
    examples: Sequence[Example],
    renderer: Renderer,
    settings: dict[str, Any],
    max_new_tokens: int,
    fingerprint: str,
    folder: Path,
    ask_base: AskBase,
    batch_size: BatchSize,
) -> tuple[list[list[int]], list[int]]:
    """(prompts with the base's answers as token ids, where in each its first prediction stands).

    The answers are drawn once and kept in `folder`, for every model that is compared with the base.

    Args:
        settings: The model's config.json.
        max_new_tokens: Of an answer of the domain; here they are MOST_TOKENS at most.
        fingerprint: The base's.
    """
    rows = _requests(examples, renderer, settings, min(max_new_tokens, MOST_TOKENS))
    if not rows:
        return [], []
    asked = [[list(row.prompt), row.max_new_tokens] for row in rows]
    key = run_identity({"base": fingerprint, "rows": asked, "seed": SEED}, {})
    file = folder / f"base-answers-{key[:16]}.json.gz"
    answers = read_packed(file)
    if not _are_answers(answers, rows):
        if answers is not None:
            log.warning("%s does not hold %d answers: it is made again", file, len(rows))
        log.info("drift: the base answers %d prompts of the domain, once", len(rows))
        answers = ask_base(
            lambda base: answer_tokens(base, renderer, rows, batch_size, drawn(SEED))
        )
        make_folder(folder)
        write_packed(file, answers)
    sequences = [
        # Where an answer was cut, nothing is predicted after its last token.
        [*row.prompt, *(tokens[:-1] if cut else tokens)]
        for row, (tokens, cut) in zip(rows, answers, strict=True)
    ]
    return sequences, [len(row.prompt) - 1 for row in rows]


def _requests(
    examples: Sequence[Example], renderer: Renderer, settings: dict[str, Any], budget: int
) -> list[Request]:
    step = max(1, len(examples) // PROMPTS)
    most = positions(settings) or sys.maxsize
    found = []
    for example in examples[::step][:PROMPTS]:
        prompt = tuple(renderer.prompt_ids(example.messages, example.tools))
        if len(prompt) < most:
            found.append(Request(prompt, min(budget, most - len(prompt))))
    return found


def _are_answers(found: Any, rows: Sequence[Request]) -> bool:
    """Whether `found` is [tokens, whether they were cut] for each row."""
    if not isinstance(found, list) or len(found) != len(rows):
        return False
    for one, row in zip(found, rows, strict=True):
        if not isinstance(one, list) or len(one) != 2:
            return False
        tokens, cut = one
        if not isinstance(tokens, list) or type(cut) is not bool:
            return False
        if len(tokens) > row.max_new_tokens or (cut and not tokens):
            return False
        if any(type(token) is not int or token < 0 for token in tokens):
            return False
    return True
