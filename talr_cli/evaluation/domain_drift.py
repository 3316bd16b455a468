"""The texts on which KL(base || model) is taken in the domain: the base's answers to its prompts.

"RL's Razor" (arXiv 2509.04259) finds that forgetting follows the KL divergence from the base on
the new task, E over prompts x of KL(base(y | x) || model(y | x)), y an answer. By the chain rule
that is the KL of each prediction, summed along answers sampled from the base. So the predictions
that count are those of the answers' tokens, including their ends, and not those of the prompts. We
could not read how the paper estimates it. The number of prompts, one answer to each, its maximum
length and the division by the number of predictions are our choices.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer
from talr_cli.data.splitting import spread_evenly
from talr_cli.evaluation.base_answers import Tokens, cached_answers
from talr_cli.evaluation.drift import AskBase
from talr_cli.evaluation.generation import SAMPLED_AT_ONCE, generate_tokens, make_request, sampler
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.checks import max_positions
from talr_cli.runs.identity import run_identity

PROMPTS = 64  # spread evenly over the rows
MOST_TOKENS = 128  # the most tokens of an answer
SEED = 0

log = logging.getLogger(__name__)


def prompts_with_base_answers(
    examples: Sequence[Example],
    renderer: Renderer,
    settings: dict[str, Any],
    max_new_tokens: int,
    fingerprint: str,
    folder: Path,
    ask_base: AskBase,
) -> tuple[list[list[int]], list[int]]:
    """(prompts with the base's answers as token ids, the index of each one's first prediction).

    The answers are sampled once and cached in `folder`, for all models compared with the base.

    Args:
        settings: The model's config.json.
        max_new_tokens: The budget of an answer in the domain; here it is MOST_TOKENS at most.
        fingerprint: Identifies the base's weights.
        ask_base: Calls a function with the base, if the answers are not cached.
    """
    most = max_positions(settings)
    budget = min(max_new_tokens, MOST_TOKENS)
    spread = [make_request(renderer, one, budget, most) for one in spread_evenly(examples, PROMPTS)]
    rows = [one for one in spread if one.max_new_tokens > 0]
    if not rows:
        return [], []

    def answer() -> Tokens:
        log.info("drift: the base answers %d prompts of the domain, once", len(rows))
        found: Tokens = ask_base(
            lambda base: generate_tokens(
                base, renderer, rows, BatchSize(SAMPLED_AT_ONCE), sampler(SEED)
            )
        )
        return found

    asked = [[list(row.prompt), row.max_new_tokens] for row in rows]
    key = run_identity({"base": fingerprint, "rows": asked, "seed": SEED}, {})
    answers = cached_answers(folder / f"base-answers-{key[:16]}.json.gz", rows, answer)
    sequences = [
        # After the last token of an answer that was cut off, there is nothing to predict.
        [*row.prompt, *(tokens[:-1] if cut else tokens)]
        for row, (tokens, cut) in zip(rows, answers, strict=True)
    ]
    return sequences, [len(row.prompt) - 1 for row in rows]
