"""Where KL(base || model) is taken on the domain: along the base's answers to its prompts.

"RL's Razor" (arXiv 2509.04259) finds that forgetting follows the KL divergence from the base on
the new task, E over prompts x of KL(base(y | x) || model(y | x)), y an answer. By the chain rule
that is the KL of each prediction, summed along answers sampled from the base. So the tokens that
count are those of the base's answers, their end included, and not the prompts'. We could not read
how the paper estimates it. Ours are the number of prompts, one answer to each, its greatest length
and the division by the number of predictions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.data.splitting import spread_evenly
from talr_cli.evaluation.base_answers import Tokens, kept_answers
from talr_cli.evaluation.drift import AskBase
from talr_cli.evaluation.generation import answer_tokens, drawn, request
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.checks import positions
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
    """(prompts with the base's answers as token ids, the place of each one's first prediction).

    The answers are sampled once and kept in `folder`, for every model compared with the base.

    Args:
        settings: The model's config.json.
        max_new_tokens: Of an answer of the domain; here they are MOST_TOKENS at most.
        fingerprint: The base's.
    """
    most = positions(settings)
    budget = min(max_new_tokens, MOST_TOKENS)
    spread = [request(renderer, one, budget, most) for one in spread_evenly(examples, PROMPTS)]
    rows = [one for one in spread if one.max_new_tokens > 0]
    if not rows:
        return [], []

    def answer() -> Tokens:
        log.info("drift: the base answers %d prompts of the domain, once", len(rows))
        found: Tokens = ask_base(
            lambda base: answer_tokens(base, renderer, rows, batch_size, drawn(SEED))
        )
        return found

    asked = [[list(row.prompt), row.max_new_tokens] for row in rows]
    key = run_identity({"base": fingerprint, "rows": asked, "seed": SEED}, {})
    answers = kept_answers(folder / f"base-answers-{key[:16]}.json.gz", rows, answer)
    sequences = [
        # Where an answer was cut, nothing is predicted after its last token.
        [*row.prompt, *(tokens[:-1] if cut else tokens)]
        for row, (tokens, cut) in zip(rows, answers, strict=True)
    ]
    return sequences, [len(row.prompt) - 1 for row in rows]
