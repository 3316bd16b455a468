"""The run to ship: against the rule written out, and against a bootstrap drawn item by item."""

import re
import shlex
import statistics
from html import unescape
from pathlib import Path

import numpy
import pytest
from command_line import talr
from scipy import stats
from synthetic_study import scored, write_study

from talr_cli.errors import UserError
from talr_cli.report import recommend as recommending
from talr_cli.report.pareto import pareto_front
from talr_cli.report.recommend_text import as_sentences
from talr_cli.report.study_report import write_report
from talr_cli.runs.study import load_runs
from talr_cli.statistics import paired
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.pairs import run_label


def run(method, domain, general, lr=1e-6, n=400, **where):
    """A run that answers the easiest items right, so that equal scores are equal answers."""
    difficulty = (numpy.arange(n) + 0.5) / n
    tasks = {"a": difficulty < general, "b": difficulty[::2] < general}
    return scored(method, difficulty < domain, tasks, lr=lr, id=method, **where)


def recommend(runs, bound):
    (group,) = comparable(runs.values())
    return recommending.recommend(group, runs, bound)


def named(runs):
    return {Path(f"s/{one['run']['id']}"): one for one in runs}


BASE = run("base", 0.2, 0.7)
RUNS = [
    BASE,
    run("sft", 0.6, 0.40),
    run("talr", 0.5, 0.685),
    run("l2", 0.45, 0.69),
    run("lora", 0.3, 0.71),
]


@pytest.mark.parametrize(
    ("bound", "expected"), [(0.0, "lora"), (0.01, "l2"), (0.02, "talr"), (0.4, "sft")]
)
def test_the_best_domain_score_within_the_bound_is_recommended(bound, expected):
    found = recommend(named(RUNS), bound)
    assert found.candidates[0].path.name == expected
    scores = [one.results["domain"]["score"] for one in found.candidates]
    assert scores == sorted(scores, reverse=True)
    assert found.unbound["run"]["method"] == "sft"
    assert (found.given_up is None) == (expected == "sft")
    why = dict(as_sentences(found, bound))["why"]
    words = f"it has the best domain score of the {len(scores)} runs (of 4) that lose"
    assert why.startswith(words if len(scores) > 1 else "it is the only run (of 4) that loses")


@pytest.mark.parametrize(("n", "variance"), [(10, 1 / 90), (1, 1)])
def test_a_few_items_on_which_all_agree_are_not_sure_of_everything(n, variance):
    """Of ten items none was lost: of other items one in eleven may well be."""
    rows = [1.0] * n
    runs = [scored(method, rows, {"a": rows}, id=method) for method in ("base", "sft")]
    error = statistics.NormalDist(0, variance**0.5)
    for bound in (0.02, 0.1):
        found = recommend(named(runs), bound)
        assert found.holds == pytest.approx(error.cdf(bound), abs=0.025)
        assert found.candidates[0].picked == found.holds  # there is no other


def test_what_is_given_up_is_a_paired_difference():
    found = recommend(named([*RUNS, run("dft", 0.55, 0.3)]), 0.02)
    assert found.unbound["run"]["method"] == "sft"
    assert found.given_up.difference == pytest.approx(-0.1)
    assert found.gain.difference == pytest.approx(0.3)
    assert found.loss.difference == pytest.approx(-0.015)
    assert found.loss.low < -0.015 < found.loss.high
    loss = statistics.NormalDist(0.015, found.loss.stderr)
    assert found.holds == pytest.approx(loss.cdf(0.02), abs=0.03)  # others lose less


def test_only_the_run_to_ship_is_resampled_against_others(monkeypatch):
    """Of a thousand runs it took eight minutes to find out which of them have the same items."""
    resampled, found = paired._bootstrap, []
    monkeypatch.setattr(paired, "_bootstrap", lambda tasks: found.append(tasks) or resampled(tasks))
    runs = [*RUNS, *(run(f"r{n}", 0.3 + n / 400, 0.68 + n / 400) for n in range(8))]
    assert recommend(named(runs), 0.02).runs == len(runs) - 1
    assert len(found) == 3  # gain, loss, what is given up


@pytest.mark.parametrize("name", ["flow", "zero"])  # before talr and after it in the alphabet
def test_of_equal_domain_scores_the_better_general_score_is_taken(name):
    tied = [*RUNS, run(name, 0.5, 0.695)]
    assert recommend(named(tied), 0.02).candidates[0].path.name == name


def test_a_checkpoint_that_was_only_scored_is_named_without_a_rate():
    """`talr eval ckpt=FOLDER study=NAME` writes a run that has neither rate nor seed."""
    shipped = run("shipped", 0.49, 0.69, lr=None, seed=None)
    found = recommend(named([*RUNS, shipped]), 0.02)
    others = [text for kind, text in as_sentences(found, 0.02) if kind == "or"]
    assert others[0].startswith("shipped: domain 0.490, general 0.690, picked in ")


