"""The paper's four claims (arXiv 2509.20758), and a verdict on each from the runs of a study.

A claim holds if all of its tests (tests.py) say yes, each at the full level (intersection-union).
It does not hold if one of them says no, at one level for all tests of the claim (Holm). Otherwise
it is `undecided`: the noise of items or runs is too large. With one seed per setting the noise of
runs is unknown, and there is no verdict. `not testable here` means that the study lacks the runs,
or that nothing was learned. The tests are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from talr_cli.methods.base import HARD_TOKEN_PROBABILITY
from talr_cli.report.claims.pair import NotTestable, Pair, gather_pairs
from talr_cli.report.claims.tests import LITTLE, MARGIN, TESTS, Answer, Test, answers
from talr_cli.statistics.easy_share import MetricsError
from talr_cli.statistics.pairs import RunsByPath

Verdict = Literal["holds", "does not hold", "undecided", "undecided: one seed", "not testable here"]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and how it is tested here."""

    text: str
    test: str


CLAIMS = {
    1: Claim(
        "With a small learning rate, SFT keeps most general ability and gives up little of the "
        "domain gain.",
        "The smallest rate of sft is compared with the others. Its general score is above that at "
        "the largest rate, and above the midpoint between that and the base model's, so that it "
        "loses less than half as much. Its gain on the domain is over "
        f"{1 - LITTLE:.0%} of the gain at every other rate. Not testable if no rate gains on the "
        "domain.",
    ),
    2: Claim(
        "With label-only targets a wider range of learning rates is on the Pareto front, and the "
        "middle rate is fine.",
        "A rate of sft is off the front if another rate is better on both scores, and on it if "
        "every other rate is worse on one of them. More rates are on the front with labels "
        "(dataset NAME-label) than with explanations (NAME): among the statements that a rate is "
        "on the front with labels, or off it with explanations, more are true than there are "
        "rates (a partial conjunction, which controls the error of the count); the opposite is "
        "that fewer are. The second smallest rate is on the front with labels.",
    ),
    3: Claim(
        "No method removes the trade-off. TALR balances best, and its lead grows with the learning "
        "rate.",
        "Every setting falls short of the best domain score or of the base model's general score; "
        f"a setting removes the trade-off if it is significantly within {MARGIN:g} of both. At the "
        "second smallest rate, the largest at which the paper compares methods, the mean of TALR's "
        "two scores is above that of every other method. TALR's lead over sft in the general score "
        "is larger there than at the smallest rate.",
    ),
    4: Claim(
        "Most target tokens are already easy, and under TALR the share of easy tokens rises from "
        "the first epoch to the second.",
        f"A token is easy if p ≥ {HARD_TOKEN_PROBABILITY} when it is trained on. In the first "
        "epoch of sft at its smallest rate, over half of the tokens are easy; from the first "
        "epoch to the second, the share rises at every rate of TALR. The items are optimizer "
        "steps here.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """The verdict on one claim from the runs of one model and dataset.

    Attributes:
        answers: One for each test.
        reason: Why the claim is not testable; else empty.
        between_runs: The standard deviation between runs of one setting, in words.
    """

    claim: int
    model: str
    dataset: str
    verdict: Verdict
    tests: tuple[Test, ...] = ()
    answers: tuple[Answer, ...] = ()
    reason: str = ""
    between_runs: str = ""


def findings(runs: RunsByPath) -> list[Finding]:
    """A finding for each claim, model and dataset; empty if sft has fewer than two rates.

    Claim 4 also reads the metrics in the run directories.
    """
    pairs = gather_pairs(runs)
    if not any(len(pair.by_method.get("sft", {})) > 1 for pair in pairs):
        return []
    return [_finding(number, pair) for number in CLAIMS for pair in pairs]


def _finding(number: int, pair: Pair) -> Finding:
    model, dataset = pair.group.model, pair.group.dataset
    known = pair.between_runs()
    try:
        tests = tuple(TESTS[number](pair))
    except (NotTestable, MetricsError) as reason:
        return Finding(
            number, model, dataset, "not testable here", reason=str(reason), between_runs=known
        )
    given = tuple(answers(tests))
    return Finding(number, model, dataset, _verdict(given), tests, given, between_runs=known)


def _verdict(given: Sequence[Answer]) -> Verdict:
    if "no" in given:
        return "does not hold"
    if "open" in given:
        return "undecided"
    return "undecided: one seed" if "one seed" in given else "holds"
