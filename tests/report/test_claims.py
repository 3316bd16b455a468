"""Verdicts on the study's claims: worlds made to hold or fail, and intervals computed otherwise."""

import json

import numpy
import pytest
from synthetic_study import scored, write_study

from talr_cli.report.claims.text import as_document, as_lines
from talr_cli.report.claims.verdicts import findings
from talr_cli.report.study_report import write_report
from talr_cli.report.tables.published import PUBLISHED, published_cells
from talr_cli.runs.study import load_runs
from talr_cli.statistics.contrasts import (
    MetricsError,
    balance,
    change,
    combined,
    easy_share,
    easy_share_rise,
)
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.paired import UnpairedError

RATES = (1e-6, 5e-6, 2e-5)
# Domain and general score by method and rate: a world like the study's.
WORLD = {
    "sft": ((0.60, 0.66), (0.64, 0.50), (0.65, 0.30)),
    "l2": ((0.58, 0.66), (0.63, 0.52), (0.64, 0.32)),
    "talr": ((0.58, 0.68), (0.63, 0.60), (0.64, 0.45)),
}
BASE = (0.20, 0.72)
EXPLAINED = {"sft": ((0.65, 0.66), (0.65, 0.50), (0.65, 0.30))}  # the smallest rate beats all
LABELS = {"sft": ((0.60, 0.70), (0.66, 0.70), (0.70, 0.64))}
N = 600


def run(method, lr, scores, n=N, seed=0, **where):
    """A run that answers the easiest items, the same for all runs; the tasks are of two sizes."""
    difficulty = (numpy.arange(n) + 0.5) / n
    domain, general = (difficulty < score for score in scores)
    tasks = {"first": general, "second": general[::2]}
    return scored(method, domain, tasks, lr=lr, seed=seed, **where)


def world(methods=WORLD, n=N, **where):
    runs = [run("base", None, BASE, n, **where)]
    for method, by_rate in methods.items():
        runs += [
            run(method, lr, scores, n, id=f"{method}{lr}{where.get('dataset', '')}"[:12], **where)
            for lr, scores in zip(RATES, by_rate, strict=True)
        ]
    return runs


def verdicts(folder, runs, steps=60):
    write_study(folder, runs, steps)
    return {(one.claim, one.dataset): one for one in findings(load_runs(folder, "s"))}


def changed(method, place, scores):
    rates = list(WORLD[method])
    rates[place] = scores
    return {**WORLD, method: tuple(rates)}


def test_in_the_studys_world_its_claims_hold(tmp_path):
    esci = [*world(EXPLAINED, dataset="esci"), *world(LABELS, dataset="esci-label")]
    found = verdicts(tmp_path, [*world(), *esci])
    for number, dataset in ((1, "medcalc"), (2, "esci-label"), (3, "medcalc"), (4, "medcalc")):
        assert found[number, dataset].verdict == "holds", found[number, dataset]
    for dataset in ("medcalc", "esci"):
        assert found[2, dataset].verdict == "not testable here"


@pytest.mark.parametrize(
    ("claim", "methods"),
    [
        # The smallest rate learns little of the domain.
        (1, changed("sft", 0, (0.35, 0.66))),
        # It forgets as much as the largest.
        (1, changed("sft", 0, (0.60, 0.28))),
        # It forgets less, but more than half as much.
        (1, changed("sft", 0, (0.60, 0.45))),
        # A method has the best domain score and forgets nothing.
        (3, changed("l2", 2, (0.66, 0.72))),
        # Another method balances better than talr.
        (3, changed("l2", 1, (0.63, 0.66))),
        # The lead of talr over sft shrinks.
        (3, changed("talr", 0, (0.58, 0.80))),
    ],
)
def test_a_claim_that_fails_is_said_to_fail(tmp_path, claim, methods):
    found = verdicts(tmp_path, world(methods))
    assert found[claim, "medcalc"].verdict == "does not hold", found[claim, "medcalc"]
    lines = "\n".join(as_lines(list(found.values())))
    assert f"claim {claim} on small, medcalc: does not hold (" in lines
    assert "does not hold" in as_document(list(found.values()), None)


def test_labels_that_narrow_the_front_speak_against_claim_2(tmp_path):
    runs = [*world(LABELS), *world(EXPLAINED, dataset="medcalc-label")]
    assert verdicts(tmp_path, runs)[2, "medcalc-label"].verdict == "does not hold"


