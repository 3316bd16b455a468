"""What is asked of the runs for each claim of the study; verdicts.py has claims and verdicts.

A test says `yes` or `no` where its 95% interval lies on one side, else `open`. Seeds are averaged
item by item, so that intervals speak of these models on other items, not of other seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from talr_cli.statistics.contrasts import (
    Interval,
    balance,
    change,
    combined,
    easy_share,
    easy_share_rise,
    mean_of,
)
from talr_cli.statistics.groups import Group, comparable
from talr_cli.statistics.pairs import Results, has_both_scores, is_base, point
from talr_cli.statistics.seeds import whole_trainings

Answer = Literal["yes", "no", "open"]

LITTLE = 0.25  # of the domain gain is little to give up
MARGIN = 0.02  # of a score is as good as nothing lost
NAMED = 4  # runs at most
ENOUGH = 3 / MARGIN  # items: of n items without a difference, one in n / 3 may yet differ


@dataclass(frozen=True)
class Test:
    """One statement of a claim: what was measured, and what that says of it."""

    statement: str
    measured: str
    answer: Answer


class NotTestable(Exception):  # noqa: N818
    """Why these runs say nothing of a claim."""


@dataclass(frozen=True)
class Pair:
    """The runs of a group: {method label: {lr: run}}, seeds averaged."""

    group: Group
    base: Results | None
    by_method: dict[str, dict[float, Results]]
    paths: dict[tuple[str, float], list[Path]]
    others: Mapping[str, list[Pair]]  # of the same model and base model, by dataset

    @property
    def dataset(self) -> str:
        """Its name, which several groups may share."""
        return self.group.runs[0]["run"]["dataset"]

    def rates(self, method: str, least: int = 2) -> list[float]:
        """The learning rates of a method, ascending.

        Raises:
            NotTestable: There are fewer than `least`.
        """
        rates = sorted(self.by_method.get(method, {}))
        if len(rates) < least:
            raise NotTestable(f"needs {least} learning rates of {method}, there are {len(rates)}")
        return rates

    def scored_base(self) -> Results:
        if self.base is None:
            raise NotTestable("the base model was not scored")
        return self.base


def gather_pairs(runs: Mapping[Path, Results]) -> list[Pair]:
    """Of each group of comparable runs those that have both scores.

    Where runs of one method and rate differ in another setting, none of them counts.
    """
    of_model: dict[tuple[str, str], dict[str, list[Pair]]] = {}
    pairs = []
    for group in comparable(runs.values()):
        place = {id(results): path for path, results in group.by_path(runs).items()}
        scored = [one for one in group.runs if has_both_scores(one)]
        base = next((one for one in scored if is_base(one)), None)
        settings = whole_trainings(scored)
        times = Counter((one.label, one.lr) for one in settings)
        by_method: dict[str, dict[float, Results]] = {}
        paths = {}
        for one in settings:
            if one.lr is not None and times[one.label, one.lr] == 1:
                by_method.setdefault(one.label, {})[one.lr] = mean_of(one.runs)
                paths[one.label, one.lr] = [place[id(run)] for run in one.runs]
        others = of_model.setdefault((group.model, group.fingerprint), {})
        pair = Pair(group, base, by_method, paths, others)
        others.setdefault(pair.dataset, []).append(pair)
        pairs.append(pair)
    return pairs


def all_of(answers: Sequence[Answer]) -> Answer:
    """Whether all are yes: one `no` denies it, whatever is open."""
    if "no" in answers:
        return "no"
    return "open" if "open" in answers else "yes"


# Claim 1


def _small_rates_suffice(pair: Pair) -> Iterator[Test]:
    base, rates = pair.scored_base(), pair.rates("sft")
    sft = pair.by_method["sft"]
    small, large = sft[rates[0]], sft[rates[-1]]
    best = max(rates, key=lambda lr: sft[lr]["domain"]["score"])
    if _answer(change(base, sft[best], "domain")) != "yes":
        raise NotTestable("sft gains nothing on the domain beyond noise, at none of its rates")
    yield _test(
        f"general score: lr {rates[0]:g} is above {rates[-1]:g}",
        change(large, small, "general"),
    )
    yield _test(
        f"general score: lr {rates[0]:g} loses less than half of what {rates[-1]:g} loses",
        change(mean_of([base, large]), small, "general"),
    )
    goal = combined([sft[best], base], [1 - LITTLE, LITTLE])
    yield _test(
        f"domain score: lr {rates[0]:g} has over {1 - LITTLE:.0%} of the gain of {best:g}",
        change(goal, small, "domain"),
    )


# Claim 2


def _labels_widen_the_front(pair: Pair) -> Iterator[Test]:
    if not pair.dataset.endswith("-label"):
        labels = f"{pair.dataset}-label"
        known = labels in pair.others
        raise NotTestable(f"see {labels}" if known else f"needs label-only targets: {labels}")
    explained, *more = pair.others.get(pair.dataset.removesuffix("-label"), [None])
    if explained is None:
        raise NotTestable("needs the same dataset with explanations")
    if more:
        raise NotTestable(f"there are several datasets called {explained.dataset}")
    rates = pair.rates("sft", 3)
    if explained.rates("sft", 3) != rates:
        raise NotTestable("the two datasets were trained at different learning rates")
    with_labels, with_words = (_front(one.by_method["sft"]) for one in (pair, explained))
    answer: Answer = "yes" if len(with_labels) > len(with_words) else "no"
    if len(with_words) == len(rates):
        answer = "open"  # there is nothing to widen, or the noise hides it
    yield Test(
        "more learning rates are on the front with labels than with explanations",
        f"{_listed(with_labels)} against {_listed(with_words)}",
        answer,
    )
    yield Test(
        f"lr {rates[1]:g} is on the front with labels",
        _listed(with_labels),
        "yes" if rates[1] in with_labels else "no",
    )


def _front(runs: Mapping[float, Results]) -> list[float]:
    """The rates that no other beats beyond noise."""
    return [
        lr for lr in sorted(runs) if not any(_beats(runs[q], runs[lr]) for q in runs if q != lr)
    ]


def _beats(one: Results, other: Results) -> bool:
    answers = [_answer(change(other, one, part)) for part in ("domain", "general")]
    return "yes" in answers and "no" not in answers


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{lr:g}" for lr in rates)


# Claim 3


def _talr_balances_best(pair: Pair) -> Iterator[Test]:
    base = pair.scored_base()
    runs = {
        f"{method} {lr:g}": run
        for method, by_lr in pair.by_method.items()
        for lr, run in by_lr.items()
    }
    rates = [lr for lr in pair.rates("talr") if lr in pair.rates("sft")]
    if len(rates) < 2:
        raise NotTestable("talr and sft have not two learning rates in common")
    small, larger = rates[:2]
    rivals = {
        method: by_lr[larger]
        for method, by_lr in pair.by_method.items()
        if method != "talr" and larger in by_lr
    }
    best = max(runs.values(), key=lambda run: run["domain"]["score"])
    if _answer(change(base, best, "domain")) != "yes":
        raise NotTestable("no run gains on the domain beyond noise: there is no trade-off")
    yield _no_run_has_both(runs, base, best)
    talr, sft = pair.by_method["talr"], pair.by_method["sft"]
    rival = max(rivals, key=lambda method: sum(point(rivals[method])))
    yield _test(
        f"mean of both scores: talr at lr {larger:g} is above {rival}, the best other",
        balance(rivals[rival], talr[larger]),
    )
    leads = [f"{change(sft[lr], talr[lr], 'general').estimate:+.3f} at {lr:g}" for lr in rates]
    growth = change(
        combined([sft[larger], talr[small]], [1, 1]),
        combined([talr[larger], sft[small]], [1, 1]),
        "general",
    )
    yield _test(
        f"general score: talr's lead over sft is larger at lr {larger:g} than at {small:g}",
        growth,
        f"; the lead is {', '.join(leads)}",
    )


def _no_run_has_both(runs: Mapping[str, Results], base: Results, best: Results) -> Test:
    """Whether a run has the best domain score and the base model's general score at once."""
    answers: dict[Answer, list[str]] = {"yes": [], "no": [], "open": []}
    for name, run in runs.items():
        general = change(base, run, "general")
        domain = None if run is best else change(best, run, "domain")
        short = [one for one in (general, domain) if one]
        if any(_answer(one) == "no" for one in short):
            answers["yes"].append(name)
        elif all(one.low > -MARGIN and one.n >= ENOUGH for one in short):
            answers["no"].append(name)
        else:
            answers["open"].append(name)
    measured = f"{len(answers['yes'])} of {len(runs)} runs fall short"
    for said, names in (("have both", answers["no"]), ("cannot be told", answers["open"])):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            measured += f"; {said}: {', '.join(names[:NAMED])}{more}"
    overall = all_of([answer for answer, names in answers.items() if names])
    return Test("no run has the best domain score and the base's general score", measured, overall)


# Claim 4


def _tokens_are_easy_and_become_easier(pair: Pair) -> Iterator[Test]:
    sft = pair.rates("sft", 1)[0]
    easy = easy_share(pair.paths["sft", sft], epoch=1)
    yield Test(
        f"over half of the tokens are easy in the first epoch of sft at lr {sft:g}",
        easy.text(sign=""),
        _answer(easy, 0.5),
    )
    for lr in pair.rates("talr", 1):
        rise = easy_share_rise(pair.paths["talr", lr])
        yield _test(f"the share of easy tokens rises under talr at lr {lr:g}", rise)


TESTS: dict[int, Callable[[Pair], Iterator[Test]]] = {
    1: _small_rates_suffice,
    2: _labels_widen_the_front,
    3: _talr_balances_best,
    4: _tokens_are_easy_and_become_easier,
}


def _test(statement: str, interval: Interval, note: str = "") -> Test:
    return Test(statement, f"{interval.text()}{note}", _answer(interval))


def _answer(interval: Interval, than: float = 0.0) -> Answer:
    """Whether it is above `than`."""
    if interval.low <= than <= interval.high or not interval.is_clear:
        return "open"
    return "yes" if interval.low > than else "no"
