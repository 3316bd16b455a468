"""The study's four claims (arXiv 2509.20758), and a verdict on each from the runs of a study.

A claim holds when all of its tests (tests.py) say yes, and does not hold when one says no.
Between them it is `undecided`: the runs are there and the noise is too large, so that more test
items would decide. `not testable here` means that the study has not the runs, or that nothing was
learned of which the claim speaks. The wording of the tests is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from talr_cli.methods.base import HARD_TOKEN_PROBABILITY
from talr_cli.report.claims.tests import (
    LITTLE,
    MARGIN,
    TESTS,
    Answer,
    NotTestable,
    Pair,
    Test,
    all_of,
    gather_pairs,
)
from talr_cli.statistics.contrasts import MetricsError
from talr_cli.statistics.paired import UnpairedError
from talr_cli.statistics.pairs import Results

Verdict = Literal["holds", "does not hold", "undecided", "not testable here"]
_VERDICTS: dict[Answer, Verdict] = {"yes": "holds", "no": "does not hold", "open": "undecided"}


@dataclass(frozen=True)
class Claim:
    """What the study says, and what is asked of the runs."""

    text: str
    test: str


CLAIMS = {
    1: Claim(
        "With a small learning rate, SFT keeps most general ability and gives up little of the "
        "domain gain.",
        "Of sft's rates the smallest is set against the others. Its general score is above that at "
        "the largest rate; it is above the middle between that and the base model's, so that less "
        "than half is lost; and its domain score is above the base model's by over "
        f"{1 - LITTLE:.0%} of the gain at the best rate. Not testable where no rate gains on the "
        "domain.",
    ),
    2: Claim(
        "With label-only targets a wider range of learning rates is on the Pareto front, and the "
        "middle rate is fine.",
        "A rate of sft is off the front when another is better on one score and not worse on the "
        "other, both beyond noise. With labels (dataset NAME-label) more rates are on the front "
        "than with explanations (NAME), and the second smallest is one of them.",
    ),
    3: Claim(
        "No method removes the trade-off. TALR balances best, and its lead grows with the learning "
        "rate.",
        "Every run falls short of the best domain score or of the base model's general score; a "
        f"run removes the trade-off when it is surely within {MARGIN:g} of both. At the second "
        "smallest rate, up to which the study compares methods, the mean of TALR's two scores is "
        "above that of the best other method. TALR's lead over sft in the general score is larger "
        "there than at the smallest rate.",
    ),
    4: Claim(
        "Most target tokens are already easy, and under TALR the share of easy tokens rises from "
        "the first epoch to the second.",
        f"Easy is p ≥ {HARD_TOKEN_PROBABILITY} when the token is trained on. In the first epoch of "
        "sft at its smallest rate over half of the tokens are easy; between the first two epochs "
        "of every TALR rate the share rises. Intervals are over optimizer steps.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """What the runs of one model and dataset say of one claim; `reason` where it is not tested."""

    claim: int
    model: str
    dataset: str
    verdict: Verdict
    tests: tuple[Test, ...] = ()
    reason: str = ""


def findings(runs: Mapping[Path, Results]) -> list[Finding]:
    """Claim by claim, for each model and dataset; empty where no learning rates are compared.

    Args:
        runs: the results by run directory; claim 4 reads the metrics there.
    """
    pairs = gather_pairs(runs)
    if not any(len(pair.by_method.get("sft", {})) > 1 for pair in pairs):
        return []
    return [_finding(number, pair) for number in CLAIMS for pair in pairs]


def _finding(number: int, pair: Pair) -> Finding:
    model, dataset = pair.group.model, pair.group.dataset
    try:
        tests = tuple(TESTS[number](pair))
    except (NotTestable, UnpairedError, MetricsError) as reason:
        return Finding(number, model, dataset, "not testable here", reason=str(reason))
    verdict = _VERDICTS[all_of([test.answer for test in tests])]
    return Finding(number, model, dataset, verdict, tests)
