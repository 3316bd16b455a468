"""How the runs of a study were made: commands, data, versions and times.

Reads the files next to results.json in run directories; missing or damaged ones are left out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.printable import command_line, rate_text
from talr_cli.report.figures.looks import ordered
from talr_cli.report.tables.cells import Cell, Cells, Column, named, pair_cells, pair_columns
from talr_cli.runs.reading import read_text
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.stored_overrides import current_overrides
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import RunsByPath, is_base, rows_of, short_hash

_AXES = ("method", "lr", "seed")


def asks_for_claims(runs: RunsByPath) -> bool:
    """Whether a run was made with `claims=true`."""
    # Parsing all configs of a large study is slow, so their text is searched first.
    return any(
        "claims: true" in _text(RunDirectory(path).config) and _config(path).get("claims") is True
        for path in runs
    )


def commands(runs: RunsByPath) -> list[str]:
    """The commands that make these runs again, with one sweep for a whole grid."""
    evaluated: list[str] = []
    trained: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {}
    for path, one in runs.items():
        try:
            typed = current_overrides(RunDirectory(path))
        except UserError:
            continue
        if is_base(one):
            evaluated.append(command_line(["talr", "eval", *typed]))
            continue
        values = dict(line.partition("=")[::2] for line in typed)
        rest = tuple(line for line in typed if line.partition("=")[0] not in _AXES)
        point = tuple(_value(values, axis) for axis in _AXES)
        trained.setdefault(rest, {})[point] = None
    lines = list(dict.fromkeys(evaluated))
    for rest, points in trained.items():
        lines += _grid(rest, list(points))
    return lines


def data_cells(groups: Sequence[Group], runs: RunsByPath) -> Cells:
    """A row for each set of rows: their number, hash and source."""
    columns = [
        *pair_columns(len(groups)),
        Column("rows", "rows of"),
        Column("n", "how many", number=True),
        Column("hash", "hash"),
        Column("source", "from"),
    ]
    return Cells(columns, [line for group in groups for line in _data_lines(group, runs)])


def made_with(runs: RunsByPath) -> list[tuple[str, str]]:
    """(name, values) of the time, the versions and the machines of the runs."""
    found: dict[str, dict[str, None]] = {}
    times = []
    for path, one in runs.items():
        environment = _json(path / "env.json")
        versions = {"python": environment.get("python"), **one["versions"]}
        for name, version in versions.items():
            if isinstance(version, str):
                found.setdefault(name, {})[version] = None
        commit = environment.get("git_commit")
        if isinstance(commit, str):
            found.setdefault("commit", {})[commit[:12]] = None
        gpus = environment.get("gpus")
        machine = gpus if isinstance(gpus, list) and gpus else [environment.get("cpu")]
        for name in machine:
            if isinstance(name, str):
                found.setdefault("machine", {})[name] = None
        made = _json(path / "status.json").get("times")
        if isinstance(made, dict):
            times += [time for time in made.values() if isinstance(time, str)]
    values = [(name, ", ".join(sorted(each))) for name, each in found.items()]
    if times:
        first, last = (time[:16].replace("T", " ") for time in (min(times), max(times)))
        values.insert(0, ("made", f"{first} to {last} UTC"))
    return values


def _grid(rest: Sequence[str], points: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """One command if the points are a whole grid; else one for each method, or set of seeds.

    Args:
        rest: The other overrides, which are the same for all points.
        points: Values of _AXES.
    """
    methods, rates, seeds = (list(dict.fromkeys(values)) for values in zip(*points, strict=True))
    axes = [ordered(methods), sorted(rates, key=_number), sorted(seeds, key=_number)]
    size = len(axes[0]) * len(axes[1]) * len(axes[2])
    if size != len(points) and len(axes[0]) > 1:
        for method in axes[0]:
            yield from _grid(rest, [point for point in points if point[0] == method])
    elif size != len(points):
        of_rate = {rate: [one for one in points if one[1] == rate] for rate in axes[1]}
        alike: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for own in of_rate.values():
            alike.setdefault(tuple(sorted(one[2] for one in own)), []).extend(own)
        for own in alike.values():
            yield from _grid(rest, own)
    else:
        lists = [
            f"{name}={','.join(values)}"
            for name, values in zip(_AXES, axes, strict=True)
            if values != [""]
        ]
        yield command_line(["talr", "train" if size == 1 else "sweep", *rest, *lists])


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return 0.0, text


def _value(values: Mapping[str, str], axis: str) -> str:
    value = values.get(axis, "")
    try:
        return rate_text(float(value)) if axis == "lr" else value
    except ValueError:
        return value


def _data_lines(group: Group, runs: RunsByPath) -> Iterator[list[Cell]]:
    """The training rows, the test rows, and the items of each task."""
    own = group.by_path(runs)
    trained: dict[tuple[int, str], Path] = {}
    for path, one in own.items():
        if one["training"] and "rows" in one["training"]:
            trained.setdefault((one["training"]["rows"], rows_of(one)[1] or ""), path)
    for (count, digest), path in sorted(trained.items()):
        hashed = named(short_hash(digest)) if digest else Cell()
        source = _source(group, path)
        yield [*pair_cells(group), named("training"), named(count), hashed, named(source)]
    first = group.base or group.runs[0]
    if first["domain"]:
        digest = short_hash(first["domain"]["items_hash"])
        n, source = first["domain"]["n"], _source(group, next(iter(own)))
        yield [*pair_cells(group), named("domain test"), named(n), named(digest), named(source)]
    general = first["general"] or {"tasks": {}}
    for name, task in general["tasks"].items():
        suite = f"suite {general['suite']}, metric {task['metric'].removesuffix(',none')}"
        digest = short_hash(task["items_hash"])
        yield [*pair_cells(group), named(name), named(task["n"]), named(digest), named(suite)]


def _source(group: Group, run: Path) -> str:
    """The data set with its values, as the config of a run has them."""
    dataset = _config(run).get("dataset")
    settings = dataset if isinstance(dataset, dict) else {}
    values = ", ".join(
        f"{key}={value}"
        for key, value in settings.items()
        if value is not None and key not in ("_target_", "name")
    )
    return f"{group.dataset}{f' ({values})' if values else ''}"


def _config(path: Path) -> dict[str, Any]:
    try:
        return RunDirectory(path).read_config()
    except UserError:
        return {}


def _text(file: Path) -> str:
    try:
        return read_text(file, "replace")
    except (OSError, ValueError):
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
