"""Makes the tables of docs/gpu.md from the lines of scripts/gpu_check.py: `gpu_check.py --page`.

The bars to meet, the expectations, and every figure. A line that is missing becomes "not measured",
and one that failed says so: nothing is left out in silence.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu.making import ANY_ORDER, BARS_ARE_FOR
from gpu.numerics import ELSE, METHODS, name_of, ways
from gpu.programs import KILLED, RESUMED
from gpu.steps import PROFILE, variants

Line = Mapping[str, Any]
NOT_MEASURED = "not measured"
PLAIN = "sft 1 row, layers again"
HIDDEN = ("section", "name", "took", "where", "timed", "kernels")
OF_THEIR_OWN = ("env", "study")  # sections whose lines have no values in common
# Dense bf16 operations a second of an H100 or H200, in 1e12, from the data sheet; those that are
# plugged in as cards (PCIe, NVL) make fewer.
PEAK, PEAK_IS_OF, BUT_NOT = 989, ("H100", "H200"), ("PCIe", "NVL")


class Found:
    """Measurements by section and name."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines = list(lines)
        self._by_name = {(line["section"], line["name"]): line for line in self.lines}

    def value(self, section: str, name: str, key: str) -> float | None:
        """A number; None if it was not measured."""
        found = self._by_name.get((section, name), {}).get(key)
        return found if isinstance(found, int | float) else None

    def text(self, section: str, name: str, key: str) -> str:
        """Words; empty if there are none."""
        return str(self._by_name.get((section, name), {}).get(key) or "")

    @property
    def as_expected(self) -> bool:
        """Whether it was measured on the card, and with the model, that the figures are about."""
        card, model = self.text("env", "gpu", "gpu"), self.text("steps", "model", "model")
        of_card = any(one in card for one in PEAK_IS_OF) and not any(one in card for one in BUT_NOT)
        return of_card and model == BARS_ARE_FOR

    def of(self, section: str) -> list[Line]:
        return [line for line in self.lines if line["section"] == section]

    def ratio(self, one: str, other: str, key: str = "s_per_step") -> float | None:
        """`key` of a variant of `steps`, divided by that of another."""
        above, below = (self.value("steps", name, key) for name in (one, other))
        return above / below if above is not None and below else None

    def difference(self, one: str, other: str) -> float | None:
        """Seconds per step between two variants; None on another card or model than expected."""
        if not self.as_expected:
            return None
        first, second = (self.value("steps", name, "s_per_step") for name in (one, other))
        return None if first is None or second is None else first - second


@dataclass(frozen=True)
class Expected:
    """A figure, and the `bounds` that were expected of it."""

    what: str
    bounds: tuple[float, float]
    unit: str
    measured: Callable[[Found], float | None]


def _steps(name: str, key: str) -> Callable[[Found], float | None]:
    return lambda found: found.value("steps", name, key)


def _seconds(name: str) -> Callable[[Found], float | None]:
    return lambda found: found.value("steps", name, "s_per_step") if found.as_expected else None


def _more(one: str) -> Callable[[Found], float | None]:
    return lambda found: found.difference(one, PLAIN)


def _times(
    what: str, bounds: tuple[float, float], one: str, other: str, key: str = "s_per_step"
) -> Expected:
    return Expected(what, bounds, "times", lambda found: found.ratio(one, other, key))


def _step_of(rows: int) -> Callable[[Found], float | None]:
    name = f"{rows} rows at once"
    return lambda found: found.value("generate", name, "ms_per_step") if found.as_expected else None


L2_CPU = "l2 1 row, on the CPU, layers again"
ANY, COMPILED = "sft 1 row, any order", "sft by default, compiled"
EXPECTED = (
    Expected("sft at 3B, 1 row, layers again", (1.6, 1.9), "s", _seconds(PLAIN)),
    Expected("`regulariser=l2` takes more", (0.04, 0.12), "s", _more("l2 1 row, layers again")),
    Expected("with `theta0_device=cpu`", (0.8, 1.4), "s", _more(L2_CPU)),
    Expected("`regulariser=kl` takes more", (0.3, 0.5), "s", _more("kl 1 row, layers again")),
    Expected("host waits a step, joined rows", (2, 2), "", _steps("sft 1 row", "host_waits")),
    _times("sums in a fixed order against any", (1.0, 1.04), "sft 1 row", ANY),
    _times("sft compiled against sft, by default", (0.85, 1.0), COMPILED, "sft by default"),
    _times("sft against TRL's nll, any order", (0.97, 1.03), ANY, "trl nll 1 row"),
    _times("its peak of memory", (0.9, 1.05), ANY, "trl nll 1 row", "peak_gib"),
    *(
        Expected(f"a step of generation, {rows} rows", (25, 30), "ms", _step_of(rows))
        for rows in (64, 128, 256)
    ),
)

