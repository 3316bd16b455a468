"""Scorers for a user's own data: the reference is {"answer": ...}, for choices also "choices"."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from talr_cli.scorers.base import Scorer, Verdict
from talr_cli.scorers.choice import Choice
from talr_cli.scorers.values import final_number


class ExactMatch:
    """The whole output equals the answer, but for case, white space and a final full stop.

    An accent may be a letter's own or a sign of its own behind it (Unicode's NFC).
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        found = _plain(output)
        return Verdict(found == _plain(str(reference["answer"])), found or None)


class Numeric:
    """The number of the output equals that of the answer, to one part in a million.

    Whole numbers are equal or they are not: of a long one that part would be some units.
    The number that it states last (`Answer: 4`, `the answer is 4`, JSON, a box), or else its last.
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        found = final_number(output)
        truth = final_number(str(reference["answer"]))
        if found is None or truth is None:
            return Verdict(False, None if found is None else f"{found:.15g}")
        is_near = math.isclose(found, truth, rel_tol=1e-6)
        are_whole = found.is_integer() and truth.is_integer()
        return Verdict(found == truth if are_whole else is_near, f"{found:.15g}")


SCORERS: dict[str, Callable[[], Scorer]] = {
    "exact_match": ExactMatch,
    "numeric": Numeric,
    "choice": Choice,
}


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold().rstrip(".")
