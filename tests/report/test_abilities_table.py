"""The table of abilities, and what samples say of the answers that were chosen."""

import csv
import io
import json
from pathlib import Path

import pytest
from conftest import jsonl
from synthetic_study import scored, write_study

from talr_cli.config.composition import load
from talr_cli.report.guesses import guesses_of
from talr_cli.report.shipping import BOUND, shipping
from talr_cli.report.tables.abilities import abilities_cells, of_one_cells
from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.runs.study import load_runs
from talr_cli.statistics.abilities import abilities
from talr_cli.statistics.groups import comparable

# {item: what the base and the run chose}; answer 0 is right.
DOMAIN = {0: (0, 0), 1: (0, 2), 2: (3, 0), 3: (1, 1), 4: (1, 2), 5: (0, 0)}
TASK = {0: (0, 1), 1: (0, 1), 2: (2, 2), 3: (1, 2), 4: (2, 0), 5: (0, 0)}
WRITTEN = {0: (0, 1), 1: (0, 0), 2: (1, 1), 3: (1, 0), 4: (0, 0), 5: (0, 0)}


def choice_of(key, answer, answers=3, twice=False):
    scores = [-1.0 if place == answer else -2.0 for place in range(answers)]
    if twice:  # the likelihood without the question, which would choose otherwise
        scores += [-0.1, *[-5.0] * (answers - 1)]
    return {
        "doc_id": key,
        "arguments": [["question", f" answer {place % answers}"] for place in range(len(scores))],
        "resps": [[[score, False]] for score in scores],
    }


def write(folder, damage=lambda lines: lines):
    """A study of the base model and one run, with samples."""
    runs = []
    for place, name in enumerate(("base", "sft")):
        right = [
            [pair[place] == 0 for pair in chosen.values()] for chosen in (DOMAIN, TASK, WRITTEN)
        ]
        one = scored(name, right[0], {"pick": right[1], "write": right[2]}, id=name)
        one["domain"]["answer_by"] = "likelihood"
        runs.append(one)
    write_study(folder, runs, steps=2)
    for path, one in load_runs(folder, "s").items():
        place = int(one["run"]["method"] == "sft")
        samples = {
            "domain": [
                {
                    "id": str(key),
                    "messages": [{"role": "user", "content": "?"}],
                    "output": str(pair[place]),
                    "log_probabilities": {str(answer): -1.0 for answer in range(4)},
                }
                for key, pair in DOMAIN.items()
            ],
            "general-pick": [choice_of(key, pair[place]) for key, pair in TASK.items()],
            "general-write": [
                {"doc_id": key, "arguments": [["q", {}]], "resps": [["text"]]} for key in WRITTEN
            ],
        }
        (path / "samples").mkdir()
        for name, rows in samples.items():
            lines = damage([json.dumps(row) + "\n" for row in rows])
            (path / "samples" / f"{name}.jsonl").write_text("".join(lines))
    runs = load_runs(folder, "s")
    (group,) = comparable(runs.values())
    return group, runs


def test_the_table_has_the_numbers_of_a_count_by_hand(tmp_path):
    group, runs = write(tmp_path)
    cells = abilities_cells([(group, abilities(group, guesses_of(group, runs)))])
    rows = {row["task"]: row for row in csv.DictReader(io.StringIO(as_csv(cells)))}
    assert list(rows) == ["domain", "general/pick", "general/write"]

    def shown(row):
        return [float(row[key]) for key in ("n", "chance", "before", "after", "lost", "won")]

    # domain, of 4: one 1->0, one 0->1, one that moved from a wrong answer to another.
    assert shown(rows["domain"]) == pytest.approx(
        [6, 1 / 4, 3 / 6, 3 / 6, (1 - 1 / 2) * 4 / 3 / 6, (1 - 1 / 2) * 4 / 3 / 6]
    )
    # pick, of 3: two 1->0, one 0->1, one that moved.
    assert shown(rows["general/pick"]) == pytest.approx(
        [6, 1 / 3, 3 / 6, 2 / 6, (2 - 1) * 3 / 2 / 6, (1 - 1) * 3 / 2 / 6]
    )
    assert shown(rows["general/write"]) == pytest.approx([6, 0, 4 / 6, 4 / 6, 1 / 6, 1 / 6])
    assert float(rows["general/pick"]["lost_seen"]) == pytest.approx(2 / 6)
    assert float(rows["general/pick"]["change"]) == pytest.approx(-1 / 6)


def test_the_first_scoring_decides_which_answer_was_chosen(tmp_path):
    group, runs = write(tmp_path)
    for path, one in runs.items():
        place = int(one["run"]["method"] == "sft")
        one["general"]["tasks"]["pick"]["all"] = {"acc_mutual_info,none": 0.5}
        rows = [choice_of(key, pair[place], twice=True) for key, pair in TASK.items()]
        text = jsonl(rows)
        (path / "samples" / "general-pick.jsonl").write_text(text)
    found = guesses_of(group, runs)
    assert set(found.choices["general/pick"].values()) == {3}
    assert found.moved["sft"]["general/pick"] == {"3"}


def test_without_samples_nothing_is_subtracted_and_chance_is_not_known(tmp_path):
    group, runs = write(tmp_path)
    for path, one in runs.items():
        if one["run"]["method"] == "sft":
            (path / "samples" / "general-pick.jsonl").unlink()
    lines = as_markdown(abilities_cells([(group, abilities(group, guesses_of(group, runs)))]))
    (line,) = [line for line in lines.splitlines() if line.startswith("| pick |")]
    assert "| 0.500 | 0.333 |" in line
    assert line.endswith("| 6 | – |")
    assert "| 0.333 [" in line


def test_damaged_samples_are_left_out(tmp_path):
    group, runs = write(
        tmp_path, damage=lambda lines: [*lines[:2], "{\n", '{"id": 3}\n', *lines[2:]]
    )
    found = guesses_of(group, runs)
    assert found.moved["sft"]["domain"] == {"4"}
    assert len(found.choices["domain"]) == 6


def test_the_run_to_ship_has_a_table_of_its_own(tmp_path):
    group, runs = write(tmp_path)
    chosen = shipping(group, runs)
    assert chosen.run[1]["run"]["method"] == "sft"
    lines = as_markdown(of_one_cells(chosen.abilities)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| domain", "| pick", "| write"]
    assert load("recommend", []).max_general_loss == BOUND


@pytest.mark.parametrize(
    ("general", "expected"), [({"sft": 50, "l2": 50}, "l2"), ({"sft": 40, "l2": 30}, "sft")]
)
def test_the_run_with_a_table_is_the_one_to_ship_or_the_nearest_to_it(general, expected):
    """Of two, of which l2 is the better one on the domain."""

    def run(method, domain, of_100):
        right = [[place < count for place in range(100)] for count in (domain, of_100)]
        return scored(method, right[0], {"a": right[1]}, id=method)

    base = run("base", 20, 50)
    runs = {Path("s/base"): base}
    for method, domain in (("sft", 30), ("l2", 40)):
        runs[Path(f"s/{method}")] = run(method, domain, general[method])
    (group,) = comparable(runs.values())
    chosen = shipping(group, runs)
    assert (chosen.run[0].name, chosen.base[1]) == (expected, base)
    changes = {one.part: one.change.estimate for one in chosen.abilities}
    gain = {"sft": 0.1, "l2": 0.2}[expected]
    loss = general[expected] / 100 - 0.5
    assert changes == {"domain": pytest.approx(gain), "general/a": pytest.approx(loss)}
