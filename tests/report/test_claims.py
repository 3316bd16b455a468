"""Verdicts on the study's claims: worlds made to hold or fail, and intervals computed otherwise."""

import json
import re
import statistics
from pathlib import Path

import numpy
import pytest
from conftest import jsonl
from scipy import stats
from synthetic_study import scored, write_config, write_study

from talr_cli.config.composition import load
from talr_cli.report.claims.pair import at, gather_pairs
from talr_cli.report.claims.tests import _Front
from talr_cli.report.claims.text import as_document, as_lines
from talr_cli.report.claims.verdicts import findings
from talr_cli.report.provenance import asks_for_claims
from talr_cli.report.study_report import write_report
from talr_cli.report.tables.matched import MISSING as NOT_MATCHED
from talr_cli.report.tables.published import PUBLISHED, published_cells
from talr_cli.runs.study import load_runs
from talr_cli.statistics.easy_share import MetricsError, easy_share, easy_share_rise, read_steps
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.pairs import PARTS

RATES = (1e-6, 5e-6, 2e-5)
# Domain and general score by method and rate: a world like the study's.
WORLD = {
    "sft": ((0.60, 0.66), (0.64, 0.50), (0.65, 0.30)),
    "l2": ((0.58, 0.66), (0.63, 0.52), (0.64, 0.32)),
    "talr": ((0.58, 0.68), (0.63, 0.60), (0.64, 0.45)),
}
BASE = (0.20, 0.72)
EXPLAINED = {"sft": ((0.65, 0.66), (0.60, 0.50), (0.55, 0.30))}  # the smallest rate beats all
LABELS = {"sft": ((0.60, 0.70), (0.66, 0.67), (0.70, 0.60))}
N = 600


def run(method, lr, scores, n=N, seed=0, **where):
    """A run that answers the easiest items, the same for all runs; the tasks are of two sizes."""
    difficulty = (numpy.arange(n) + 0.5) / n
    domain, general = (difficulty < score for score in scores)
    tasks = {"first": general, "second": general[::2]}
    return scored(method, domain, tasks, lr=lr, seed=seed, **where)


