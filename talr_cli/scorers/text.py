"""Scorers for the user's own data, whose reference is {"answer": ...}, perhaps with "choices"."""

import math
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from talr_cli.scorers.base import Scorer, Verdict
from talr_cli.scorers.choice import Choice
from talr_cli.scorers.values import final_number


class ExactMatch:
    """The whole output must equal the answer, except for case, white space and a final full stop.

    Both are compared in Unicode's NFC form, as an accent may be a separate character.
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        found = _normalise(output)
        return Verdict(found == _normalise(str(reference["answer"])), found or None)


class Numeric:
    """The number of the output must equal that of the answer, to one part in a million.

    Whole numbers must be equal exactly, as for a long one that tolerance would be several units.
    The number of an output is the one stated last (`Answer: 4`, `the answer is 4`, JSON, a box),
    else its last number.
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


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold().rstrip(".")
