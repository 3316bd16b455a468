"""Two models or two test sets of one name in a study: each reader keeps them apart and says so."""

import csv
import html
import io
import json
from pathlib import Path

import numpy
import pytest
from command_line import talr
from synthetic_study import scored, training, write_config, write_study

from talr_cli.commands.report import show_report
from talr_cli.errors import UserError
from talr_cli.report.claims.verdicts import findings
from talr_cli.report.flips import flipped_items
from talr_cli.report.model_card import model_card
from talr_cli.report.pareto import pareto_front
from talr_cli.report.recommend import recommend
from talr_cli.report.stale import stale_lines
from talr_cli.report.study_report import write_report
from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.report.tables.comparison import comparison_cells
from talr_cli.report.tables.cost import cost_cells
from talr_cli.report.tables.published import published_cells
from talr_cli.report.tables.seeds import seeds_cells
from talr_cli.report.tables.table import study_rows
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_runs
from talr_cli.scorers.user import UserScorer
from talr_cli.statistics.groups import comparable
from talr_cli.sweep.search import _base_score

N = 60


def run(method, domain, general, base="aaaa", asked="first", lr=1e-6, **where):
    """The scores are shares of N items that are answered right."""
    easy = (numpy.arange(N) + 0.5) / N
    one = scored(method, easy < domain, {"a": easy < general}, lr=lr, base=base, **where)
    one["domain"]["items_hash"] = asked
    return one


# Model A: base 0.2, a run at 0.4. Model B: base 0.7, a run at 0.8: a gain of 0.1, not of 0.6.
TWO_BASES = [
    run("base", 0.2, 0.5, id="base-a"),
    run("sft", 0.4, 0.5, id="sft-a"),
    run("base", 0.7, 0.8, "bbbb", id="base-b"),
    run("sft", 0.8, 0.8, "bbbb", id="sft-b"),
]
# One model, and a run that was scored on an easier test set.
TWO_SETS = [*TWO_BASES[:2], run("talr", 0.9, 0.5, asked="other", id="easy")]
NO_BASE = [*TWO_BASES[:2], TWO_BASES[3]]


def changes(runs):
    found = {row.run["id"]: row.estimates["domain_change"] for row in study_rows(comparable(runs))}
    return {name: change and change.score for name, change in found.items()}


def by_id(runs):
    return {Path(one["run"]["id"]): one for one in runs}


def test_changes_are_from_the_own_base_only():
    found = changes(TWO_BASES)
    assert found["sft-a"] == pytest.approx(0.2)
    assert found["sft-b"] == pytest.approx(0.1)
    assert changes(NO_BASE)["sft-b"] is None
    assert changes(TWO_SETS)["easy"] is None
    assert changes(TWO_SETS)["sft-a"] == pytest.approx(0.2)


def test_the_front_is_each_models_own():
    on_front = {row.run["id"]: row.on_front for row in study_rows(comparable(TWO_BASES))}
    assert on_front == {"base-a": False, "sft-a": True, "base-b": False, "sft-b": True}
    assert {row.run["id"]: row.on_front for row in study_rows(comparable(TWO_SETS))}["easy"] is None
    # Whoever deletes what is beaten: another model and another test set beat nobody.
    assert len(pareto_front([TWO_BASES[1], TWO_BASES[3]])) == 2
    assert len(pareto_front(TWO_SETS[1:])) == 2


def test_seeds_of_two_models_are_not_averaged():
    more = [run("sft", 0.4, 0.5, seed=1, id="a1"), run("sft", 0.8, 0.8, "bbbb", seed=1, id="b1")]
    lines = list(
        csv.DictReader(
            io.StringIO(as_csv(seeds_cells(study_rows(comparable([*TWO_BASES, *more])))))
        )
    )
    assert [line["seeds"] for line in lines] == ["2", "2"]
    assert [float(line["domain"]) for line in lines] == pytest.approx([0.4, 0.8])
    table = as_markdown(seeds_cells(study_rows(comparable([*TWO_BASES, *more]))))
    assert "small (aaaa)" in table
    assert "small (bbbb)" in table
    twin = run("sft", 0.9, 0.5, asked="other", seed=1, id="easy")
    assert seeds_cells(study_rows(comparable([*TWO_SETS[:2], twin]))) is None