def world(methods=WORLD, n=N, seeds=2, **where):
    """Its seeds answer alike."""
    runs = [run("base", None, BASE, n, **where)]
    for method, by_rate in methods.items():
        runs += [
            run(method, lr, scores, n, seed, id=f"{method}{lr}{where.get('dataset', '')}", **where)
            for lr, scores in zip(RATES, by_rate, strict=True)
            for seed in range(seeds)
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
    # By hand from the scores above.
    measured = {
        (number, test.statement): test.measured
        for number, dataset in ((1, "esci"), (2, "esci-label"), (3, "medcalc"))
        for test in found[number, dataset].tests
    }
    for (number, statement), begin in {
        (1, "general score: lr 1e-6 is above 2e-5"): "+0.360 [",
        (1, "general score: lr 1e-6 loses less than half of what 2e-5 loses"): "+0.150 [",
        (2, "lr 5e-6 is on the front with labels"): "on 1e-6 and 5e-6 and 2e-5",
        (3, "mean of both scores: talr at lr 5e-6 is above every other method"): "+0.045 [",
    }.items():
        assert measured[number, statement].startswith(begin)
    (labels, *_), (all_short, _, growth) = (
        [measured[key] for key in measured if key[0] == number] for number in (2, 3)
    )
    assert labels.endswith("; explanations: on 1e-6, off 5e-6 and 2e-5")
    assert all_short == "9 of 9 settings fall short"
    assert growth.startswith("+0.080 [")
    assert growth.endswith("the lead is +0.020 at 1e-6, +0.100 at 5e-6, +0.150 at 2e-5")


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
        (3, changed("talr", 0, (0.58, 0.90))),
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


@pytest.mark.parametrize(
    ("words", "answer"),
    [({"sft": (*EXPLAINED["sft"][:2], LABELS["sft"][2])}, "yes"), (LABELS, "open")],
    ids=["one-less", "as-many"],
)
def test_one_rate_more_on_the_front_is_enough_for_claim_2(tmp_path, words, answer):
    """With labels all three are on it; in words two, as the first beats the second, or three."""
    found = verdicts(tmp_path, [*world(words), *world(LABELS, dataset="medcalc-label")])
    assert found[2, "medcalc-label"].answers == (answer, "yes")


@pytest.mark.parametrize(
    "scores",
    [
        ((0.60, 0.66), (0.61, 0.655), (0.59, 0.64)),
        ((0.60, 0.66), (0.612, 0.668), (0.606, 0.666)),
        ((0.60, 0.66), (0.608, 0.665), (0.604, 0.670)),
    ],
)
def test_whether_a_rate_is_on_the_front_is_corrected_for_all_that_is_compared(scores):
    """By p of each comparison of two rates alone, which is normal where seeds answer alike."""
    runs = world({"sft": scores})
    (pair,) = gather_pairs({Path(str(place)): one for place, one in enumerate(runs)})
    found = _Front.of(pair, list(RATES))

    def p(part, lr, other):
        """Of the test that `lr` is the better one."""
        lead = pair.lead(part, at("sft", lr), at("sft", other))
        return stats.norm.sf(lead.estimate / lead.standard_error)

    for lr in RATES:
        better = [[p(part, lr, other) for part in PARTS] for other in RATES if other != lr]
        worse = [[p(part, other, lr) for part in PARTS] for other in RATES if other != lr]
        # Better on one of two scores, than each of the others; worse on both, than one of two.
        assert found.not_on[lr] == pytest.approx(max(min(1, 2 * min(each)) for each in better))
        assert found.not_off[lr] == pytest.approx(min(1, 2 * min(max(each) for each in worse)))


@pytest.mark.parametrize(
    ("easy", "answer"),
    [((0.56, 0.64), "yes"), ((0.3, 0.75), "open"), ((0.4, 0.57), "open"), ((0.36, 0.44), "no")],
)
def test_whether_most_tokens_are_easy_is_told_from_a_half_of_them(tmp_path, easy, answer):
    """Of 20 steps in each of two epochs; both runs have the same."""
    write_study(tmp_path, world({one: WORLD[one] for one in ("sft", "talr")}), steps=60)
    shares = [easy[step % 2] for step in range(20)] + [0.9, 0.95] * 10
    rows = jsonl(
        {"step": step + 1, "epoch": (step + 1) / 20, "target_tokens": 100,
         "hard_token_share": 1 - share}
        for step, share in enumerate(shares)
    )  # fmt: skip
    runs = load_runs(tmp_path, "s")
    for path, one in runs.items():
        if one["training"]:
            (path / "metrics.jsonl").write_text(rows)
    (found,) = (one for one in findings(runs) if one.claim == 4)
    assert found.answers[0] == answer
    mean, error = statistics.fmean(shares[:20]), statistics.stdev(shares[:20]) / 20**0.5
    above, below = (stats.norm.sf(sign * (mean - 0.5) / error) for sign in (1, -1))
    expected = "yes" if above < 0.025 else "no" if below < 0.025 else "open"
    assert answer == expected


def test_few_items_leave_a_claim_undecided(tmp_path):
    """Two dozen items tell a gain of the domain, and no difference between methods."""
    found = verdicts(tmp_path, world(n=24))
    assert found[3, "medcalc"].verdict == "undecided"
    assert {*found[3, "medcalc"].answers} >= {"open"}
    (open_,) = (t for t in found[3, "medcalc"].tests if "mean of both" in t.statement)
    assert "; detectable: ±0." in open_.measured


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
    blind = run("dft", 5e-6, (0.9, 0.9), id="blind")
    blind["domain"]["items"] = None
    alone = run("talr", 1e-6, (0.9, 0.9), id="alone", dataset="other")
    assert verdicts(tmp_path, [*world(), odd, blind, alone])[3, "medcalc"].verdict == "holds"


def test_runs_that_differ_in_another_setting_do_not_count(tmp_path):
    twin = run("sft", 2e-5, (0.9, 0.9), id="twin")
    found = verdicts(tmp_path, [*world(), twin])[1, "medcalc"]
    assert "general score: lr 1e-6 is above 5e-6" in {test.statement for test in found.tests}


def test_a_study_of_other_things_has_no_claims(tmp_path):
    runs = [run("base", None, BASE)]
    runs += [run(method, 1e-5, (0.5, 0.6), id=method) for method in ("sft", "talr")]
    write_study(tmp_path, runs)
    page = write_report(load_runs(tmp_path, "s"), "s", tmp_path / "report", claims=True).page
    assert findings(load_runs(tmp_path, "s")) == []
    assert page.read_text().count(NOT_MATCHED) == 1
    assert not (page.parent / "claims.md").exists()


def test_the_page_and_the_document_have_every_claim(tmp_path):
    write_study(tmp_path, world())
    runs = load_runs(tmp_path, "s")
    page = write_report(runs, "s", tmp_path / "report", claims=True).page.read_text()
    document = (tmp_path / "report" / "claims.md").read_text()
    for number in (1, 2, 3, 4):
        assert f"<h3>Claim {number}</h3>" in page
        assert f"## Claim {number}\n" in document
    assert "Each method against sft where" in page
    assert NOT_MATCHED not in page
    assert document.count("| holds |") == 3
    assert document.count("| not testable here |") == 1
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles[-2:] == ["How it was made", "The study&#x27;s claims"]
    # Only where they are asked for.
    other = write_report(runs, "s", tmp_path / "other").page.read_text()
    assert "claim" not in other.lower()
    assert not (tmp_path / "other" / "claims.md").exists()


def test_a_study_asks_for_its_claims_by_the_config_of_its_runs(tmp_path):
    write_study(tmp_path, world())
    runs = load_runs(tmp_path, "s")
    assert not asks_for_claims(runs)
    sorted(runs)[0].joinpath("config.yaml").write_text("claims: [\n")
    assert not asks_for_claims(runs)  # a damaged one asks for nothing
    write_config(sorted(runs)[-1], {"claims": True})
    assert asks_for_claims(runs)


@pytest.mark.parametrize(
    ("experiment", "asked"),
    [("facts", True), ("cpu", True), ("paper/medcalc", True), ("paper/esci-label", True),
     ("demo", False), (None, False)],
)  # fmt: skip
def test_the_studys_experiments_ask_for_claims_and_no_others(experiment, asked):
    chosen = [] if experiment is None else [f"experiment={experiment}"]
    assert load("train", chosen).claims is asked


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
    talr = ("talr", 1e-5)
    steps = read_steps({talr: [path]})
    for found, expected, count in (
        (easy_share(steps, talr, 1), first, 40),
        (easy_share_rise(steps, talr), second - first, 80),
    ):
        assert found.n == count
        limits = numpy.quantile(expected, [0.025, 0.975])
        assert found.interval() == pytest.approx(limits, abs=0.003)
        assert found.run_variance is None  # of one run
    with pytest.raises(MetricsError, match="epoch 9"):
        easy_share(steps, talr, 9)


def test_the_share_of_easy_tokens_takes_in_how_far_seeds_lie_apart():
    draw = numpy.random.default_rng(1)

    def trained(steps=40):
        tokens, easy = draw.integers(50, 150, steps), draw.normal(0.7, 0.1, steps)
        return {1: list(zip(tokens.tolist(), easy.tolist(), strict=True))}

    def share(steps):
        tokens, easy = numpy.array(steps).T
        return (tokens * easy).sum() / tokens.sum()

    def jackknife(steps):
        left = [share(steps[:place] + steps[place + 1 :]) for place in range(len(steps))]
        return (len(steps) - 1) * numpy.var(left)

    talr = ("talr", 1e-5)
    runs = {
        talr: {"a": trained(), "b": trained(), "c": trained(30)},
        ("sft", 1e-5): {"d": trained(), "e": trained()},
        ("dft", 1e-5): {"f": trained()},
        ("l2", 1e-5): {"g": trained(), "h": trained(1)},  # of one step nothing is known
    }
    found = easy_share(runs, talr, 1)
    own, other = ([share(one[1]) for one in runs[key].values()] for key in (talr, ("sft", 1e-5)))
    between = (2 * numpy.var(own, ddof=1) + numpy.var(other, ddof=1)) / 3
    assert found.estimate == pytest.approx(numpy.mean(own))
    assert found.run_variance == pytest.approx(between / 3)
    assert (found.df, found.n) == (3, 110)
    of_steps = sum(jackknife(one[1]) for one in runs[talr].values())
    assert found.item_variance == pytest.approx(of_steps / 9, rel=0.03)
    with pytest.raises(MetricsError, match="epoch 1 in h"):
        easy_share(runs, ("l2", 1e-5), 1)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2), (2, 1)])
