"""Prints the comparison of docs/methods.md: a study's scores and the step times, as Markdown.

python scripts/method_table.py --study methods --bench bench.json
"""

import argparse
import json
import sys
from pathlib import Path

from talr_cli.report.tables.table import study_rows
from talr_cli.runs.study import load_results
from talr_cli.statistics.estimates import Estimate
from talr_cli.statistics.groups import comparable, left_out_lines


def number(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.score:.3f} ± {estimate.stderr or 0:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="methods")
    parser.add_argument("--bench", type=Path, help="what scripts/bench_step.py --json wrote")
    options = parser.parse_args()
    results = load_results(options.runs_dir, options.study)
    distances = {one["run"]["id"]: one["weights"]["distance"] for one in results if one["weights"]}
    bench = json.loads(options.bench.read_text()) if options.bench else {}
    bench["sft"] = {"time_ratio": 1.0, "memory_ratio": 1.0}
    print("| method | domain | general | drift CE | drift KL | distance | step time | memory |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    groups = comparable(results)
    for line in left_out_lines(groups):
        print(line, file=sys.stderr)
    for row in study_rows(groups):
        method, scores = row.run["method"], row.estimates
        cost = bench.get(method, {})
        cells = [
            method,
            number(scores["domain"]),
            number(scores["general"]),
            number(scores["cross_entropy"]),
            number(scores["kl_from_base"]),
            f"{distances[row.run['id']]:.2f}" if row.run["id"] in distances else "0",
            f"{cost['time_ratio']:.2f}" if cost else "–",
            f"{cost['memory_ratio']:.2f}" if cost else "–",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
