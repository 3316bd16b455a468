"""What a config value may be and means, said once, where it is declared.

A config is made of dataclasses that stand in the rooms that read them. Each of their fields comes
from `value` or `part`: from there come the checks, the run's identity, `--help` and docs/config.md.
Knows dataclass fields; does not know Hydra, nor which configs there are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

REQUIRED: Any = "???"  # a value that has to be given; as OmegaConf writes it
_META = "talr"


@dataclass(frozen=True)
class About:
    """What is known of a value; of a number the bounds, with `above` and `below` left out.

    Attributes:
        doc: What it means, with its unit, in a sentence.
        identity: Whether it belongs to a run's identity: whether it can change the weights.
        is_file: Whether it names a file, whose content counts for the identity and not its path.
        is_part: Whether it is an object that the config names by a class.
        or_auto: Whether it may also be `auto`.
    """

    doc: str
    choices: tuple[Any, ...] | None = None
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    or_auto: bool = False
    may_be_empty: bool = True
    identity: bool = True
    is_file: bool = False
    is_part: bool = False

    @property
    def allowed(self) -> str:
        """The choices or the range in words; empty where every value of the type will do."""
        if self.choices is not None:
            return " | ".join(map(str, self.choices))
        bounds = (
            ("above", self.above),
            ("at least", self.at_least),
            ("below", self.below),
            ("at most", self.at_most),
        )
        words = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
        return ", ".join(["auto, or a whole number"] * self.or_auto + words)

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if value is None or (self.or_auto and value == "auto"):
            return None
        if value == "" and not self.may_be_empty:
            return "is empty: give a value"
        if self.choices is not None and value not in self.choices:
            return f"is not one of {', '.join(map(str, self.choices))}"
        if self.or_auto and (isinstance(value, bool) or not isinstance(value, int)):
            return "is neither a whole number nor auto"
        if isinstance(value, float) and not math.isfinite(value):
            return "is not a finite number"
        if isinstance(value, int | float) and not isinstance(value, bool):
            outside = (
                (self.above is not None and value <= self.above)
                or (self.at_least is not None and value < self.at_least)
                or (self.below is not None and value >= self.below)
                or (self.at_most is not None and value > self.at_most)
            )
            if outside:
                return f"is out of range: {self.allowed}"
        return None


def value(
    doc: str,
    default: Any = REQUIRED,
    *,
    factory: Callable[[], Any] | None = None,
    **about: Any,
) -> Any:
    """A field of a config dataclass.

    Args:
        factory: Makes the default, where it is a list or a mapping.
        about: Of `About`.
    """
    metadata = {_META: About(doc, **about)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def part(doc: str, default: Any = REQUIRED, **about: Any) -> Any:
    """A field that holds an object, which the config names by its class: a dataset, an objective.

    Its own fields are described in that class.
    """
    return value(doc, default, is_part=True, **about)


def about(field: dataclasses.Field[Any]) -> About:
    """What is known of a field; of one that was declared without it, nothing."""
    return field.metadata.get(_META, About(""))


def problems(kind: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What is wrong with the values of a config dataclass, each `key=value ...` in a line.

    Args:
        values: By the names of the fields; those that are missing here are not looked at.
        prefix: Goes before each key, such as `trainer.`
    """
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        found = values[field.name]
        reason = about(field).problem(found)
        if reason is not None:
            yield f"{prefix}{field.name}{'=' if found != '' else ''}{found} {reason}".replace(
                "  ", " "
            )
