"""`talr compare A B` on written results: what it finds, shows, writes and refuses."""

import json

import numpy
import pytest
from command_line import talr
from commands.test_command_line import imported_by
from synthetic_study import results, scored, write_study

from talr_cli.statistics.power import detectable_difference


def right_at(*numbers, n=40):
    return [number in numbers for number in range(n)]


@pytest.fixture
def study(tmp_path):
    """The base answers 8 rows, the run 20 of them and one fewer; the tasks differ by one item."""
    base = scored(
        "base", right_at(*range(8)), {"sums": right_at(1, 2), "words": right_at(3)}, id="b" * 8
    )
    run = scored(
        "sft", right_at(*range(1, 20)), {"sums": right_at(1), "words": right_at(3)}, id="a" * 8
    )
    write_study(tmp_path / "runs", [base, run])
    for path in (tmp_path / "runs").glob("*/*/*"):
        scores = json.loads((path / "results.json").read_text())
        (path / "model").mkdir()
        (path / "samples").mkdir()
        with (path / "samples" / "domain.jsonl").open("w") as file:
            for key, score in scores["domain"]["items"].items():
                message = {"role": "user", "content": f"Question {key}?"}
                output = f"{path.name[:4]} says {score}"
                file.write(json.dumps({"id": key, "messages": [message], "output": output}) + "\n")
        with (path / "samples" / "general-sums.jsonl").open("w") as file:
            for doc_id in range(40):
                arguments = [[f"Sum {doc_id}", "four"], [f"Sum {doc_id}", "five"]]
                responses = [[[-9.5, False]], [[-2.5, False]]]
                for name in ("strict", "flexible"):
                    sample = {"doc_id": doc_id, "arguments": arguments, "resps": responses}
                    file.write(json.dumps({**sample, "filter": name}) + "\n")
    return tmp_path


def compare(cwd, *arguments):
    return talr("compare", *arguments, cwd=cwd, logger=None)


def table_rows(done):
    """{part: cells} of the printed table."""
    assert done.returncode == 0, done.stderr
    rows = [line.strip("│").split("│") for line in done.stdout.splitlines() if "│" in line]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_table_compares_two_runs_part_by_part(study):
    done = compare(study, "base", "sft", "study=s")
    table = table_rows(done)
    assert list(table) == ["domain", "general", "sums", "words"]
    domain = table["domain"]
    assert [cell.split()[0] for cell in domain[:3]] == ["0.200", "0.475", "+0.275"]
    low, high = map(float, domain[3].split(" .. "))
    assert low == pytest.approx(0.275 - 1.96 * numpy.sqrt(0.26 / 40), abs=0.03)
    assert low < 0.275 < high
    mcnemar = 2 * (1 + 13) / 2**13  # at most one of 13 flips the rarer way
    shows = f"{detectable_difference([(0.2, 40)]):.3f}"
    assert domain[5:] == [f"{mcnemar:.3f}", "40", "12", "1", shows, "differs"]
    assert table["sums"][2] == "-0.025"
    assert table["sums"][-5:-2] == ["40", "0", "1"]
    margin = f"{1.96 / numpy.sqrt(40 * 39):.3f}"
    assert table["words"][2:5] == ["+0.000", f"-{margin} .. +{margin}", "1.000"]
    assert (table["general"][2], table["general"][-1]) == ("-0.013", "≈ 0")
    assert table["general"][5] == "1.000"  # one item flipped: of its two signs both are as far out


def test_the_items_that_flipped_and_their_texts(study):
    done = compare(study, "base", "sft", "study=s", "examples=1", "flips=flips.jsonl")
    shown = done.stdout
    assert "won (12): 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19" in shown
    assert "lost (1): 0" in shown
    assert "prompt Question 0?" in shown
    assert "A      base says 1.0" in shown
    assert "B      sft- says 0.0" in shown
    assert "Question 8?" not in shown
    flips = [json.loads(line) for line in (study / "flips.jsonl").read_text().splitlines()]
    assert len(flips) == 14
    (sums,) = (flip for flip in flips if flip["part"] == "general/sums")
    assert sums == {
        **{"part": "general/sums", "id": "2", "a": 1.0, "b": 0.0},
        **{"prompt": "Sum 2", "output_a": "five", "output_b": "five"},
    }


def test_runs_by_path_and_the_other_way_round(study):
    (base,) = study.glob("runs/s/*/base*")
    (run,) = study.glob("runs/s/*/sft*")
    forward = table_rows(compare(study, base, run / "model"))
    backward = table_rows(compare(study, "examples=0", run, base))
    assert forward["domain"][2] == "+0.275"
    assert backward["domain"][2] == "-0.275"
    assert backward["domain"][4:6] == forward["domain"][4:6]
    assert backward["domain"][7:9] == ["1", "12"]


def test_a_path_with_any_characters_is_a_path(study):
    (base,) = study.glob("runs/s/*/base*")
    for name in ("it's {a}, [b] (1)", "back\\slash\\", "quote\\'d", "$x"):
        base = base.rename(base.with_name(name))
        done = compare(study, base, "sft", "study=s")
        assert done.returncode == 0, done.stderr
        assert f"A: {base}" in done.stdout.replace("\n", "")


def test_runs_without_samples_or_items_still_say_what_they_can(study):
    (run,) = study.glob("runs/s/*/sft*")
    (run / "samples" / "domain.jsonl").unlink()
    assert "B      (not in samples/)" in compare(study, "base", "sft", "study=s").stdout
    (run / "results.json").write_text(json.dumps(results("sft", id=run.name[-8:])))
    done = compare(study, "base", "sft", "study=s")
    assert "not comparable: the scores of the items of domain" in done.stdout
    assert table_rows(done)["domain"][:3] == ["0.200 ± 0.064", "0.300 ± 0.030", "–"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("base",), "two runs are needed: talr compare A B"),
        (("base", "sft", "talr"), "'talr' is not of the form key=value"),
        (("base", "bft"), "begins with bft in runs/s: there are small__medcalc/base-bbbbbbbb, "),
        (("base", ""), "b is empty"),
        (("base", "runs"), "is no run: `talr eval ckpt=runs` scores a checkpoint"),
        (("base", "runs/s"), "runs/s has no results.json"),
        (("base", "sft", "examples=-1"), "examples=-1 is outside"),
        (("base", "sft", "flips=no/where.jsonl"), "flips=no/where.jsonl: no is not a directory"),
    ],
)
def test_a_mistake_is_one_line(study, arguments, expected):
    done = compare(study, *arguments, "study=s")
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_with_the_name_of_a_run_is_not_taken_for_it(study):
    for name in ("base", "sft"):
        (study / name).mkdir()
    assert table_rows(compare(study, "base", "sft", "study=s"))["domain"][2] == "+0.275"


def test_an_ambiguous_run_name_is_refused(study):
    write_study(study / "runs", [results("sft", lr=1e-5, id="c" * 8)])
    done = compare(study, "base", "sft", "study=s")
    assert "2 runs begin with sft in runs/s" in done.stderr
    assert compare(study, "base", "sft-lr1e-5", "study=s").returncode == 0


def test_nothing_heavy_is_imported(study):
    assert imported_by("compare", "base", "sft", "study=s", cwd=study) == []