def test_with_one_seed_of_either_the_front_is_left_undecided(tmp_path, seeds):
    words, labels = seeds
    runs = world(EXPLAINED, seeds=words) + world(LABELS, seeds=labels, dataset="medcalc-label")
    answers = verdicts(tmp_path, runs)[2, "medcalc-label"].answers
    assert answers == ("one seed", "one seed" if labels == 1 else "yes")


def test_with_one_seed_methods_are_left_undecided_and_it_says_why(tmp_path):
    found = verdicts(tmp_path, world(seeds=1))
    for claim in (1, 3, 4):
        assert found[claim, "medcalc"].verdict == "undecided: one seed"
    assert "of these checkpoints" in found[1, "medcalc"].tests[0].measured
    document = as_document(list(found.values()), None)
    assert "small on medcalc: unknown, as no setting has several seeds" in document
    assert "undecided: one seed (no setting has a second seed" in "\n".join(
        as_lines([*found.values()])
    )


def test_a_second_seed_elsewhere_says_how_far_runs_lie_apart(tmp_path):
    """And it is said which: here of a method that no claim speaks of."""
    more = {"dft": ((0.50, 0.66), (0.60, 0.50), (0.60, 0.30))}
    found = verdicts(tmp_path, [*world(seeds=1), *world(more)[1:]])[1, "medcalc"]
    assert found.verdict == "holds"
    assert "from 3 settings with several seeds, of dft: df 3" in found.between_runs


