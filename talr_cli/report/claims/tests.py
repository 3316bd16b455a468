"""The tests of each claim of the paper; the claims themselves and verdicts are in verdicts.py.

A test has two p-values over seeds and items, for its statement and for the opposite. If a statement
is about the best of several settings, all of them are compared, and p is corrected accordingly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from talr_cli.printable import rate_text
from talr_cli.report.claims.pair import NotTestable, Pair, at
from talr_cli.statistics.contrasts import (
    ONE_SIDED,
    Contrast,
    bonferroni,
    holm,
    intersection_union,
    partial_conjunction,
)
from talr_cli.statistics.easy_share import easy_share, easy_share_rise, read_steps
from talr_cli.statistics.pairs import PARTS

Answer = Literal["yes", "no", "open", "one seed"]

LITTLE = 0.25  # giving up less than this share of the domain gain counts as little
MARGIN = 0.02  # a smaller loss of a score counts as none
NAMED = 4  # this many settings are named, further ones are counted


@dataclass(frozen=True)
class Test:
    """One statement of a claim.

    Attributes:
        measured: The measured quantity, in words.
        wrong_if_yes: p of the hypothesis that the statement is false.
        wrong_if_no: p of the hypothesis that it is true.
        needs_seeds: Whether the variance between runs of one setting is unknown.
    """

    statement: str
    measured: str
    wrong_if_yes: float
    wrong_if_no: float
    needs_seeds: bool


def answers(tests: Sequence[Test]) -> list[Answer]:
    """The answers of a claim's tests: each `yes` at the full level, `no` corrected by Holm."""
    against = holm([test.wrong_if_no for test in tests])
    found: list[Answer] = []
    for test, wrong in zip(tests, against, strict=True):
        if test.needs_seeds:
            found.append("one seed")
        elif test.wrong_if_yes < ONE_SIDED:
            found.append("yes")
        else:
            found.append("no" if wrong < ONE_SIDED else "open")
    return found


# Claim 1


