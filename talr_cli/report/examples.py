"""A few of the answers that changed, to be read: the prompt, the answers before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from talr_cli.report import html

MOST = 10
LONGEST = 1200  # characters of a prompt or an answer that are shown


def chosen(flips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The flipped items that are shown, at most MOST: each task and direction in turn.

    Lost items come before won ones; items without a sample are not shown.
    """
    kinds: dict[tuple[bool, bool, str], list[dict[str, Any]]] = {}
    for flip in flips:
        if flip["output_b"] is None:
            continue
        is_won = flip["b"] > flip["a"]
        # Of the lost the general tasks come first, of the won the domain.
        is_last = (flip["part"] == "domain") != is_won
        kinds.setdefault((is_won, is_last, flip["part"]), []).append(flip)
    queues = [kinds[key] for key in sorted(kinds)]
    found: list[dict[str, Any]] = []
    while len(found) < MOST and any(queues):
        found += [queue.pop(0) for queue in queues if queue]
    return found[:MOST]


def as_section(flips: Sequence[dict[str, Any]], before: str, after: str) -> str:
    """The section of the page.

    Args:
        flips: As `flipped_items` gives them.
        before, after: What the two models are called.
    """
    counts = [sum(1 for one in flips if (one["b"] - one["a"]) * sign > 0) for sign in (1, -1)]
    shown = chosen(flips)
    told = f"{len(shown)} of them, each task and direction in turn; all" if shown else "All"
    intro = (
        f"{after} against {before}. Lost, items that score lower now: {counts[1]}; won: "
        f"{counts[0]}. {told} of them: talr compare ... flips=FILE. Numbers are scores of the item."
    )
    body = [html.paragraph(intro), *(_article(one, before, after) for one in shown)]
    return html.section("Answers that changed", body, 3)


def _article(flip: dict[str, Any], before: str, after: str) -> str:
    way = "won" if flip["b"] > flip["a"] else "lost"
    title = f"{way}: {flip['part'].removeprefix('general/')}, item {flip['id']}"
    answers = "".join(
        f"<div>{html.small(f'{name}: {flip[score]:g}')}{html.text_block(_cut(flip[output]))}</div>"
        for name, score, output in ((before, "a", "output_a"), (after, "b", "output_b"))
    )
    prompt = html.text_block(_cut(flip["prompt"]))
    return (
        f'<article class="{way}"><h4>{html.text(title)}</h4>{prompt}'
        f'<div class="answers">{answers}</div></article>'
    )


def _cut(text: str | None) -> str:
    """The end of a text, where a prompt has its question and an answer its result."""
    if text is None:
        return "(not in samples/)"
    return text if len(text) <= LONGEST else f"… {text[-LONGEST:]}"