def test_runs_that_lie_far_apart_leave_it_undecided(tmp_path):
    """Items alone would say that it holds."""
    spread = 0.12
    runs = world(seeds=1)
    for method, by_rate in WORLD.items():
        for lr, scores in zip(RATES, by_rate, strict=True):
            other = tuple(max(0.05, score - spread) for score in scores)
            runs.append(run(method, lr, other, seed=1, id=f"{method}{lr}"))
    found = verdicts(tmp_path, runs)
    assert found[3, "medcalc"].verdict == "undecided"
    assert "domain 0.085" in found[3, "medcalc"].between_runs  # 0.12 / sqrt(2)


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
    ours[-1]["domain"] = None  # a mean of two is not one of three
    (row,) = (
        row
        for row in published_cells(comparable(ours)).rows
        if (row[0].value, row[1].value) == ("mean of 3 models", ours[-1]["run"]["method"])
    )
    assert (row[4].text, row[6].text) == ("–", "0.600")
    assert published_cells(comparable(world())) is None


def test_a_point_along_a_training_is_not_what_was_published():
    """One seed to its end, of another the first half only."""
    whole, half = (
        run("sft", 1e-6, (score, 0.6), seed=seed, model="qwen3-4b", id=f"sft{seed}")
        for seed, score in enumerate((0.5, 0.2))
    )
    half["weights"]["taken"] = {"at": 0.5, "of": "sft-lr1e-6-s1"}
    for one in (whole, half):
        one["general"]["suite"] = "paper"
    ((*_, ours, _, _),) = published_cells(comparable([whole, half])).rows
    assert ours.text.startswith("0.500")
    assert published_cells(comparable([half])) is None
