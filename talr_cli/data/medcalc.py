"""MedCalc-Bench (Khandekar et al. 2024, arXiv 2406.12036), from the hub or from files.

Knows the benchmark's columns and its two prompts; how answers are judged is in the scorer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from talr_cli.data import options
from talr_cli.data.base import Example, Message, Splits
from talr_cli.data.duplicates import unique_ids
from talr_cli.data.files import read_files
from talr_cli.data.hub import read_hub
from talr_cli.data.rows import BadRows, Row, check_paths
from talr_cli.data.splitting import check_shares, split_by_key
from talr_cli.fields import value
from talr_cli.scorers.medcalc import MedCalcScorer, answer_form

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
# The instructions of the benchmark's evaluation/run.py for zero-shot chain of thought and direct
# answers, word for word, since scores depend on them.
_OFFICIAL_HOW = {
    "explanation": "Please think step-by-step to solve the question and then generate the required "
    "score.",
    "label": "Please output answer only without any other text.",
}
_OFFICIAL_FORMAT = {
    "explanation": '{"step_by_step_thinking": '
    "str(your_step_by_step_thinking_procress_to_solve_the_question), "
    '"answer": str(short_and_direct_answer_of_the_question)}',
    "label": '{"answer": str(value which is the answer to the question)}',
}


@dataclass
class MedCalc:
    """The benchmark, in its own columns.

    Without `path`, the rows are those of the hub's train and test splits. With `path` alone, the
    file is split by patient note into train, validation and test, so that no note is in two of
    them. With `test_path`, the test rows come from there. `target` is the dataset's explanation
    followed by the answer, or the answer alone (`label`).

    `prompt` is ours (`plain`), which is answered by text with a last line `Answer: ...`, or the
    benchmark's own (`official`), which is answered by JSON.
    """

    name: str = value(**options.NAME, default="medcalc")
    hub_id: str = value(**options.HUB_ID, default="ncbi/MedCalc-Bench-v1.0")
    revision: str | None = value(**options.REVISION)
    path: str | None = value(
        "a file with the same columns, read instead of the hub", **options.A_FILE
    )
    # It counts for the identity, as it decides which rows of `path` are trained on.
    test_path: str | None = value(
        "the rows to score, with the same columns; null: a share of `path`", **options.A_FILE
    )
    target: str = value(
        "what a completion holds: the explanation and the answer, or the answer only",
        "explanation",
        choices=("explanation", "label"),
    )
    prompt: str = value(
        "the prompt: plain is our own, official is the benchmark's, which asks for JSON",
        "plain",
        choices=("plain", "official"),
    )
    validation_share: float = value(
        "share of the training notes that is used for validation", 0.05, **options.SHARE
    )
    test_share: float = value(
        "share of the notes of `path` to score, if there is no `test_path`", 0.2, **options.SHARE
    )
    max_overlap: float = value(**options.MAX_OVERLAP)
    on_bad_row: str = value(**options.ON_BAD_ROW)
    max_bad_share: float = value(**options.MAX_BAD_SHARE)

    def load(self) -> Splits:
        """Read the rows.

        Raises:
            UserError: The hub or a file cannot be read, rows are bad, or a value is out of range.
        """
        check_shares(self.validation_share, self.test_share)
        check_paths(self.path, self.test_path)
        return self._load(self._rows("train", self.path))

    def load_test(self) -> Splits:
        """Read only the test rows, unless they are a share of `path`."""
        return self.load() if self._shares_its_file else self._load(())

    def _load(self, training: Iterable[Row]) -> Splits:
        bad = BadRows(self.on_bad_row, self.max_bad_share)
        held_out = self.test_share if self._shares_its_file else 0.0
        splits = split_by_key(bad.sift(training, self._example), self.validation_share, held_out)
        if not self._shares_its_file:
            test = bad.sift(self._rows("test", self.test_path), self._example)
            splits["test"] = [example for _, example in test]
        bad.settle()
        unique = {split: unique_ids(rows, split) for split, rows in splits.items()}
        return Splits(**unique, scorer=MedCalcScorer(self.prompt))

    @property
    def unscored(self) -> tuple[str, ...]:
        """See `data.base.scored_values`."""
        of_path = () if self._shares_its_file else ("path", "test_share")
        return ("validation_share", *options.UNSCORED, *of_path)

    @property
    def _shares_its_file(self) -> bool:
        """Whether the test rows are a share of `path`."""
        return self.path is not None and self.test_path is None

    def _rows(self, split: str, path: str | None) -> Iterable[Row]:
        """The rows of a file; without one those of a split on the hub."""
        if path is not None:
            return read_files(path, _COLUMNS)
        instead = (
            "give a CSV file in its columns by dataset.path=FILE, and dataset.test_path=FILE for "
            "the test rows"
        )
        return read_hub(self.hub_id, None, split, instead, self.revision)

    def _example(self, row: Row) -> tuple[str, Example]:
        """(note id, example)."""
        given = row.read()
        missing = [column for column in _COLUMNS if column not in given]
        if missing:
            raise ValueError(f"has no {', '.join(missing)}")
        values = {column: str(given[column]).strip() for column in _COLUMNS}
        answer, lower, upper = (
            values[column] for column in ("Ground Truth Answer", "Lower Limit", "Upper Limit")
        )
        form = answer_form(answer, lower, upper)
        if form is None:
            raise ValueError(f"has an answer of unknown form: {answer} within {lower} to {upper}")
        note, question = values["Patient Note"], values["Question"]
        explanation = values["Ground Truth Explanation"]
        if self.prompt == "official":
            messages = _official_messages(note, question, self.target)
            record = {"answer": answer}
            if self.target == "explanation":
                record = {"step_by_step_thinking": explanation, **record}
            completion = json.dumps(record, ensure_ascii=False)
        else:
            messages = _plain_messages(note, question, self.target)
            line = f"Answer: {answer}"
            completion = line if self.target == "label" else f"{explanation}\n{line}"
        return values["Note ID"], Example(
            id=f"{row.file.stem}:{values['Row Number']}",
            messages=messages,
            completion=completion,
            reference={
                "form": form,
                "answer": answer,
                "lower": lower,
                "upper": upper,
                "calculator": str(given.get("Calculator ID") or "").strip(),
            },
            group=values["Calculator Name"],
            category=str(given.get("Category", "")).strip(),
        )


def _plain_messages(note: str, question: str, target: str) -> tuple[Message, ...]:
    prompt = (
        f"Patient note: {note}\n\nQuestion: {question}\n\n"
        f"{_HOW[target]} of the form 'Answer: <value>'."
    )
    return ({"role": "user", "content": prompt},)


def _official_messages(note: str, question: str, target: str) -> tuple[Message, ...]:
    form = f"JSON dict formatted as {_OFFICIAL_FORMAT[target]}"
    system = (
        "You are a helpful assistant for calculating a score for a given patient note. "
        f"{_OFFICIAL_HOW[target]} Your output should only contain a {form}."
    )
    prompt = (
        f"Here is the patient note:\n{note}\n\nHere is the task:\n{question}\n\n"
        f"Please directly output the {form}:"
    )
    return ({"role": "system", "content": system}, {"role": "user", "content": prompt})
