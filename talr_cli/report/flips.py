"""The items on which two runs have different scores, with both answers.

Scores come from results.json, texts from samples/, which may be missing.
"""

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from talr_cli.printable import printable
from talr_cli.report.guesses import likeliest
from talr_cli.runs.samples import read_items
from talr_cli.statistics.paired import UnpairedError, paired_items
from talr_cli.statistics.pairs import Results, parts_of, section_of

MOST = 20  # ids that are listed per part and direction
WIDTH = 100  # characters of a line without a terminal


def flipped_items(
    before: tuple[Path, Results], after: tuple[Path, Results]
) -> list[dict[str, Any]]:
    """{part, id, a, b, prompt, output_a, output_b} of each flipped item; a and b are its scores.

    Parts that cannot be paired are left out.

    Args:
        before, after: The run directory and the results of each run.
    """
    flips = []
    for part in parts_of(before[1]):
        try:
            pairs = paired_items(before[1], after[1], part)
        except UnpairedError:
            continue
        changed = {key: scores for key, scores in pairs.items() if scores[0] != scores[1]}
        texts = [
            read_items(
                path / "samples",
                part,
                changed,
                partial(_texts, part=part, section=section_of(one, part) or {}),
            )
            for path, one in (before, after)
        ]
        for key, (a, b) in changed.items():
            (prompt, output_a), (_, output_b) = (each.get(key, (None, None)) for each in texts)
            flips.append(
                {"part": part, "id": key, "a": a, "b": b}
                | {"prompt": prompt, "output_a": output_a, "output_b": output_b}
            )
    return flips


def as_text(flips: Sequence[dict[str, Any]], examples: int, width: int = WIDTH) -> str:
    """The ids by part and direction, and the texts of the first `examples` items of each part."""
    lines = []
    for part in dict.fromkeys(flip["part"] for flip in flips):
        own = [flip for flip in flips if flip["part"] == part]
        lines.append(f"\n{printable(part.removeprefix('general/'))}")
        for way, sign in (("won", 1), ("lost", -1)):
            ids = [printable(flip["id"]) for flip in own if (flip["b"] - flip["a"]) * sign > 0]
            if ids:
                more = f" and {len(ids) - MOST} more" if len(ids) > MOST else ""
                text = f"  {way} ({len(ids)}): {', '.join(ids[:MOST])}{more}"
                lines += textwrap.wrap(text, width, subsequent_indent="    ")
        for flip in own[:examples]:
            lines.append(f"  {printable(flip['id'])}: {flip['a']:g} -> {flip['b']:g}")
            for title, key in (("prompt", "prompt"), ("A", "output_a"), ("B", "output_b")):
                head = f"    {title:6} "
                lines.append(head + _short(flip[key], width - len(head)))
    return "".join(f"{line}\n" for line in lines)


def _texts(sample: dict[str, Any], part: str, section: Mapping[str, Any]) -> tuple[str, str]:
    """The prompt and the answer of an item.

    Raises:
        ValueError, TypeError, LookupError: The sample is damaged.
    """
    if part == "domain":
        texts = (sample["messages"][-1]["content"], sample["output"])
    else:
        texts = (sample["arguments"][0][0], _output(sample, section))
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a prompt and an answer are text")
    "".join(texts).encode()  # fails for lone surrogates, which cannot be printed
    return texts


def _output(sample: dict[str, Any], section: Mapping[str, Any]) -> str:
    """The answer to an item of lm-eval: the generated text, or the choice that was scored."""
    responses, arguments = sample["resps"], sample["arguments"]
    if isinstance(responses[0][0], str):
        return responses[0][0]
    prompt, answer = arguments[likeliest(sample, section)[1]][:2]
    # In some tasks (winogrande) the prompts contain the choices, and all continuations are equal.
    return answer if any(one[1] != answer for one in arguments) else prompt


def _short(text: str | None, room: int) -> str:
    """The end of the text on one line: there a prompt has its question, an answer its result."""
    if text is None:
        return "(not in samples/)"
    line = printable(" ".join(text.split()))
    return line if len(line) <= room else f"… {line[2 - room :]}"
