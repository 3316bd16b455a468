"""MedCalc-Bench (Khandekar et al. 2024, arXiv 2406.12036), from the hub or from files.

Knows the benchmark's columns and its two prompts; how answers are judged is in the scorer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from talr_cli.data.base import Example, Message, Splits, check_target
from talr_cli.data.duplicates import unique_ids
from talr_cli.data.files import read_files
from talr_cli.data.hub import read_hub
from talr_cli.data.options import (
    A_FILE,
    HUB_ID,
    MAX_BAD_SHARE,
    MAX_OVERLAP,
    NAME,
    ON_BAD_ROW,
    REVISION,
    SHARE,
    UNSCORED,
)
from talr_cli.data.rows import BadRows, Row, check_paths
from talr_cli.data.splitting import check_shares, split_by_key
from talr_cli.errors import UserError
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

    name: str = value(**NAME, default="medcalc")
    hub_id: str = value(**HUB_ID, default="ncbi/MedCalc-Bench-v1.0")
    revision: str | None = value(**REVISION)
    path: str | None = value("a file with the same columns, read instead of the hub", **A_FILE)
    # It counts for the identity, as it decides which rows of `path` are trained on.
    test_path: str | None = value(
        "the rows to score, with the same columns; null: a share of `path`", **A_FILE
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
        "share of the training notes that is used for validation", 0.05, **SHARE
    )
    test_share: float = value(
        "share of the notes of `path` to score, if there is no `test_path`", 0.2, **SHARE
    )
    max_overlap: float = value(**MAX_OVERLAP)
    on_bad_row: str = value(**ON_BAD_ROW)
    max_bad_share: float = value(**MAX_BAD_SHARE)

    def load(self) -> Splits:
        """Read the rows.

        Raises:
            UserError: The hub or a file cannot be read, rows are bad, or a value is out of range.
        """
        check_target(self.target)
        if self.prompt not in ("plain", "official"):
            raise UserError(f"dataset.prompt={self.prompt} is not plain or official")
        check_shares(self.validation_share, self.test_share)
        check_paths(self.path, self.test_path)
        bad = BadRows(self.on_bad_row, self.max_bad_share)
        rows = self._hub_rows("train") if self.path is None else read_files(self.path, _COLUMNS)
        held_out = self.test_share if self._shares_its_file else 0.0
        training = bad.sift(rows, self._example)
        splits = split_by_key(training, self.validation_share, held_out)
        if not self._shares_its_file:
            splits["test"] = self._own_test(bad)
        bad.settle()
        unique = {split: unique_ids(rows, split) for split, rows in splits.items()}
        return Splits(
            unique["train"], unique["validation"], unique["test"], MedCalcScorer(self.prompt)
        )

    def load_test(self) -> Splits:
        """Read only the test rows, unless they are a share of `path`."""
        if self._shares_its_file:
            return self.load()
        bad = BadRows(self.on_bad_row, self.max_bad_share)
        test = self._own_test(bad)
        bad.settle()
        return Splits([], [], unique_ids(test, "test"), MedCalcScorer(self.prompt))

    @property
    def unscored(self) -> tuple[str, ...]:
        """See `data.base.scored_values`."""
        of_path = () if self._shares_its_file else ("path", "test_share")
        return ("validation_share", *UNSCORED, *of_path)

    @property
    def _shares_its_file(self) -> bool:
        """Whether the test rows are a share of `path`."""
        return self.path is not None and self.test_path is None

    def _own_test(self, bad: BadRows) -> list[Example]:
        """The test rows of `test_path` or of the hub."""
        given = self.test_path
        rows = self._hub_rows("test") if given is None else read_files(given, _COLUMNS)
        return [example for _, example in bad.sift(rows, self._example)]

    def _hub_rows(self, split: str) -> Iterable[Row]:
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