# The figure as text, and whether the bar is met; None: as far as it was measured.
Verdict = tuple[str, bool | None]
Bar = tuple[str, str, Verdict | None]  # what, what it has to be; None: not measured


def bars(found: Found) -> list[Bar]:
    """The bars to meet; each ratio is of two lines of `steps`."""
    at_most = [
        ("talr against sft, 1 row at once", 1.03, "talr 1 row", "sft 1 row"),
        ("talr against sft, by default", 1.03, "talr by default", "sft by default"),
        ("sft against TRL's nll, any order", 1.0, "sft 1 row, any order", "trl nll 1 row"),
        ("sft in a fixed order against TRL's nll", 1.0, "sft 1 row", "trl nll 1 row"),
        ("sft by default against TRL's nll", 1.0, "sft by default", "trl nll 1 row"),
        ("lora with `regulariser=kl` against lora", 1.5, "lora+kl 1 row", "lora 1 row"),
    ]
    ratios = [(what, most, found.ratio(one, other)) for what, most, one, other in at_most]
    return [
        ("gradients of all methods", "1e-3 in fp32, 5e-2 in half", _gradients(found)),
        *(
            (what, f"{most} at most", None if one is None else (f"{one:.3f}", one <= most))
            for what, most, one in ratios
        ),
        (f"sft at 3B on an H100, share of {PEAK} TFLOP/s", "0.45", _mfu(found)),
        ("killed and gone on with", "the same bits", _same_bits(found)),
        ("peak against the estimate", "within 15 %", _peaks(found)),
    ]


def _gradients(found: Found) -> Verdict | None:
    lines = [line for line in found.of("numerics") if line["name"].split()[0] in METHODS]
    if not lines:
        return None
    good = sum(line.get("verdict") == "ok" for line in lines)
    native = not any(line["name"].split()[1:2] == [ELSE.rpartition(".")[2]] for line in lines)
    wanted = (name_of(method, typed) for method in METHODS for typed, _ in ways(native))
    return _as_far(f"{good} of {len(lines)} within", good == len(lines), found, "numerics", wanted)


def _as_far(words: str, good: bool, found: Found, section: str, wanted: Iterable[str]) -> Verdict:
    """A verdict that is good only if all wanted lines were measured; names those that were not."""
    measured = {line["name"] for line in found.of(section) if "error" not in line}
    missing = [name for name in wanted if name not in measured]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        words += f", {NOT_MEASURED}: {'; '.join(missing[:3])}{more}"
    return words, False if not good else None if missing else True


def _mfu(found: Found) -> Verdict | None:
    shares = [
        (line["tflops"] / PEAK, line["name"])
        for line in found.of("steps")
        if "tflops" in line and line["name"].startswith("sft ")
    ]
    if not shares or not found.as_expected:
        return None
    best, name = max(shares)
    return f"{best:.3f} ({name})", best >= 0.45


def _same_bits(found: Found) -> Verdict | None:
    wanted = [KILLED + name for name, typed in RESUMED.items() if ANY_ORDER not in typed]
    same = {
        line["name"].removeprefix(KILLED): bool(line.get("same_bits"))
        for line in found.of("resume")
        if line["name"] in wanted
    }
    if not same:
        return None
    words = ", ".join(f"{name}: {'yes' if one else 'no'}" for name, one in same.items())
    return _as_far(words, all(same.values()), found, "resume", wanted)


def _peaks(found: Found) -> Verdict | None:
    offs = [
        (abs(line["peak_gib"] / line["planned_gib"] - 1), line["name"])
        for line in found.of("steps")
        if line.get("peak_gib") and line.get("planned_gib")
    ]
    if not offs:
        return None
    worst, name = max(offs)
    words = f"{100 * worst:.0f} % off at most ({name}, of {len(offs)})"
    wanted = (name for name, typed in variants() if not any("=trl-" in one for one in typed))
    return _as_far(words, worst <= 0.15, found, "steps", wanted)