def test_costs_are_of_one_model_and_test_set_each():
    assert len(cost_cells(comparable(TWO_BASES)).rows) == 2
    (line,) = cost_cells(comparable(TWO_SETS)).rows
    assert line[2].text == "sft"


def test_recommended_is_the_best_of_each_model():
    runs = by_id(TWO_BASES)
    first, second = (recommend(group, runs, 0.02) for group in comparable(TWO_BASES))
    assert (first.runs, second.runs) == (1, 1)
    assert second.gain.difference == pytest.approx(0.1)
    runs = by_id(TWO_SETS)
    (group,) = comparable(TWO_SETS)
    found = recommend(group, runs, 0.02)
    assert found.candidates[0].results["run"]["id"] == "sft-a"
    assert found.left_out == {Path("easy"): "domain was scored on other items (first and other)"}
    own, other = comparable(NO_BASE)
    with pytest.raises(UserError, match=r"its base \(bbbb\) was not scored; .* another model \(aa"):
        recommend(other, by_id(NO_BASE), 0.02)
    assert own.base is not None


def test_claims_speak_of_one_model_each():
    runs = {}
    for base, domain in (("aaaa", 0.2), ("bbbb", 0.6)):
        own = [run("base", domain, 0.8, base)]
        own += [
            run("sft", domain + 0.1, 0.8 - place / 10, base, lr=lr)
            for place, lr in enumerate((1e-6, 1e-5))
        ]
        runs |= {Path(f"{base}{place}"): one for place, one in enumerate(own)}
    found = [one for one in findings(runs) if one.claim == 1]
    assert [one.model for one in found] == ["small (aaaa)", "small (bbbb)"]
    for one in found:
        assert one.tests[0].measured.startswith("+0.1")


def test_two_models_are_not_compared_run_by_run():
    lines = comparison_cells(TWO_BASES[0], TWO_BASES[3]).rows
    assert {line[-1].text for line in lines} == {
        "not comparable: its base is another model (aaaa and bbbb)"
    }
    assert flipped_items((Path("a"), TWO_BASES[0]), (Path("b"), TWO_BASES[3])) == []
    domain, *rest = comparison_cells(*TWO_SETS[1:]).rows
    assert "scored on other items (first and other)" in domain[-1].text
    assert all("not comparable" not in line[-1].text for line in rest)


def test_published_numbers_stand_beside_each_model_and_their_mean_beside_none():
    names = ("qwen2.5-3b", "qwen3-4b", "gemma3-4b")
    runs = [run("sft", 0.5, 0.5, base=name, model=name) for name in names]
    twin = run("sft", 0.9, 0.9, base="another", model="qwen3-4b")
    for one in (*runs, twin):
        one["general"]["suite"] = "paper"
    titles = [row[0].text for row in published_cells(comparable(runs)).rows]
    assert "mean of 3 models" in titles
    titles = [row[0].text for row in published_cells(comparable([*runs, twin])).rows]
    assert "mean of 3 models" not in titles
    assert {"qwen3-4b (another)", "qwen3-4b (qwen3-4b)"} <= set(titles)
    runs[0]["domain"]["items_hash"] = "others"
    titles = [row[0].text for row in published_cells(comparable(runs)).rows]
    assert "mean of 3 models" not in titles


def test_a_search_measures_losses_from_its_own_base():
    bases = [TWO_BASES[0], TWO_BASES[2]]
    assert _base_score(bases, TWO_BASES[3]) == pytest.approx(0.8)
    with pytest.raises(UserError, match=r"its base is another model \(aaaa and bbbb\)"):
        _base_score(bases[:1], TWO_BASES[3])


