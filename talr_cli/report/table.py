"""The table of a study: scores, change against the base model, drift; for people and for tools.

Changes are differences of two independent estimates. The runs answer the same items, so these
standard errors are upper bounds wherever answers agree; a paired test needs the items themselves.
"""

import csv
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from talr_cli.report.pairs import Results, group_by_pair, is_base
from talr_cli.runs.atomic import write_text

COLUMNS = {
    "domain": "domain",
    "domain_change": "Δ domain",
    "general": "general",
    "general_change": "Δ general",
    "cross_entropy": "drift CE",
    "kl_from_base": "drift KL",
}


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, which a single item does not have."""

    score: float
    stderr: float | None

    def __sub__(self, other: "Estimate") -> "Estimate":
        known = self.stderr is not None and other.stderr is not None
        stderr = math.hypot(self.stderr or 0.0, other.stderr or 0.0) if known else None
        return Estimate(self.score - other.score, stderr)


@dataclass(frozen=True)
class Row:
    """One run; an estimate that was not made is None."""

    run: dict[str, Any]
    estimates: dict[str, Estimate | None]  # by the keys of COLUMNS


def study_rows(results: Sequence[Results]) -> list[Row]:
    """The runs in the order of the table, each compared with the base model of its pair."""
    rows = []
    for runs in group_by_pair(results).values():
        base = next((one for one in runs if is_base(one)), None)
        for one in runs:
            drift = one["drift"] or {}
            estimates = {
                "domain": _estimate(one["domain"]),
                "domain_change": _change(one, base, "domain", same="scorer"),
                "general": _estimate(one["general"]),
                "general_change": _change(one, base, "general", same="suite"),
                "cross_entropy": _estimate(drift.get("cross_entropy")),
                "kl_from_base": _estimate(drift.get("kl_from_base")),
            }
            rows.append(Row(one["run"], estimates))
    return rows


def print_table(results: Sequence[Results]) -> None:
    """To standard output; a file or a pipe has no width that cells should be folded to."""
    Console(width=None if sys.stdout.isatty() else 200).print(rich_table(results))


def write_tables(results: Sequence[Results], folder: Path) -> list[Path]:
    """Write table.md and table.csv to `folder`."""
    files = {folder / "table.md": markdown_table, folder / "table.csv": csv_table}
    for path, render in files.items():
        write_text(path, render(results))
    return list(files)


def rich_table(results: Sequence[Results]) -> Table:
    """For the terminal."""
    header, lines = _cells(results)
    table = Table()
    for title in header:
        table.add_column(title, justify="right" if title in COLUMNS.values() else "left")
    for line in lines:
        table.add_row(*line)
    return table


def markdown_table(results: Sequence[Results]) -> str:
    """For a README or an issue."""
    header, lines = _cells(results)
    rule = ["---:" if title in COLUMNS.values() else "---" for title in header]
    table = [header, rule, *lines]
    return "".join("| " + " | ".join(_escape(cell) for cell in row) + " |\n" for row in table)


def csv_table(results: Sequence[Results]) -> str:
    """For programs: full precision, each standard error in a column of its own."""
    identity = ["id", "model", "dataset", "method", "lr", "seed"]
    numbers = [name for key in COLUMNS for name in (key, f"{key}_stderr")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(identity + numbers)
    for row in study_rows(results):
        values: list[Any] = [row.run[key] for key in identity]
        for key in COLUMNS:
            estimate = row.estimates[key]
            values += [estimate.score, estimate.stderr] if estimate else [None, None]
        writer.writerow(values)
    return text.getvalue()


def _estimate(section: dict[str, Any] | None) -> Estimate | None:
    # A score that is null in the file was not finite when it was written.
    if section is None or section["score"] is None:
        return None
    return Estimate(section["score"], section["stderr"])


def _change(one: Results, base: Results | None, section: str, same: str) -> Estimate | None:
    """The difference from the base model, where both were measured in the same way."""
    if base is None or base is one or one[section] is None or base[section] is None:
        return None
    # A quick look at the first items is no estimate of the same thing.
    compared = (same, "limit", "answer_by")
    if any(one[section].get(key) != base[section].get(key) for key in compared):
        return None
    after, before = _estimate(one[section]), _estimate(base[section])
    return after - before if after and before else None


def _cells(results: Sequence[Results]) -> tuple[list[str], list[list[str]]]:
    rows = study_rows(results)
    pairs = {(row.run["model"], row.run["dataset"]) for row in rows}
    identity = ["model", "dataset", "method", "lr", "seed"][0 if len(pairs) > 1 else 2 :]
    lines = []
    for row in rows:
        line = [_short(row.run[key]) for key in identity]
        line += [_text(key, row.estimates[key]) for key in COLUMNS]
        lines.append(line)
    return [*identity, *COLUMNS.values()], lines


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(key: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    sign = "+" if key.endswith("_change") else ""
    digits = 3 if key.startswith(("domain", "general")) else 4  # nats per token are small
    score = f"{estimate.score:{sign}.{digits}f}"
    return score if estimate.stderr is None else f"{score} ± {estimate.stderr:.{digits}f}"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")
