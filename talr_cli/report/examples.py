"""A few answers that changed, to be read: what was asked, what was answered before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from talr_cli.printable import printable
from talr_cli.report import html

MOST = 10
LONGEST = 1200  # characters of a prompt or an answer that are shown


def chosen(flips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The flipped items that are shown, MOST of them: each task and direction in turn.

    Lost items come first, and those whose texts are known.
    """
    kinds: dict[tuple[bool, bool, str], list[dict[str, Any]]] = {}
    for flip in sorted(flips, key=lambda one: one["output_b"] is None):
        is_won = flip["b"] > flip["a"]
        # What was forgotten in general comes before what was missed on the domain.
        is_last = (flip["part"] == "domain") != is_won
        kinds.setdefault((is_won, is_last, flip["part"]), []).append(flip)
    queues = [kinds[key] for key in sorted(kinds)]
    found: list[dict[str, Any]] = []
    while len(found) < MOST and any(queues):
        found += [queue.pop(0) for queue in queues if queue]
    return found[:MOST]


def as_section(flips: Sequence[dict[str, Any]], before: str, after: str) -> str:
    """The part of the page.

    Args:
        before, after: What the two models are called.
    """
    counts = [sum(1 for one in flips if (one["b"] - one["a"]) * sign > 0) for sign in (1, -1)]
    shown = chosen([one for one in flips if one["output_b"] is not None])
    told = f"{len(shown)} of them, each task and direction in turn; all" if shown else "All"
    intro = (
        f"{after} against {before}. Items right before and wrong now: {counts[1]}; the reverse: "
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
        f'<article class="{way}"><h4>{html.text(printable(title))}</h4>{prompt}'
        f'<div class="answers">{answers}</div></article>'
    )


def _cut(text: str | None) -> str:
    """The end of a text, where a prompt has its question and an answer its result."""
    if text is None:
        return "(not in samples/)"
    return text if len(text) <= LONGEST else f"… {text[-LONGEST:]}"
