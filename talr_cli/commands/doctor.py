"""`talr doctor`: this machine, and what would stop each of the experiments that come with talr."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import DoctorConfig
from talr_cli.config.composition import Composed
from talr_cli.printable import printable
from talr_cli.sweep.machine import Check, experiment_checks, machine_checks

WIDTH = 80
_MARKS = {"ok": "ok  ", "note": "note", "problem": "STOP"}


def main(arguments: Sequence[str]) -> None:
    composition.run("doctor", doctor, arguments)


def doctor(composed: Composed[DoctorConfig]) -> None:
    """Print the checks; a problem is not an error, as it may not concern what the user wants."""
    config = composed.config
    from talr_cli.report.as_json import emit

    checks = list(machine_checks(Path(config.runs_dir)))
    reachable = any(one.name == "hub" and one.state == "ok" for one in checks)
    checks += experiment_checks(reachable)
    content = {"checks": [asdict(one) for one in checks]}
    emit("doctor", config.json, content, lambda: _print(checks))


def _print(checks: Sequence[Check]) -> None:
    column = max(len(one.name) for one in checks) + 2
    for one in checks:
        head = f"{_MARKS[one.state]}  {one.name.ljust(column)}"
        rest = " " * len(head)
        for line in one.detail.splitlines():
            shown = printable(line)
            print(textwrap.fill(shown, WIDTH, initial_indent=head, subsequent_indent=f"{rest}  "))
            head = rest
    print("\nSTOP: must be fixed before such a run; note: runs work without it.")
