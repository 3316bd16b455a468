"""`talr show RUN`: how a run was made, its scores, some of its answers, its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli.config import composition
from talr_cli.config.commands import ShowConfig
from talr_cli.config.composition import Composed
from talr_cli.config.differences import differences
from talr_cli.config.help import shown
from talr_cli.errors import UserError
from talr_cli.printable import printable
from talr_cli.runs.listing import FoundRun, find_run, format_size
from talr_cli.runs.next_command import study_command
from talr_cli.runs.samples import read_samples
from talr_cli.runs.study import command_of_run, load_siblings
from talr_cli.streams import fold_line

if TYPE_CHECKING:
    from talr_cli.report.tables.listing import Listed
    from talr_cli.statistics.groups import Group

MAX_CHARS = 300  # of a prompt or an answer


def main(arguments: Sequence[str]) -> None:
    composition.run("show", show, arguments, positional=("run",))


def show(composed: Composed[ShowConfig]) -> None:
    """Print what is known about a run, whatever its state."""
    config = composed.config
    if config.run is None:
        list_command = study_command("list", config.runs_dir, config.study)
        raise UserError(f"a run is needed: talr show RUN; `{list_command}` lists them")
    from talr_cli.report.as_json import emit, rows_of
    from talr_cli.report.tables.listing import list_cells, listed

    found = find_run(config.run, Path(config.runs_dir), config.study)
    one, values = listed(found), _values(found)
    answers = read_samples(found.directory.samples, "domain")[: config.samples]
    content = {
        "run": rows_of(list_cells([one]))[0],
        "made_by": _command(found),
        "values": {key: {"value": one, "default": usual} for key, (one, usual) in values.items()},
        "results": one.results,
        "samples": answers,
        "files": one.parts,
    }
    emit("show", config.json, content, lambda: _print(one, found, values, answers))


def _values(found: FoundRun) -> dict[str, tuple[Any, Any]]:
    if not found.directory.config.exists():
        return {}
    return differences(found.directory.read_config())


def _command(found: FoundRun) -> str | None:
    """The command that makes or finds the run; None if it was not kept."""
    run = found.directory
    return command_of_run(run) if run.overrides.exists() and run.config.exists() else None


def _print(
    one: Listed,
    found: FoundRun,
    values: Mapping[str, tuple[Any, Any]],
    answers: Sequence[Mapping[str, Any]],
) -> None:
    from talr_cli.report.show import task_lines
    from talr_cli.report.tables.screen import print_cells
    from talr_cli.report.tables.table import results_cells, study_rows

    print(f"run      {printable(str(one.path))}")
    since = found.directory.read_status().times.get(one.state)
    print(f"state    {one.state}" + (f" since {printable(str(since))}" if since else ""))
    if one.reason is not None:
        print(f"reason   {printable(one.reason)}")
    command = _command(found)
    if command is not None:
        print(f"made by  {command}")
    print("\nvalues that differ from the defaults" + ("" if values else ": none"))
    for key, (value, usual) in values.items():
        print(fold_line(f"  {printable(f'{key}={shown(value)}')}  ({printable(shown(usual))})"))
    print("\nscores" + ("" if one.results else ": none yet"))
    if one.results is not None:
        print_cells(results_cells(study_rows(_beside_base(one))))
        for line in task_lines(one.results["general"] or {}):
            print(printable(line))
    for line in _answer_lines(answers):
        print(fold_line(line, hang=8))
    print("\nfiles")
    for name, size in one.parts.items():
        print(f"  {printable(name):18} {format_size(size):>9}")


def _beside_base(one: Listed) -> list[Group]:
    """The run, with the base model that it can be compared with."""
    from dataclasses import replace

    from talr_cli.statistics.groups import comparable
    from talr_cli.statistics.pairs import is_base

    runs = load_siblings(one.path)
    names = (each for path, each in runs.items() if path.name == one.path.name)
    own = next(names, one.results or {})
    others = [each for each in runs.values() if each is not own]
    group = next(group for group in comparable([*others, own]) if group.has(own))
    left_out = [each for each in group.left_out if each[0] is own]
    beside = [each for each in group.runs if each is own or is_base(each)]
    return [replace(group, runs=[] if left_out else beside, left_out=left_out)]


def _answer_lines(answers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if answers:
        yield "\nanswers"
    for answer in answers:
        messages = answer.get("messages") or [{}]
        verdict = f"{answer.get('correct')}, read as {answer.get('parsed')}"
        yield f"  {printable(str(answer.get('id')))}: {printable(verdict)}"
        yield f"    prompt  {_shorten(messages[-1].get('content'))}"
        yield f"    answer  {_shorten(answer.get('output'))}"


def _shorten(text: Any) -> str:
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= MAX_CHARS else f"… {line[-MAX_CHARS:]}"
