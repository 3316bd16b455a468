"""MedCalc-Bench (Khandekar et al. 2024, arXiv 2406.12036), from the hub or from CSV files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.data.base import Example, Splits, check_target
from talr_cli.data.rows import BadRows, Row, check_paths, read_hub, read_rows
from talr_cli.data.splitting import check_shares, split_by_key
from talr_cli.evaluation.scorers.medcalc import MedCalcScorer, answer_form

_COLUMNS = (
    "Row Number",
    "Calculator Name",
    "Note ID",
    "Patient Note",
    "Question",
    "Ground Truth Answer",
    "Lower Limit",
    "Upper Limit",
    "Ground Truth Explanation",
)
_HOW = {
    "explanation": "Work it out step by step, then give the result on a last line",
    "label": "Give nothing but the result, on one line",
}


@dataclass
class MedCalc:
    """The benchmark in its own columns.

    Without `path` the hub's train and test splits. With `path` alone the file is split by patient
    note into train, validation and test, so that no note is in two of them. With `test_path` the
    test rows come from there. `target` is the data set's explanation and then the answer, or the
    answer alone (`label`).
    """

    name: str = "medcalc"
    hub_id: str = "ncbi/MedCalc-Bench-v1.0"
    path: str | None = None
    test_path: str | None = None
    target: str = "explanation"
    validation_share: float = 0.05
    test_share: float = 0.2
    on_bad_row: str = "stop"
    max_bad_share: float = 0.05

    def load(self) -> Splits:
        """Read the rows.

        Raises:
            UserError: The hub or a file cannot be read, rows are bad, or a value is out of range.
        """
        check_target(self.target)
        check_shares(self.validation_share, self.test_share)
        check_paths(self.path, self.test_path)
        bad = BadRows(self.on_bad_row, self.max_bad_share)
        if self.path is None:
            splits = self._from_hub(bad)
        else:
            rows = bad.sift(read_rows(Path(self.path), _COLUMNS), self._example)
            held_out = 0.0 if self.test_path else self.test_share
            splits = split_by_key(rows, self.validation_share, held_out)
            if self.test_path is not None:
                test_rows = read_rows(Path(self.test_path), _COLUMNS)
                splits["test"] = [example for _, example in bad.sift(test_rows, self._example)]
        bad.settle()
        return Splits(splits["train"], splits["validation"], splits["test"], MedCalcScorer())

    def _from_hub(self, bad: BadRows) -> dict[str, list[Example]]:
        instead = (
            "give a CSV file in its columns by dataset.path=FILE, and dataset.test_path=FILE for "
            "the test rows"
        )
        rows = {split: read_hub(self.hub_id, None, split, instead) for split in ("train", "test")}
        training = bad.sift(rows["train"], self._example)
        splits = split_by_key(training, self.validation_share, 0.0)
        splits["test"] = [example for _, example in bad.sift(rows["test"], self._example)]
        return splits

    def _example(self, row: Row) -> tuple[str, Example]:
        """(note id, example)."""
        if row.values is None:
            raise ValueError(row.error)
        values: dict[str, Any] = {}
        for column in _COLUMNS:
            text = row.values.get(column)
            values[column] = "" if text is None else str(text).strip()
            if not values[column]:
                raise ValueError(f"has no {column}")
        answer, lower, upper = (
            values[column] for column in ("Ground Truth Answer", "Lower Limit", "Upper Limit")
        )
        form = answer_form(answer, lower, upper)
        if form is None:
            raise ValueError(f"has an answer of unknown form: {answer} within {lower} to {upper}")
        prompt = (
            f"Patient note: {values['Patient Note']}\n\nQuestion: {values['Question']}\n\n"
            f"{_HOW[self.target]} of the form 'Answer: <value>'."
        )
        line = f"Answer: {answer}"
        explained = f"{values['Ground Truth Explanation']}\n{line}"
        return values["Note ID"], Example(
            id=f"{row.file.stem}:{values['Row Number']}",
            messages=({"role": "user", "content": prompt},),
            completion=line if self.target == "label" else explained,
            reference={"form": form, "answer": answer, "lower": lower, "upper": upper},
            group=values["Calculator Name"],
        )