def page(lines: Iterable[Line], sections: Sequence[str]) -> str:
    """The tables, as Markdown."""
    found = Found(lines)
    return "\n".join(
        [
            *("## What was found", "", *_machine(found), ""),
            *_table(
                ("what has to come out", "bar", "found", ""),
                [(what, bar, *_verdict(one)) for what, bar, one in bars(found)],
            ),
            *_table(
                ("what was expected", "expected", "found", ""),
                [_beside(one, one.measured(found)) for one in EXPECTED],
            ),
            *(row for name in sections for row in _of_section(name, found.of(name))),
            *_kernels(found),
        ]
    )


def _machine(found: Found) -> list[str]:
    said = {line["name"]: line for line in found.of("env")}
    card = said.get("gpu", {})
    name = "No GPU: the figures say nothing"
    if "gpu" in card:
        name = f"{card['gpu']}, {card['gib']} GiB"
    versions = (f"{key} {value}" for key, value in _values(said.get("versions", {})).items())
    lines = [f"{name}. {', '.join(versions) or 'Versions: ' + NOT_MEASURED}.", ""]
    model = found.text("steps", "model", "model")
    if model:
        rows = found.text("steps", "model", "rows_a_step")
        lines += [f"Steps are of {rows} rows, of {model}'s shape. {_compiling(found)}", ""]
    return lines[:-1]


def _compiling(found: Found) -> str:
    """Whether compiled layers pay, and after how many steps."""
    first = found.value("steps", COMPILED, "first_seconds")
    after, before = (
        found.value("steps", name, "s_per_step") for name in (COMPILED, "sft by default")
    )
    if first is None or after is None or before is None:
        return f"Compiled layers: {NOT_MEASURED}."
    waited = max(0.0, first - 2 * before)  # the first two steps are what is waited for
    if after >= before:
        return f"Compiled layers do not pay: a step takes {after / before:.3f} of the time."
    steps = math.ceil(waited / (before - after))
    return (
        f"Compiled layers: a step takes {after / before:.3f} of the time, the first two together "
        f"{waited:.0f} s more; they pay from {steps + 2} steps on."
    )


def _verdict(one: Verdict | None) -> tuple[str, str]:
    words = {True: "met", False: "**missed**", None: "so far"}
    return (NOT_MEASURED, "") if one is None else (one[0], words[one[1]])


def _beside(one: Expected, measured: float | None) -> tuple[str, ...]:
    low, high = one.bounds
    thought = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    expected = one.what, f"{thought} {one.unit}".strip()
    if measured is None:
        return *expected, NOT_MEASURED, ""
    as_thought = "as expected" if low <= measured <= high else "**otherwise**"
    return *expected, f"{measured:.3g} {one.unit}".strip(), as_thought


def _of_section(name: str, lines: Sequence[Line]) -> list[str]:
    """A table of every figure of a section, or of why a measurement failed."""
    if not lines:
        return [f"`{name}`: {NOT_MEASURED}.", ""]
    lines = [line for line in lines if line["name"] != "model"]
    columns = list(dict.fromkeys(key for line in lines for key in _values(line)))
    if name in OF_THEIR_OWN:
        rows = [
            (line["name"], "; ".join(f"{key} {value}" for key, value in _values(line).items()))
            for line in lines
        ]
        return _table((f"`{name}`", "found"), rows)
    return _table(
        (f"`{name}`", *(column.replace("_", " ") for column in columns)),
        [(line["name"], *(_cell(line.get(column)) for column in columns)) for line in lines],
    )


def _kernels(found: Found) -> list[str]:
    """The table of the kernels that take most of a step."""
    lines = [line for line in found.of("steps") if line["name"] == PROFILE and "kernels" in line]
    rows = [[str(cell) for cell in one] for line in lines for one in line["kernels"]]
    return _table((f"kernel, in the {PROFILE}", "calls", "ms"), rows) if rows else []


def _values(line: Line) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in HIDDEN}


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(row: Sequence[str]) -> str:
        return " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row)

    return [*(f"| {line(row)} |" for row in [head, ["---"] * len(head), *rows]), ""]