def test_the_page_has_a_part_and_pictures_for_each(tmp_path):
    write_study(tmp_path, [*TWO_BASES, TWO_SETS[2]], steps=4)
    page = write_report(load_runs(tmp_path, "s"), "s", tmp_path / "report").page
    text = page.read_text(encoding="utf-8")
    assert " and 2 base models.</p>" in text
    for base in ("aaaa", "bbbb"):
        assert text.count(f">\n<h2>small ({base}) on medcalc</h2>") == 1
        for name in ("tradeoff", "score-by-lr", "loss"):
            assert (page.parent / f"{name}-small__medcalc-{base}.svg").exists()
    why = "domain was scored on other items (first and other)"
    assert f'<p class="note">left out: talr-lr1e-6-s0-easy: {why}</p>' in text
    # In the table only: not in the pictures, whose legends name the methods.
    assert "talr" not in (page.parent / "tradeoff-small__medcalc-aaaa.svg").read_text()
    rows = {row["id"]: row for row in csv.DictReader((page.parent / "table.csv").open())}
    assert (rows["easy"]["domain_change"], rows["easy"]["left_out"]) == ("", why)
    assert (rows["sft-b"]["base"], rows["sft-b"]["model"]) == ("bbbb", "small")


@pytest.fixture
def card(tmp_path):
    """The card of the run `sft-b` among runs."""

    def write(runs):
        write_study(tmp_path, runs)
        (path,) = tmp_path.glob("s/*/sft-*-sft-b")
        directory = RunDirectory(path)
        config = {
            "model": {"path": "org/b", "random_init": None, "template_arguments": {}},
            "dataset": {"name": "medcalc"},
            "trainer": {"epochs": 1.0, "batch_size": 8},
        }
        directory.prepare(config, ["method=sft"], "f" * 64)
        return model_card(directory, "shipped")

    return write


def test_a_card_shows_the_own_base_or_says_why_there_is_none(card):
    text = card(TWO_BASES)
    assert "| domain: medcalc, accuracy | 0.700 ± 0.060 | 0.800 ± 0.052 | +0.100 [" in text
    assert "\n- epochs: 3\n- optimizer steps: 100\n" in text  # as made; its config says one


def test_a_card_says_what_was_trained_and_not_what_was_asked_for(card):
    """By trainer.max_steps, or at a point of a training, it is less than trainer.epochs."""
    trained = {**training(steps=5), "epochs": 1 / 3}
    changed = {"save_dtype": "float32", "changed_share": 1.0, "changed_share_saved": 1.0}
    weights = {**changed, "distance": 1.0, "averaged": {"alpha": 0.5, "of": "sft"}}
    looked_at = {**TWO_BASES[3]["domain"], "limit": 5}
    ours = {**TWO_BASES[3], "training": trained, "weights": weights, "domain": looked_at}
    text = card([ours])
    assert "- epochs: 0.3333\n- optimizer steps: 5\n" in text
    assert "At most 5 of the test rows were scored." in text
    assert "of each task were scored" not in text


def test_a_card_without_its_base_does_not_show_that_of_a_namesake(card):
    text = card(NO_BASE)
    assert "| domain: medcalc, accuracy | – | 0.800 ± 0.052 | – |" in text
    assert "its base (bbbb) was not scored; the one that was is another model (aaaa)" in text


def test_a_card_of_a_run_on_other_items_shows_no_base_score_beside_it(card):
    text = card([TWO_BASES[2], run("sft", 0.8, 0.8, "bbbb", "other", id="sft-b")])
    assert "| domain: medcalc, accuracy | – | 0.800 ± 0.052 | – |" in text
    assert "| general: mini | 0.800 ± 0.052 | 0.800 ± 0.052 | +0.000 [" in text
    assert "domain was scored on other items (first and other)" in text


