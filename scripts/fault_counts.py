"""Counts how often each kind of fault was tried, and how often talr held: for docs/reliability.md.

python scripts/fault_counts.py [--fast] [--only WORD ...]

Each test is one try, or as many as it records (`record_property("tried", N)`); of a test that fails
none counts as held. `--fast` leaves out slow tests; `--only` takes only kinds with one of the words
in their names.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1] / "tests"
KILLS = "kill -9, then the same command"
# Test files by kind; of those under KILLS only tests with `kill` in their names.
FILES = {
    "power loss at a moment of a training": ["faults/test_power_loss.py"],
    "damaged file": [
        *("faults/test_damaged_checkpoints.py", "faults/test_damaged_caches.py"),
        *("runs/test_damaged_files.py", "runs/test_manifest.py"),
    ],
    "two owners of a run": ["runs/test_lease.py"],
    "bad input": ["faults/test_bad_inputs.py"],
    "place that cannot be written": ["runs/test_places.py", "faults/test_read_only_and_full.py"],
    "output that cannot be written": ["faults/test_terminals.py"],
    "memory that runs out": ["faults/test_out_of_memory.py"],
    "unforeseen error": ["faults/test_crashes.py"],
    "text of others on its way out": ["report/test_hostile_text.py"],
    "run of others: its config": ["config/test_stored.py"],
    "run of others: its links": ["faults/test_links.py"],
    "attack on the sandbox": ["evaluation/test_sandbox.py"],
    KILLS: ["commands/test_runs.py", "commands/test_sweep.py", "commands/test_processes.py"],
}


class Counts:
    """A plugin of pytest that counts the tries by kind."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        kept = [item for item in items if _kind(item.nodeid) is not None]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kind = _kind(report.nodeid)
        if kind is None or (report.when != "call" and report.passed):
            return
        if report.skipped:
            self.skipped[kind] += 1
            return
        tried: Any = dict(report.user_properties).get("tried", 1)
        count = int(tried)
        self.tried[kind] += count
        self.held[kind] += count * report.passed


def _kind(test: str) -> str | None:
    file, _, name = test.partition("::")
    found = next(kind for kind, files in FILES.items() if file.endswith(tuple(files)))
    if "kill" in name:
        return KILLS
    return None if found == KILLS else found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fast", action="store_true", help="without the slow ones")
    parser.add_argument("--only", nargs="*", default=[""], help="words of the kinds' names")
    options = parser.parse_args()
    counts = Counts()
    kinds = [kind for kind in FILES if any(word in kind for word in options.only)]
    files = [str(TESTS / file) for kind in kinds for file in FILES[kind]]
    chosen = ["-m", "not slow"] if options.fast else []
    code = pytest.main(["-q", "-p", "no:xdist", "--tb=short", *chosen, *files], plugins=[counts])
    print("\n| kind | tried | held |\n| --- | ---: | ---: |")
    for kind in kinds:
        print(f"| {kind} | {counts.tried[kind]} | {counts.held[kind]} |")
    print(f"| all | {counts.tried.total()} | {counts.held.total()} |")
    if counts.skipped:
        left_out = ", ".join(f"{count} of {kind}" for kind, count in counts.skipped.items())
        print(f"\nNot tried on this machine: {left_out}.")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
