"""Scores ESCI's labels (Reddy et al. 2022, arXiv 2206.06588).

The task is the benchmark's second, naming the label. Its first task, ranking, is scored by nDCG and
is not implemented here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from talr_cli.scorers.base import Verdict
from talr_cli.scorers.numbers import normalise
from talr_cli.scorers.statements import json_field, statements

LABELS = ("Exact", "Substitute", "Complement", "Irrelevant")
NO_LABEL = "none"
RESAMPLES = 2000

_BY_WRITTEN_FORM = {form.lower(): label for label in LABELS for form in (label, label[0])}
_NAMED = re.compile(rf"(?<![^\W_])(?:{'|'.join(LABELS)})(?![^\W_])", re.IGNORECASE)

_DENIED = re.compile(
    rf"\b(?:not|neither|nor|n't|isn't|rather than|instead of) (?:an? |the |quite |really )?"
    rf"{_NAMED.pattern}",
    re.IGNORECASE,
)
# The text between two labels that are offered as alternatives, and between those of a list.
_OR = re.compile(r"\W{0,2} ?(?:or|and|[/,&|]) ?(?:an? |the )?\W{0,2}", re.IGNORECASE)
_LISTED = re.compile(r"\W{1,9}")
_JSON = re.compile(r"\{[^{}]*\}")
_FIELDS = ("label", "class", "relevance", "category", "prediction", "output", "result")


def read_label(written: str) -> str | None:
    """The label that a record gives as E, exact or Exact; None if it is not one of the four."""
    return _BY_WRITTEN_FORM.get(written.strip().lower())


class EsciScorer:
    """Compares the label that an output names with {"answer": one of LABELS}.

    The label is the first one in the last statement that names any (a line `Answer:`, JSON, a box),
    except for denied ones (`not Exact but Complement`); what follows is taken as its reason. If
    several are offered (`Exact or Substitute`), none counts. In an output without a statement, it
    is the label in a field of its JSON object, else the one named last. A label is a whole word in
    any case. A single letter is not a label, since an I in prose is seldom one.
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        found = _find_label(output)
        return Verdict(found == reference["answer"], found)

    def summary(
        self, verdicts: Sequence[Verdict], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Macro-F1, balanced accuracy and the confusion matrix {true label: {named: rows}}.

        Both scores are means over the labels that occur as the truth. Their standard errors are
        from 2,000 seeded bootstrap samples of the rows. These are treated as independent, so that
        the errors are too small if many rows share a query.
        """
        import numpy as np

        columns = (*LABELS, NO_LABEL)
        counts = np.zeros((len(LABELS), len(columns)), dtype=int)
        for verdict, reference in zip(verdicts, references, strict=True):
            named = verdict.parsed or NO_LABEL
            counts[LABELS.index(reference["answer"]), columns.index(named)] += 1
        return {
            "macro_f1": _estimate(counts, macro_f1),
            "balanced_accuracy": _estimate(counts, balanced_accuracy),
            "confusion": {
                label: dict(zip(columns, row, strict=True))
                for label, row in zip(LABELS, counts.tolist(), strict=True)
            },
        }


def _find_label(output: str) -> str | None:
    for said in statements(output, is_label=True):
        said = _DENIED.sub("", said)
        labels = list(_NAMED.finditer(said))
        if labels:
            return None if _are_listed(_OR, said, labels[:2]) else labels[0][0].capitalize()
    text = normalise(output)
    for block in reversed(_JSON.findall(text)):
        field = json_field(block, _FIELDS)
        if field and (label := _NAMED.fullmatch(field.strip(" ."))):
            return label[0].capitalize()
    text = _DENIED.sub("", text)
    labels = list(_NAMED.finditer(text))
    if not labels or _are_listed(_OR, text, labels[-2:]) or _are_listed(_LISTED, text, labels[-3:]):
        return None
    return labels[-1][0].capitalize()


def _are_listed(by: re.Pattern[str], text: str, labels: Sequence[re.Match[str]]) -> bool:
    """Whether there are several labels, and the text between neighbours matches `by`."""
    pairs = list(itertools.pairwise(labels))
    enough = 2 if by is _LISTED else 1
    return len(pairs) >= enough and all(by.fullmatch(text, a.end(), b.start()) for a, b in pairs)


# Confusion matrices are integer arrays [..., 4, 5]: true label, named label or none.


def macro_f1(counts: Any) -> Any:
    """F1, 2 hits / (rows of the label + rows named so), as the mean over true labels."""
    true, named = counts.sum(-1), counts[..., : len(LABELS)].sum(-2)
    return _mean_over_true(2 * _hits(counts), true + named, true)


def balanced_accuracy(counts: Any) -> Any:
    """Recall, hits / rows of the label, as the mean over true labels."""
    true = counts.sum(-1)
    return _mean_over_true(_hits(counts), true, true)


def _hits(counts: Any) -> Any:
    return counts.diagonal(axis1=-2, axis2=-1)


def _mean_over_true(above: Any, below: Any, true: Any) -> Any:
    # A label without rows has no hits: it adds 0 to the sum and is not counted.
    return (above / below.clip(1)).sum(-1) / (true > 0).sum(-1)


def _estimate(counts: Any, metric: Callable[[Any], Any]) -> dict[str, Any]:
    """A metric of the confusion matrix, with a bootstrap error: resamples cells instead of rows."""
    import numpy as np

    n = int(counts.sum())
    stderr = None
    if n > 1:
        drawn = np.random.default_rng(0).multinomial(n, counts.ravel() / n, size=RESAMPLES)
        stderr = float(metric(drawn.reshape(-1, *counts.shape)).std(ddof=1))
    return {"score": float(metric(counts)), "stderr": stderr, "n": n}