def test_a_point_along_a_training_is_recommended_and_on_the_front_where_it_is_best():
    early = run("sft", 0.55, 0.69)
    early["run"]["id"] = "early"
    early["weights"]["taken"] = {"at": 0.5, "of": "sft"}
    found = recommend(named([*RUNS, early]), 0.02)
    assert found.candidates[0].path.name == "early"
    assert found.runs == len(RUNS)
    assert [run_label(one) for one in pareto_front([*RUNS, early])] == ["lora", "sft @0.5", "sft"]


def test_no_run_within_the_bound_names_the_nearest():
    found = recommend(named(RUNS[:3]), 0.01)
    assert isinstance(found, recommending.NothingWithin)
    assert found.nearest.name == "talr"
    assert found.loss == pytest.approx(0.015)


def test_one_seed_says_nothing_of_another_training():
    assert recommend(named(RUNS), 0.02).again is None


def test_another_training_has_the_deviation_between_runs_besides():
    """Against the same drawn run by run: 3 seeds of each setting, items that hardly matter."""
    draw = numpy.random.default_rng(3)
    n, bound, spread = 2000, 0.05, 0.02
    true = {"sft": (0.60, 0.66), "talr": (0.58, 0.68)}
    runs = {Path("s/base"): run("base", 0.2, 0.7, n=n)}
    for method, scores in true.items():
        for seed in range(3):
            one = run(method, *(score + spread * draw.normal() for score in scores), n=n, seed=seed)
            runs[Path(f"s/{method}{seed}")] = one
    found = recommend(runs, bound)
    means = {
        method: [
            numpy.mean([runs[Path(f"s/{method}{seed}")][part]["score"] for seed in range(3)])
            for part in ("domain", "general")
        ]
        for method in true
    }
    deviations, holds, picked = found.again.deviation, [], []
    chosen = found.candidates[0].results["run"]["method"]
    for _ in range(4000):
        factors = [(4 / draw.chisquare(4)) ** 0.5 * (1 + 1 / 3) ** 0.5 for _ in range(2)]
        drawn = {
            method: [
                mean + factor * deviation * draw.normal()
                for mean, factor, deviation in zip(means[method], factors, deviations, strict=True)
            ]
            for method in true
        }
        within = [method for method in true if 0.7 - drawn[method][1] <= bound]
        holds.append(chosen in within)
        best = max(within, key=lambda method: drawn[method][0], default=None)
        picked.append(best == chosen)
    assert found.again.seeds == 3
    assert found.again.holds == pytest.approx(numpy.mean(holds), abs=0.04)
    assert found.again.picked == pytest.approx(numpy.mean(picked), abs=0.04)
    assert found.again.holds < found.holds


def test_of_two_seeds_another_training_is_as_far_off_as_students_t_says():
    """Of one degree of freedom, about the mean of both; how far apart they are hides the items."""
    runs = {Path("s/base"): run("base", 0.2, 0.95, n=300)}
    for seed, general in enumerate((0.85, 0.65)):
        runs[Path(f"s/{seed}")] = run("sft", 0.6 + seed / 50, general, n=300, seed=seed)
    error = statistics.stdev([0.85, 0.65]) * (1 + 1 / 2) ** 0.5
    for errors in (0, 1, 3):
        again = recommend(runs, 0.2 + errors * error).again
        assert again.holds == pytest.approx(stats.t.cdf(errors, 1), abs=0.02)
        assert again.picked == again.holds  # there is no other setting


def test_the_command_that_is_named_can_be_typed():
    place = Path("it's, new [1]/s")
    found = recommend({place / path: one for path, one in named(RUNS).items()}, 0.02)
    lines = dict(as_sentences(found, 0.02))
    chosen = f"run={found.candidates[0].path}"
    assert shlex.split(lines["export"]) == ["talr", "export", chosen, "out=DIRECTORY"]


def test_a_study_without_a_base_model_has_no_loss():
    with pytest.raises(UserError, match="base model was not scored"):
        recommend(named(RUNS[1:]), 0.02)


def test_runs_that_were_measured_otherwise_are_no_candidates():
    other = run("flow", 0.9, 0.7)
    other["domain"]["limit"] = 10
    found = recommend(named([*RUNS, other]), 0.02)
    assert found.candidates[0].path.name == "talr"
    assert found.runs == 4
    reason = "domain was scored by limit=None and limit=10"
    assert found.left_out == {Path("s/flow"): reason}
    with pytest.raises(UserError, match=f"no run can be compared with the base model: .*{reason}"):
        recommend(named([BASE, other]), 0.02)
    of_eval = run("flow", 0.9, 0.7)
    of_eval["training"] = None
    with pytest.raises(UserError, match="none is of `talr train`"):
        recommend(named([BASE, of_eval]), 0.02)
    unscored, unpaired = run("dft", 0.9, 0.7), run("eaft", 0.9, 0.7)
    unscored["general"], unpaired["domain"]["items"] = None, None
    assert recommend(named([*RUNS, unscored, unpaired]), 0.02).left_out == {
        Path("s/dft"): "general was not scored",
        Path("s/eaft"): "the scores of the items of domain are not in results.json",
    }