def test_few_items_leave_it_undecided(tmp_path):
    """Two dozen items tell a gain of the domain, and no difference between methods."""
    found = verdicts(tmp_path, world(n=24))
    assert found[3, "medcalc"].verdict == "undecided"
    assert {test.answer for test in found[3, "medcalc"].tests} >= {"open"}


@pytest.mark.parametrize(
    ("claim", "left_out", "reason"),
    [
        (1, lambda one: one["run"]["method"] == "base", "the base model was not scored"),
        (3, lambda one: one["run"]["method"] == "talr" and one["run"]["lr"] < 1e-5, "there are 1"),
        (2, lambda one: False, "medcalc-label"),
        (3, lambda one: one["run"]["method"] == "talr", "of talr, there are 0"),
        (4, lambda one: one["run"]["method"] == "talr", "of talr, there are 0"),
    ],
)
def test_what_a_study_lacks_is_named(tmp_path, claim, left_out, reason):
    runs = [one for one in world() if not left_out(one)]
    found = verdicts(tmp_path, runs)[claim, "medcalc"]
    assert found.verdict == "not testable here"
    assert reason in found.reason


def test_where_nothing_was_learned_there_is_nothing_to_give_up(tmp_path):
    flat = dict.fromkeys(WORLD, ((0.2, 0.7),) * 3)
    found = verdicts(tmp_path, world(flat))
    for claim in (1, 3):
        assert found[claim, "medcalc"].verdict == "not testable here"
        assert "gains" in found[claim, "medcalc"].reason


def test_runs_without_items_are_not_compared(tmp_path):
    runs = world()
    for one in runs:
        one["domain"]["items"] = None
    assert "items of domain are not in" in verdicts(tmp_path, runs)[1, "medcalc"].reason


def test_a_run_that_was_scored_otherwise_does_not_spoil_the_rest(tmp_path):
    odd = run("flow", 2e-5, (0.9, 0.9), id="odd")
    odd["general"]["suite"] = "another"
    assert verdicts(tmp_path, [*world(), odd])[3, "medcalc"].verdict == "holds"


def test_runs_that_differ_in_another_setting_do_not_count(tmp_path):
    twin = run("sft", 2e-5, (0.9, 0.9), id="twin")
    found = verdicts(tmp_path, [*world(), twin])[1, "medcalc"]
    assert f"general score: lr {1e-6:g} is above {5e-6:g}" in {
        test.statement for test in found.tests
    }


def test_a_study_of_other_things_has_no_claims(tmp_path):
    runs = [run("base", None, BASE)]
    runs += [run(method, 1e-5, (0.5, 0.6), id=method) for method in ("sft", "talr")]
    write_study(tmp_path, runs)
    page = write_report(load_runs(tmp_path, "s"), "s", tmp_path / "report")
    assert findings(load_runs(tmp_path, "s")) == []
    assert not (page.parent / "claims.md").exists()


def test_the_page_and_the_document_have_every_claim(tmp_path):
    write_study(tmp_path, world())
    page = write_report(load_runs(tmp_path, "s"), "s", tmp_path / "report").read_text()
    document = (tmp_path / "report" / "claims.md").read_text()
    for number in (1, 2, 3, 4):
        assert f"<h3>Claim {number}</h3>" in page
        assert f"## Claim {number}\n" in document
    assert document.count("| holds |") == 3
    assert document.count("| not testable here |") == 1