def test_the_commands_say_what_is_left_out(tmp_path, capsys, caplog):
    write_study(tmp_path / "runs", [*NO_BASE, TWO_SETS[2]], steps=2)
    (damaged,) = tmp_path.glob("runs/s/*/base-*/results.json")
    done = talr("recommend", "study=s", cwd=tmp_path, logger=None)
    assert done.returncode == 2
    assert "left out: talr-lr1e-6-s0-easy: domain was scored on other items" in done.stdout
    assert "small (bbbb) on medcalc: its base (bbbb) was not scored" in done.stderr
    results = json.loads(damaged.read_text())
    damaged.write_text(json.dumps({**results, "schema": 1}))
    show_report(tmp_path / "runs", "s", load_runs(tmp_path / "runs", "s"))
    line, *_ = (one.getMessage() for one in caplog.records if one.levelname == "WARNING")
    assert "results.json was written by another version of talr (schema 1, not 2)" in line
    assert "left out: talr-lr1e-6-s0-easy: domain was" in capsys.readouterr().out


def test_a_seed_that_diverged_is_named_where_the_others_are_averaged(tmp_path, capsys):
    """Without it the mean is over those that went well, and nothing tells."""
    kept = [
        run("base", 0.2, 0.5, id="b"),
        *(run("sft", 0.4, 0.5, seed=s, id=f"{s}") for s in (0, 1)),
    ]
    write_study(tmp_path, kept, steps=2)
    pair = tmp_path / "s" / "small__medcalc"
    for name, state, reason in (
        ("sft-lr1e-6-s2-2", "diverged", "loss is <nan> at step 12"),
        ("sft-lr1e-6-s3-3", "failed", "Traceback\nKeyError: 1"),
        ("sft-lr1e-6-s4-4", "interrupted", "stopped by the user"),  # it will have scores
        ("sft-lr1e-6-s5-5", "evaluated", None),
    ):
        (pair / name).mkdir()
        RunDirectory(pair / name).write_status(state, reason)
    why = "it diverged: loss is <nan> at step 12"
    lines = [
        f"left out: sft-lr1e-6-s2-2: {why}",
        "left out: sft-lr1e-6-s3-3: it failed: KeyError: 1",
        "left out: sft-lr1e-6-s5-5: its results.json is gone: repeat its command",
    ]
    runs = load_runs(tmp_path, "s")
    show_report(tmp_path, "s", runs, str(tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text())["left_out"] == lines
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("left out")] == lines
    page = (tmp_path / "s" / "report" / "report.html").read_text()
    assert all(f'<p class="note">{html.escape(line)}</p>' in page for line in lines)
    (group,) = comparable(runs.values())
    assert recommend(group, runs, 0.1).left_out[pair / "sft-lr1e-6-s2-2"] == why


def test_scores_of_a_scorer_that_has_changed_are_named_with_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "judge_of_mine.py"
    file.write_text("def right(output, reference): return True\n")
    before = UserScorer(bool, "judge_of_mine.right").definition
    made = UserScorer(bool, "judge_of_mine.right", {"strict": True}).definition
    assert made.startswith(f"{before}-")
    runs = {"base": run("base", 0.2, 0.5, id="b"), "sft": run("sft", 0.4, 0.5, id="s")}
    for one in runs.values():
        one["domain"] |= {"scorer": "judge_of_mine.right", "definition": before}
    study = {tmp_path / name: one for name, one in runs.items()}
    for name, config, typed in (
        ("base", {"ckpt": None}, "[study=s, model=small]"),
        ("sft", {"trainer": {}}, "[--config-dir=/a b, study=s]"),
    ):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, config)
        (tmp_path / name / "overrides.yaml").write_text(f"{typed}\n")
    assert stale_lines(study) == []
    file.write_text("def right(output, reference): return False\n")
    (told, *lines) = stale_lines(study)
    assert told == "judge_of_mine.right has changed since it scored 2 runs; to score again:"
    assert lines == [
        "  talr eval study=s model=small",
        "  talr train '--config-dir=/a b' study=s",
    ]
    runs["sft"]["domain"]["definition"] = UserScorer(bool, "judge_of_mine.right").definition
    assert len(stale_lines(study)) == 2, "the base only"
    (tmp_path / "base" / "overrides.yaml").unlink()
    assert stale_lines(study)[1] == f"  the command that made {tmp_path / 'base'}"
    assert changes([*runs.values()])["s"] is None, "right by two measures"
    (group,) = comparable(runs.values())
    assert "two versions of judge_of_mine.right" in group.left_out[0][1]
