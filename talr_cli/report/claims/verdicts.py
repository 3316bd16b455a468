"""The study's four claims (arXiv 2509.20758), and a verdict on each from the runs of a study.

A claim holds when all of its tests (tests.py) say yes, each at the full level (intersection-union).
It does not hold when one says no, at one level for all of them (Holm). Else it is `undecided`: the
runs are there, but the noise of items or of runs is too large. With one seed of everything nothing
is known of the noise of runs, and there is no verdict. `not testable here` means that the study
lacks the runs, or that nothing was learned that could be given up. The tests are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from talr_cli.methods.base import HARD_TOKEN_PROBABILITY
from talr_cli.report.claims.pair import NotTestable, Pair, gather_pairs
from talr_cli.report.claims.tests import LITTLE, MARGIN, TESTS, Answer, Test, answers
from talr_cli.statistics.easy_share import MetricsError
from talr_cli.statistics.pairs import Results

Verdict = Literal["holds", "does not hold", "undecided", "undecided: one seed", "not testable here"]


@dataclass(frozen=True)
class Claim:
    """What the study says, and how it is tested here."""

    text: str
    test: str


CLAIMS = {
    1: Claim(
        "With a small learning rate, SFT keeps most general ability and gives up little of the "
        "domain gain.",
        "Of sft's rates the smallest is set against the others. Its general score is above that at "
        "the largest rate; it is above the middle between that and the base model's, so that less "
        "than half is lost; and its domain score is above the base model's by over "
        f"{1 - LITTLE:.0%} of the gain at every other rate. Not testable where no rate gains on "
        "the domain.",
    ),
    2: Claim(
        "With label-only targets a wider range of learning rates is on the Pareto front, and the "
        "middle rate is fine.",
        "A rate of sft is off the front when another is better on both scores, on it when every "
        "other is worse on one. With labels (dataset NAME-label) more rates are on the front than "
        "with explanations (NAME): of all statements that a rate is on with labels or off with "
        "explanations more are true than there are rates (a partial conjunction, so that the "
        "counts carry their error); the opposite is that fewer are. The second smallest rate is on "
        "the front with labels.",
    ),
    3: Claim(
        "No method removes the trade-off. TALR balances best, and its lead grows with the learning "
        "rate.",
        "Every setting falls short of the best domain score or of the base model's general score; "
        f"one removes the trade-off when it is surely within {MARGIN:g} of both. At the second "
        "smallest rate, up to which the study compares methods, the mean of TALR's two scores is "
        "above that of every other method. TALR's lead over sft in the general score is larger "
        "there than at the smallest rate.",
    ),
    4: Claim(
        "Most target tokens are already easy, and under TALR the share of easy tokens rises from "
        "the first epoch to the second.",
        f"Easy is p ≥ {HARD_TOKEN_PROBABILITY} when the token is trained on. In the first epoch of "
        "sft at its smallest rate over half of the tokens are easy; between the first two epochs "
        "of every TALR rate the share rises. Items are optimizer steps here.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """What the runs of one model and dataset say of one claim.

    Attributes:
        answers: One for each of the tests.
        reason: Why it is not testable; else empty.
        between_runs: What is known of the deviation between runs of one setting.
    """

    claim: int
    model: str
    dataset: str
    verdict: Verdict
    tests: tuple[Test, ...] = ()
    answers: tuple[Answer, ...] = ()
    reason: str = ""
    between_runs: str = ""


def findings(runs: Mapping[Path, Results]) -> list[Finding]:
    """Claim by claim, for each model and dataset; empty where sft has not two learning rates.

    Args:
        runs: the results by run directory; claim 4 reads the metrics there.
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
    said = tuple(answers(tests))
    return Finding(number, model, dataset, _verdict(said), tests, said, between_runs=known)


def _verdict(said: Sequence[Answer]) -> Verdict:
    if "no" in said:
        return "does not hold"
    if "open" in said:
        return "undecided"
    return "undecided: one seed" if "one seed" in said else "holds"
