"""Compares the time of an evaluation by this checkout with that by another one.

    python scripts/bench_eval.py OTHER_CHECKOUT [--rounds 2] [key=value ...]

Runs `talr eval` with these values, in turns, each time in a process and a folder of its own. The
measure is user + system time, which other load on the machine disturbs less than the wall time; the
best of the rounds counts. Then it compares the samples: how many answers, and how many verdicts,
differ between the checkouts.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def evaluate(tree: Path, folder: Path, overrides: list[str]) -> tuple[float, float]:
    """(user + system, wall) seconds of one `talr eval` of the code in `tree`."""
    code = "import sys; from talr_cli import cli; sys.exit(cli.main())"
    command = [sys.executable, "-c", code, "eval", "study=demo", "logger=none", *overrides]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{tree}: talr eval ended with {done.returncode}:\n{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


def samples(folder: Path) -> dict[str, dict[str, tuple[str, str, object]]]:
    """{file: {item: (what was asked, output, verdict)}} of the one evaluation in `folder`."""
    found: dict[str, dict[str, tuple[str, str, object]]] = {}
    for file in sorted(folder.glob("runs/*/*/*/samples/*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "doc_id" in row:
                asked, said = row["prompt_hash"], row["resps"]
                verdict = [row[name] for name in row["metrics"]]
                if isinstance(said[0][0], list):  # likelihoods: which choice has the greatest
                    values = [float(choice[0][0]) for choice in said]
                    said = values.index(max(values))
            else:
                asked, said, verdict = row["messages"], row["output"], row["correct"]
            item = str(row.get("doc_id", row.get("id")))
            found.setdefault(file.name, {})[item] = (json.dumps(asked), json.dumps(said), verdict)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="of `talr eval`")
    options = parser.parse_args()
    trees = {"other": options.other.resolve(), "this": HERE}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
    answers = {}
    for number in range(options.rounds):
        for name, tree in trees.items():
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(evaluate(tree, Path(folder), options.overrides))
                answers[name] = samples(Path(folder))
            cpu, wall = times[name][-1]
            print(f"round {number + 1}, {name}: {cpu:.1f} s user + system, {wall:.1f} s wall")
    best = {name: min(cpu for cpu, _ in measured) for name, measured in times.items()}
    print(f"this / other: {best['this'] / best['other']:.2f}, user + system, the best of each")
    for file, theirs in answers["other"].items():
        ours = answers["this"].get(file, {})
        both = [(theirs[item], ours[item]) for item in theirs if item in ours]
        same = [(a, b) for a, b in both if a[0] == b[0]]
        print(
            f"{file}: {len(theirs)} and {len(ours)} items, {len(same)} asked alike; of these "
            f"{sum(a[1] != b[1] for a, b in same)} answers and "
            f"{sum(a[2] != b[2] for a, b in same)} verdicts differ"
        )


if __name__ == "__main__":
    main()
