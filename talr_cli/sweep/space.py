"""Parses the space of a search: the lists and intervals of its command line, for Optuna.

The grammar is Hydra's: interval(1e-6,1e-3), tag(log,interval(...)), choice(a,b), a,b, range(0,5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep

from talr_cli.config import composition
from talr_cli.config.quoting import with_quoted_texts
from talr_cli.errors import UserError

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`; integers if both are."""

    key: str
    low: float
    high: float
    log: bool

    @property
    def first(self) -> str:
        """The override with the first value of the dimension."""
        return f"{self.key}={self.low}"

    def suggest(self, trial: Trial) -> str:
        """The override with this trial's value, the same at every call."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return f"{self.key}={trial.suggest_int(self.key, self.low, self.high, log=self.log)}"
        return f"{self.key}={trial.suggest_float(self.key, self.low, self.high, log=self.log)!r}"


@dataclass(frozen=True)
class _Values:
    key: str
    values: tuple[str, ...]

    @property
    def first(self) -> str:
        """The override with the first value."""
        return f"{self.key}={self.values[0]}"


class OrderedValues(_Values):
    """Ordered values, of which neighbours are similar."""

    def suggest(self, trial: Trial) -> str:
        return f"{self.key}={self.values[trial.suggest_int(self.key, 0, len(self.values) - 1)]}"


class Categories(_Values):
    """Values without an order."""

    def suggest(self, trial: Trial) -> str:
        return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"


Dimension = Interval | OrderedValues | Categories


def parse_space(
    overrides: Sequence[str], config_dir: Path | None
) -> tuple[list[Dimension], list[str]]:
    """(the dimensions of the search, the overrides that all trials share).

    Raises:
        UserError: There is no dimension, or an interval or a list is empty.
    """
    dimensions: list[Dimension] = []
    fixed: list[str] = []
    with composition.composing("train", config_dir):
        loader = GlobalHydra.instance().config_loader()
        parse = OverridesParser.create(config_loader=loader).parse_overrides
        for one in parse(with_quoted_texts("train", overrides)):
            key = one.get_key_element()
            if not one.is_sweep_override():
                fixed.append(one.input_line or "")
                continue
            sweep = one.value()
            if isinstance(sweep, IntervalSweep):
                if sweep.start is None or sweep.end is None or not sweep.start < sweep.end:
                    raise UserError(
                        f"{one.input_line} is not an interval from a number to a larger one"
                    )
                dimensions.append(Interval(key, sweep.start, sweep.end, "log" in sweep.tags))
                continue
            values = tuple(one.sweep_string_iterator())
            if not values:
                raise UserError(f"{one.input_line} matches no value and no choice")
            kind = OrderedValues if isinstance(sweep, RangeSweep) else Categories
            dimensions.append(kind(key, values))
    if not dimensions:
        raise UserError(
            "there is nothing to search: type an interval or a list, such as "
            "'lr=tag(log,interval(1e-6,1e-3))' or 'method=choice(sft,talr)'"
        )
    return dimensions, fixed