def test_how_sure_it_is_agrees_with_a_bootstrap_drawn_item_by_item():
    draw = numpy.random.default_rng(1)
    n = 120
    base = draw.random(n) < 0.6

    def noisy(method, gain, flips):
        domain = draw.random(n) < 0.3 + gain
        general = numpy.where(draw.random(n) < flips, draw.random(n) < 0.5, base)
        return scored(method, domain, {"a": general[:80], "b": general[80:]}, id=method)

    start = scored("base", draw.random(n) < 0.3, {"a": base[:80], "b": base[80:]}, id="base")
    runs = [start, *(noisy(f"m{place}", 0.02 * place, 0.1 * place) for place in range(1, 5))]
    bound = 0.05
    found = recommend(named(runs), bound)

    def items(one, part):
        section = one["domain"] if part == "domain" else one["general"]["tasks"][part]
        return numpy.array(list(section["items"].values()))

    times, kept, picked = 3000, 0, dict.fromkeys([one["run"]["id"] for one in runs[1:]], 0)
    chosen, higher = found.candidates[0].path.name, []
    for _ in range(times):
        places = {part: draw.integers(0, size, size) for part, size in
                  (("domain", n), ("a", 80), ("b", 40))}  # fmt: skip
        means = {
            one["run"]["id"]: {part: items(one, part)[places[part]].mean() for part in places}
            for one in runs
        }
        general = {name: (of["a"] + of["b"]) / 2 for name, of in means.items()}
        within = [name for name in picked if general["base"] - general[name] <= bound + 1e-9]
        kept += chosen in within
        if within:
            best = max(means[name]["domain"] for name in within)
            first = [name for name in within if means[name]["domain"] == best]
            taken = max(first, key=lambda name: score(runs, name))
            picked[taken] += 1
            higher.append(best - score(runs, taken, "domain"))
    assert found.holds == pytest.approx(kept / times, abs=0.03)
    for one in found.candidates:
        assert one.picked == pytest.approx(picked[one.path.name] / times, abs=0.03)
    assert found.optimism == pytest.approx(numpy.mean(higher), abs=0.004)


def score(runs, name, part="general"):
    return next(one[part]["score"] for one in runs if one["run"]["id"] == name)


def test_the_command_says_what_to_ship_and_what_is_missing(tmp_path):
    elsewhere = [
        run("base", 0.2, 0.7, dataset="other"),
        run("sft", 0.6, 0.40, dataset="other"),
    ]
    write_study(tmp_path / "runs", [*RUNS, *elsewhere])
    done = talr("recommend", "study=s", cwd=tmp_path, logger=None)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "small on other:\n  ship     nothing: no run loses at most 0.02" in done.stdout
    assert "again    it is not known how another training of this setting would do" in done.stdout
    assert "ship     talr-lr1e-6-s0-talr" in done.stdout
    assert "talr export run=runs/s/small__medcalc/talr-lr1e-6-s0-talr out=" in done.stdout
    done = talr("recommend", "study=s", "max_general_loss=0.5", cwd=tmp_path, logger=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("costs    nothing") == 2


def test_an_invalid_bound_is_refused(tmp_path):
    done = talr("recommend", "max_general_loss=-1", cwd=tmp_path, logger=None)
    assert done.returncode == 2
    assert "max_general_loss=-1.0 is outside" in done.stderr


def test_runs_of_two_settings_are_no_seeds_of_each_other():
    """Ten epochs forget, one does not: their mean is a setting that nobody has trained."""
    runs = [BASE]
    for setting, scores in (("one", (0.6, 0.7)), ("ten", (0.5, 0.3))):
        for seed in (0, 1):
            made = run("sft", *scores, seed=seed)
            made["run"]["id"] = f"{setting}{seed}"
            runs.append({**made, "setting": setting})
    found = recommend(named(runs), 0.02)
    assert found.candidates[0].results["setting"] == "one"
    assert (found.again.seeds, found.again.deviation) == (2, (0.0, 0.0))
    assert found.again.holds > 0.5


@pytest.mark.parametrize(
    ("domain", "but"),
    [
        (0.1, "it lost on the domain: the base model does better"),
        (0.19, "it gained nothing on the domain: the base model is as good"),
        (0.2, "it gained nothing on the domain: the base model is as good"),
        (0.21, "its gain on the domain may be noise"),
        (0.4, None),
    ],
)
def test_what_a_run_that_keeps_all_has_gained_is_said(domain, but):
    """The only run within the bound may be worse than the base."""
    found = recommend(named([BASE, run("sft", domain, 0.7), run("talr", 0.9, 0.1)]), 0.02)
    assert dict(as_sentences(found, 0.02)).get("but") == but


def test_the_page_tells_a_command_that_finds_the_study(tmp_path):
    write_study(tmp_path / "my runs", RUNS, steps=2)
    runs = load_runs(tmp_path / "my runs", "s")
    page = write_report(runs, "s", tmp_path / "my runs" / "s" / "report").page
    (line,) = re.findall(r"on the loss: (talr recommend .*?)<", unescape(page.read_text("utf-8")))
    assert shlex.split(line) == [
        *("talr", "recommend", "study=s", f"runs_dir={tmp_path}/my runs", "max_general_loss=..."),
    ]
