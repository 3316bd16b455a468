"""Writes docs/config.md: every value of every command, from the declarations.

python -m talr_cli.config.page > docs/config.md
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from talr_cli.config.commands import COMMANDS
from talr_cli.config.composition import composing
from talr_cli.config.help import Described, choices_of, class_of, describe, shown
from talr_cli.config.parts import KINDS

HEAD = """# Config

Every value, with its default, meaning and allowed values. `talr COMMAND --help` shows the same,
with the values that result from the rest of the command line. This page is made from the code:
`python -m talr_cli.config.page > docs/config.md`.

Values marked * do not change the trained weights, and do not count for a run's identity.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    seen: set[str] = set()
    for command, kind in COMMANDS.items():
        values = _composed(command)
        rows = [
            one
            for one in describe(kind, values)
            if one.key.partition(".")[0] not in KINDS and one.key not in seen
        ]
        if command in ("train", "sweep"):  # their values are not repeated under other commands
            seen |= {one.key for one in rows}
        parts += [f"## talr {command}\n", *_table(rows, with_identity=command == "train")]
        if command == "train":
            for group in KINDS:
                parts += list(_group(group))
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _group(group: str) -> Iterator[str]:
    """The values of every class that the choices of a group name."""
    seen = set()
    for choice in choices_of(group, None):
        values = _composed(f"{group}/{choice}")[group]
        target = values.get("_target_") if values else None
        if target is None or target in seen:
            continue
        seen.add(target)
        kind = class_of(target)
        if dataclasses.fields(kind):
            yield f"\n### {group}={choice}\n"
            yield from _table(list(describe(kind, values, f"{group}.")), with_identity=True)


def _table(rows: Sequence[Described], with_identity: bool) -> Iterator[str]:
    yield "| value | default | meaning |"
    yield "|---|---|---|"
    for one in rows:
        mark = "" if one.about.identity or not with_identity else " *"
        default = "required" if one.value == "???" else f"`{shown(one.value)}`"
        cells = (f"`{one.key}`{mark}", default, one.sentence)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _composed(name: str) -> Mapping[str, Any]:
    """The composed config of a command (`train`) or of a choice (`dataset/esci`)."""
    with composing("train", None):
        values: Any = OmegaConf.to_container(compose(name))
    return values


if __name__ == "__main__":
    print(page(), end="")
