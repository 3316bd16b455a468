"""Scores ESCI's labels (Reddy et al. 2022, arXiv 2206.06588).

The task is the benchmark's second, naming the label. Its first task, ranking, is scored by nDCG and
is not implemented here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from talr_cli.scorers.base import Verdict
from talr_cli.scorers.choice import Choices

LABELS = ("Exact", "Substitute", "Complement", "Irrelevant")
NO_LABEL = "none"
RESAMPLES = 2000

_BY_WRITTEN_FORM = {form.lower(): label for label in LABELS for form in (label, label[0])}
_CHOICES = Choices(LABELS)


def read_label(written: str) -> str | None:
    """The label that a record gives as E, exact or Exact; None if it is not one of the four."""
    return _BY_WRITTEN_FORM.get(written.strip().lower())


class EsciScorer:
    """Compares the label that an output names with {"answer": one of LABELS}.

    The label is read as a choice (`Choice`). A single letter is not a label, since an I in prose is
    seldom one.
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        named = _CHOICES.named(output)
        found = None if named is None else _CHOICES.written[named]
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