def _small_rates_suffice(pair: Pair) -> Iterator[Test]:
    pair.check_base()
    rates = pair.rates("sft")
    names = {lr: at("sft", lr) for lr in rates}
    small, large = names[rates[0]], names[rates[-1]]
    if not pair.gains(list(names.values())):
        raise NotTestable("sft gains nothing on the domain beyond noise, at none of its rates")
    lowest, highest = rate_text(rates[0]), rate_text(rates[-1])
    yield _test(
        f"general score: lr {lowest} is above {highest}",
        pair.lead("general", small, large),
    )
    yield _test(
        f"general score: lr {lowest} loses less than half of what {highest} loses",
        pair.scores.contrast("general", {small: 1, "base": -0.5, large: -0.5}),
    )
    kept = {
        lr: pair.scores.contrast("domain", {small: 1, name: LITTLE - 1, "base": -LITTLE})
        for lr, name in names.items()
        if name != small
    }
    gain = pair.lead("domain", small, "base")  # needed if it is the best rate itself
    yield _of_several(
        f"domain score: lr {lowest} has over {1 - LITTLE:.0%} of the gain of every other rate",
        {"the base": gain, **{rate_text(lr): one for lr, one in kept.items()}},
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
    with_labels, with_words = _Front.of(pair, rates), _Front.of(explained, rates)
    # More rates are on the front with labels than with explanations exactly if more of the
    # statements "on with labels" and "off with explanations" are true than there are rates.
    needed = len(rates) + 1
    yield Test(
        "more learning rates are on the front with labels than with explanations",
        f"labels: {with_labels.text()}; explanations: {with_words.text()}",
        partial_conjunction(needed, [*with_labels.not_on.values(), *with_words.not_off.values()]),
        partial_conjunction(needed, [*with_words.not_on.values(), *with_labels.not_off.values()]),
        with_labels.needs_seeds or with_words.needs_seeds,
    )
    yield Test(
        f"lr {rate_text(rates[1])} is on the front with labels",
        with_labels.text(),
        with_labels.not_on[rates[1]],
        with_labels.not_off[rates[1]],
        with_labels.needs_seeds,
    )


@dataclass(frozen=True)
class _Front:
    """For each rate, p of the hypotheses that it is not on the Pareto front, and not off it.

    A rate is off the front if another rate is better on both scores, and on it if every other rate
    is worse on one of them.
    """

    not_on: dict[float, float]
    not_off: dict[float, float]
    needs_seeds: bool

    @classmethod
    def of(cls, pair: Pair, rates: Sequence[float]) -> _Front:
        not_on, not_off = {}, {}
        needs_seeds = False
        for lr in rates:
            ahead, behind = [], []
            for other in rates:
                if other == lr:
                    continue
                leads = [pair.lead(part, at("sft", lr), at("sft", other)) for part in PARTS]
                needs_seeds |= any(one.run_variance is None for one in leads)
                ahead.append(bonferroni([one.p_greater() for one in leads]))
                behind.append(intersection_union([one.p_less() for one in leads]))
            not_on[lr], not_off[lr] = intersection_union(ahead), bonferroni(behind)
        return cls(not_on, not_off, needs_seeds)

    def text(self) -> str:
        """Which rates are on the front, off it, or undecided."""
        on = [lr for lr, p in self.not_on.items() if p < ONE_SIDED]
        off = [lr for lr, p in self.not_off.items() if p < ONE_SIDED]
        undecided = [lr for lr in self.not_on if lr not in on and lr not in off]
        return ", ".join(
            f"{word} {' and '.join(map(rate_text, rates))}"
            for word, rates in (("on", on), ("off", off), ("undecided", undecided))
            if rates
        )


# Claim 3


def _talr_balances_best(pair: Pair) -> Iterator[Test]:
    pair.check_base()
    rates = [lr for lr in pair.rates("talr") if lr in pair.rates("sft")]
    if len(rates) < 2:
        raise NotTestable("talr and sft have fewer than two learning rates in common")
    small, larger = rates[:2]
    names = [name for name in pair.scores.index if name != "base"]
    if not pair.gains(names):
        raise NotTestable("no run gains on the domain beyond noise: there is no trade-off")
    yield _no_setting_has_both(pair, names)
    rivals = [
        method
        for method in pair.by_method
        if method != "talr" and at(method, larger) in pair.scores.index
    ]
    yield _of_several(
        f"mean of both scores: talr at lr {rate_text(larger)} is above every other method",
        {rival: pair.lead("both", at("talr", larger), at(rival, larger)) for rival in rivals},
    )
    leads = {lr: pair.lead("general", at("talr", lr), at("sft", lr)) for lr in rates}
    shown = ", ".join(f"{one.estimate:+z.3f} at {rate_text(lr)}" for lr, one in leads.items())
    growth = {at("talr", larger): 1.0, at("sft", larger): -1.0}
    growth |= {at("talr", small): -1.0, at("sft", small): 1.0}
    yield _test(
        f"general score: talr's lead over sft is larger at lr {rate_text(larger)} than at "
        f"{rate_text(small)}",
        pair.scores.contrast("general", growth),
        f"; the lead is {shown}",
    )


def _no_setting_has_both(pair: Pair, names: Sequence[str]) -> Test:
    """The test that no setting has both the best domain score and the base's general score.

    A setting falls short on either score at half of the level. Its domain score is compared with
    that of every other setting, so that the choice of the best one on these items is corrected for.
    """
    has_both, short = {}, {}
    needs_seeds = False
    for name in names:
        general = pair.lead("general", "base", name)
        domain = [pair.lead("domain", other, name) for other in names if other != name]
        needs_seeds |= general.run_variance is None
        below = [general.p_greater()]
        below += [bonferroni([one.p_greater() for one in domain])] if domain else []
        short[name] = bonferroni(below)
        has_both[name] = intersection_union([one.p_less(MARGIN) for one in (general, *domain)])
    falling = [name for name in names if short[name] < ONE_SIDED]
    measured = f"{len(falling)} of {len(names)} settings fall short"
    both = [name for name in names if has_both[name] * len(names) < ONE_SIDED]
    undecided = [name for name in names if name not in falling and name not in both]
    for word, some in (("have both", both), ("undecided", undecided)):
        if some:
            more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
            measured += f"; {word}: {', '.join(some[:NAMED])}{more}"
    return Test(
        "no setting has the best domain score and the base's general score",
        measured,
        intersection_union(list(short.values())),
        bonferroni(list(has_both.values())),
        needs_seeds,
    )


# Claim 4


def _tokens_are_easy_and_become_easier(pair: Pair) -> Iterator[Test]:
    sft = pair.rates("sft", 1)[0]
    rates = pair.rates("talr", 1)
    trained = read_steps({one: each for one, each in pair.paths.items() if one[0] in _OF_CLAIM_4})
    easy = easy_share(trained, ("sft", sft), epoch=1)
    yield Test(
        f"over half of the tokens are easy in the first epoch of sft at lr {rate_text(sft)}",
        easy.text(sign=""),
        easy.p_greater(0.5),
        easy.p_less(0.5),
        easy.run_variance is None,
    )
    for lr in rates:
        rise = easy_share_rise(trained, ("talr", lr))
        yield _test(f"the share of easy tokens rises under talr at lr {rate_text(lr)}", rise)


_OF_CLAIM_4 = ("sft", "talr")
TESTS: dict[int, Callable[[Pair], Iterator[Test]]] = {
    1: _small_rates_suffice,
    2: _labels_widen_the_front,
    3: _talr_balances_best,
    4: _tokens_are_easy_and_become_easier,
}


def _test(statement: str, contrast: Contrast, note: str = "") -> Test:
    """The test that a contrast is above 0."""
    return _of_several(statement, {"": contrast}, note)


def _of_several(statement: str, contrasts: Mapping[str, Contrast], note: str = "") -> Test:
    """The test that all of several contrasts are above 0; shows the least clear one of them."""
    p_yes = intersection_union([one.p_greater() for one in contrasts.values()])
    p_no = bonferroni([one.p_less() for one in contrasts.values()])
    name = min(
        contrasts, key=lambda each: contrasts[each].estimate / (contrasts[each].standard_error or 1)
    )
    nearest = contrasts[name]
    against = f" against {name}" if len(contrasts) > 1 else ""
    is_open = min(p_yes, p_no) >= ONE_SIDED and nearest.run_variance is not None
    detectable = f"; detectable: ±{nearest.detectable():.3f}" if is_open else ""
    return Test(
        statement,
        f"{nearest.text()}{against}{detectable}{note}",
        p_yes,
        p_no,
        any(one.run_variance is None for one in contrasts.values()),
    )
