"""The report's section of changed answers: the prompt, and the answers before and after."""

from collections.abc import Sequence
from typing import Any

from talr_cli.data.rows import has_text
from talr_cli.report import html

MOST = 10
LONGEST = 1200  # characters shown of a prompt or an answer


def chosen(flips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MOST flipped items to show: one of each task and direction in turn.

    Lost items come before won ones. Items without a sample are not shown.
    """
    kinds: dict[tuple[bool, bool, str], list[dict[str, Any]]] = {}
    for flip in flips:
        if flip["output_b"] is None:
            continue
        is_won = flip["b"] > flip["a"]
        # General tasks come first among the lost items, the domain among the won ones.
        is_last = (flip["part"] == "domain") != is_won
        kinds.setdefault((is_won, is_last, flip["part"]), []).append(flip)
    queues = [kinds[key] for key in sorted(kinds)]
    found: list[dict[str, Any]] = []
    while len(found) < MOST and any(queues):
        found += [queue.pop(0) for queue in queues if queue]
    return found[:MOST]


def as_section(flips: Sequence[dict[str, Any]], before: str, after: str, command: str) -> str:
    """The section as HTML.

    Args:
        flips: As from `flipped_items`.
        before, after: The names of the two models.
        command: Writes all of them to a file.
    """
    won, lost = (sum((one["b"] - one["a"]) * sign > 0 for one in flips) for sign in (1, -1))
    shown = chosen(flips)
    shows = f" Shown are {len(shown)}, taken from each task in turn, with the scores of the item."
    intro = (
        f"{after} against {before}. Items that score lower now (lost): {lost}; higher (won): "
        f"{won}.{shows if shown else ''} All of them: {command}"
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
    """The end of the text, where a prompt has its question and an answer its result."""
    if text is None:
        return "(not in samples/)"
    if not has_text(text):
        return "(blank)"
    return text if len(text) <= LONGEST else f"… {text[-LONGEST:]}"