def noisy(seed, n=80):
    """Two runs whose answers agree on most items, on a domain and two tasks."""
    draw = numpy.random.default_rng(seed)
    pairs = []
    for size in (n, n // 2, n // 3):
        before = draw.random(size) < 0.5
        pairs.append((before, numpy.where(draw.random(size) < 0.25, ~before, before)))
    return [
        scored(name, pairs[0][place], {"a": pairs[1][place], "b": pairs[2][place]}, id=name)
        for place, name in enumerate(("one", "two"))
    ]


def test_a_combination_is_linear_in_every_score():
    one, two = noisy(0)
    mix = combined([one, two], [0.25, 0.75])
    for part in ("domain", "general"):
        whole = change(one, two, part)
        assert change(one, mix, part).estimate == pytest.approx(0.75 * whole.estimate)
        assert change(one, mix, part).low == pytest.approx(0.75 * whole.low)
    assert mix["domain"]["score"] == pytest.approx(
        0.25 * one["domain"]["score"] + 0.75 * two["domain"]["score"]
    )


def test_runs_that_were_measured_otherwise_do_not_combine():
    one, two = noisy(0)
    two["domain"]["scorer"] = "another"
    with pytest.raises(UnpairedError, match="another"):
        combined([one, two], [0.5, 0.5])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_interval_of_a_balance_is_that_of_a_joint_bootstrap(seed):
    one, two = noisy(seed)
    draw = numpy.random.default_rng(seed)

    def means(first, second):
        changes = numpy.subtract(list(second["items"].values()), list(first["items"].values()))
        return changes[draw.integers(0, len(changes), (20_000, len(changes)))].mean(axis=1)

    tasks = [means(one["general"]["tasks"][t], two["general"]["tasks"][t]) for t in ("a", "b")]
    both = (means(one["domain"], two["domain"]) + numpy.mean(tasks, axis=0)) / 2
    found = balance(one, two)
    expected = numpy.quantile(both, [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(list(expected), abs=0.006)


def test_the_share_of_easy_tokens_has_the_interval_of_a_bootstrap_over_steps(tmp_path):
    write_study(tmp_path, [run("talr", 1e-5, (0.5, 0.5))], steps=120)
    (path,) = load_runs(tmp_path, "s")
    rows = [row for row in map(json.loads, (path / "metrics.jsonl").open()) if "loss" in row]
    draw = numpy.random.default_rng(0)

    def shares(epoch):
        mine = [row for row in rows if epoch - 1 < row["epoch"] <= epoch]
        tokens = numpy.array([row["target_tokens"] for row in mine], float)
        easy = tokens * [1 - row["hard_token_share"] for row in mine]
        places = draw.integers(0, len(mine), (20_000, len(mine)))
        return easy[places].sum(axis=1) / tokens[places].sum(axis=1)

    first, second = shares(1), shares(2)
    for found, expected in (
        (easy_share([path], 1), first),
        (easy_share_rise([path]), second - first),
    ):
        limits = numpy.quantile(expected, [0.025, 0.975])
        assert [found.low, found.high] == pytest.approx(list(limits), abs=0.002)
    with pytest.raises(MetricsError, match="epoch 9"):
        easy_share([path], 9)


def test_seeds_are_averaged_item_by_item(tmp_path):
    """Two seeds that answer the two halves: together they know half of every item."""
    half = numpy.arange(N) % 2 == 0
    seeds = [
        scored("sft", right, {"a": right}, lr=2e-5, seed=seed, id=f"seed{seed}")
        for seed, right in enumerate((half, ~half))
    ]
    one = scored("sft", ~half | half, {"a": ~half & half}, lr=1e-6, seed=0, id="small")
    base = scored("base", half & ~half, {"a": half & ~half})
    found = verdicts(tmp_path, [base, one, *seeds])[1, "medcalc"]
    assert found.tests[0].measured == "-0.500 [-0.500, -0.500], n 600"


def test_published_numbers_stand_beside_their_counterparts_only():
    ours = [
        run(one.method.split()[0], one.lr, (0.5, 0.6), model=model, id=f"{model}{one.method}"[:9])
        for one in PUBLISHED
        if one.model == "qwen3-4b"
        for model in ("qwen2.5-3b", "qwen3-4b", "gemma3-4b")
    ]
    for one in ours:
        one["general"]["suite"] = "paper"
        if one["run"]["method"] == "averaging":
            one["weights"]["averaged"] = {"alpha": 0.5, "of": "sft"}
    cells = published_cells(comparable(ours))
    shown = {(row[0].value, row[1].value, row[2].value): row for row in cells.rows}
    assert len(shown) == 18  # 5e-6 was not trained
    assert shown["qwen3-4b", "talr", 1e-6][3].text == "0.489"
    assert shown["mean of 3 models", "sft", 1e-6][4].text == "0.500"
    fewer = published_cells(comparable([one for one in ours if one["run"]["model"] != "gemma3-4b"]))
    assert "mean of 3 models" not in {row[0].value for row in fewer.rows}
    assert published_cells(comparable(world())) is None
