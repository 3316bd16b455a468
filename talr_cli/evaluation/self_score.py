"""Checks before training that the test rows can be answered and scored, without a model.

Each row's own completion has to score 1. That reveals a reference that does not fit its row, a
scorer for another kind of answer, or a template that changes what is taught.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from talr_cli.data.base import Example
from talr_cli.data.rendering import Rendered, Renderer, RowError
from talr_cli.errors import UserError
from talr_cli.evaluation.config import DomainEvalConfig
from talr_cli.models.checks import check_length, check_vocabulary
from talr_cli.scorers.base import Scorer
from talr_cli.scorers.thoughts import without_thoughts
from talr_cli.scorers.user import judged

log = logging.getLogger(__name__)

SHOWN = 80  # the most characters of a text in a message


def self_score(
    renderer: Renderer, examples: Sequence[Example], scorer: Scorer
) -> tuple[int, list[str]]:
    """Score the completion of each row, after rendering, tokenizing and decoding it.

    Rows whose reply is a tool call without text are left out.

    Returns:
        How many rows were scored, and for each that does not score 1 its id and the reason.

    Raises:
        UserError: The template does not render a row.
    """
    failed, rows = [], 0
    for example in examples:
        targets = _encode(renderer, example).targets
        if not example.completion.strip() and example.reply_fields:
            continue
        rows += 1
        output = renderer.decode_answer(targets)
        try:
            verdict = judged(scorer, without_thoughts(output), example.reference)
        except ValueError as error:
            failed.append(f"{example.id}: {error}")
            continue
        if verdict.correct < 1:
            failed.append(
                f"{example.id}: {_short(output)} is read as {_short(str(verdict.parsed))}, the "
                f"reference is {_short(str(dict(example.reference)))}"
            )
    return rows, failed


def check_test_rows(
    settings: Mapping[str, Any],
    renderer: Renderer,
    examples: Sequence[Example],
    scorer: Scorer,
    config: DomainEvalConfig,
) -> None:
    """Refuse test rows that do not fit the model, or on which a correct answer would score 0.

    Args:
        settings: The model's config.json.

    Raises:
        UserError: A row cannot be rendered or is longer than the model's positions; or, with
            domain.self_score=stop, one scores below 1 when it is answered with its own completion.
    """
    rows = [_encode(renderer, example) for example in examples]
    check_length(
        settings,
        max((len(row.input_ids) for row in rows), default=0),
        "test rows (with their answer)",
        "shorten or leave out such rows (domain.limit), or use a model with more positions",
    )
    check_vocabulary(settings, renderer.tokenizer, (row.input_ids for row in rows))
    prompts = (len(renderer.prompt_ids(one.messages, one.tools)) for one in examples)
    check_budget(settings, prompts, config)
    scored, failed = self_score(renderer, examples, scorer)
    if not failed:
        return
    finding = (
        f"{len(failed)} of {scored} test rows score below 1 when they are answered with their "
        f"own completion: {failed[0]}"
    )
    if config.self_score == "stop":
        raise UserError(
            f"{finding}. Mend the rows, the scorer or the template; to train all the same: "
            "domain.self_score=warn"
        )
    log.warning("%s", finding)


def check_prompts(
    settings: Mapping[str, Any],
    renderer: Renderer,
    examples: Sequence[Example],
    config: DomainEvalConfig,
) -> None:
    """Refuse test rows that do not fit the model, and a chat template with unknown tokens.

    Args:
        settings: The model's config.json.

    Raises:
        UserError: A row cannot be rendered, the model has no embedding for a token, or the budget
            that the user typed does not fit.
    """
    hello = Example("", ({"role": "user", "content": "Hi"},), "")
    prompts = []
    for one in examples or [hello]:
        try:
            prompts.append(renderer.prompt_ids(one.messages, one.tools))
        except RowError as error:
            raise UserError(f"test row {one.id}: {error}") from error
    check_vocabulary(settings, renderer.tokenizer, [*prompts, [renderer.end_of_turn]])
    check_budget(settings, map(len, prompts), config)


def check_budget(
    settings: Mapping[str, Any], prompts: Iterable[int], config: DomainEvalConfig
) -> None:
    """Refuse a budget that the user typed and that does not fit after the longest prompt.

    Args:
        settings: The model's config.json.
        prompts: The number of tokens of each prompt; consumed only if there is a budget.
    """
    if config.answer_by == "generation" and config.max_new_tokens is not None:
        check_length(
            settings,
            max(prompts, default=0),
            "test prompts",
            "set domain.max_new_tokens={rest}",
            config.max_new_tokens,
        )


def _encode(renderer: Renderer, example: Example) -> Rendered:
    try:
        return renderer.encode(example)
    except RowError as error:
        raise UserError(f"test row {example.id}: {error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
