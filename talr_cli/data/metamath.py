"""MetaMathQA (Yu et al. 2023, arXiv 2309.12284) to train on, GSM8K or MATH-500 to score.

Knows their columns; how answers are judged is in `scorers/math.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from talr_cli.data import options
from talr_cli.data.base import Example, Message, Splits
from talr_cli.data.files import read_files
from talr_cli.data.hub import read_hub
from talr_cli.data.rows import BadRows, Row
from talr_cli.data.splitting import sample_rows, split_by_key
from talr_cli.fields import value
from talr_cli.scorers.base import Scorer
from talr_cli.scorers.math import Gsm8kScorer, MathScorer, last_box
from talr_cli.scorers.numbers import find_numbers

# {benchmark: (hub id, config)} of the test rows. MATH-500 is of Lightman et al. (arXiv 2305.20050).
_BENCHMARKS = {"gsm8k": ("openai/gsm8k", "main"), "math": ("HuggingFaceH4/MATH-500", None)}
_SCORERS: dict[str, Callable[[], Scorer]] = {"gsm8k": Gsm8kScorer, "math": MathScorer}
# Every response of MetaMathQA ends with these words.
_HOW = "Work it out step by step and end with 'The answer is: <answer>'."


@dataclass
class MetaMath:
    """Training rows with the columns query, response, type, original_question.

    They come from the hub or from the file `path`. `train_rows` of them are drawn by `data_seed`; a
    larger number includes the rows of a smaller one. The validation rows are the rephrasings of
    `validation_share` of the original questions, so that no problem is in both splits.

    The test rows are those of `benchmark` on the hub, or of the file `test_path` with its columns
    (gsm8k: question, answer; math: problem, solution and, unless the solution boxes it, answer).
    """

    name: str = value(**options.NAME, default="metamath")
    hub_id: str = value(**options.HUB_ID, default="meta-math/MetaMathQA")
    revision: str | None = value(**options.REVISION)
    path: str | None = value(
        "a file with the same columns, read instead of the hub", **options.A_FILE
    )
    train_rows: int | None = value(
        "rows to train on, drawn by data_seed; null: all", **options.SOME_ROWS
    )
    data_seed: int = value(**options.DATA_SEED)
    validation_share: float = value(
        "share of the original questions that is used for validation", 0.01, at_least=0, below=1
    )
    benchmark: str = value(
        "the benchmark that is scored", "gsm8k", choices=tuple(_BENCHMARKS), identity=False
    )
    test_path: str | None = value(
        "a file with the benchmark's columns, read instead of the hub", **options.SCORED_FILE
    )
    max_overlap: float = value(**options.MAX_OVERLAP)
    on_bad_row: str = value(**options.ON_BAD_ROW)
    max_bad_share: float = value(**options.MAX_BAD_SHARE)

    unscored = (
        *("hub_id", "revision", "path", "train_rows", "data_seed"),
        *("validation_share", *options.UNSCORED),
    )

    def load(self) -> Splits:
        """Read the rows.

        Raises:
            UserError: The hub or a file cannot be read, rows are bad, a value is out of range, or
                the benchmark's scorer needs a package that is not installed.
        """
        return self._load(self._train_source(), self.train_rows)

    def load_test(self) -> Splits:
        """Read only the benchmark's rows."""
        return self._load((), None)

    def _load(self, training: Iterable[Row], train_rows: int | None) -> Splits:
        scorer = _SCORERS[self.benchmark]()
        bad = BadRows(self.on_bad_row, self.max_bad_share)
        questions = bad.sift(training, _train_example)
        splits = split_by_key(questions, self.validation_share, 0.0)
        test = list(bad.sift(self._test_source(), _TEST_EXAMPLES[self.benchmark]))
        bad.settle()
        train = sample_rows(splits["train"], "train_rows", train_rows, self.data_seed)
        return Splits(train, splits["validation"], test, scorer)

    def _train_source(self) -> Iterable[Row]:
        if self.path is not None:
            return read_files(self.path, ("query", "response"))
        instead = "give a file in its columns by dataset.path=FILE"
        return read_hub(self.hub_id, None, "train", instead, self.revision)

    def _test_source(self) -> Iterable[Row]:
        if self.test_path is not None:
            return read_files(self.test_path)
        instead = f"give the test rows of {self.benchmark} by dataset.test_path=FILE"
        return read_hub(*_BENCHMARKS[self.benchmark], "test", instead)


def _train_example(row: Row) -> tuple[str, Example]:
    """(original question, example)."""
    query = row.text("query")
    original = str(row.read().get("original_question", query))
    return original, Example(
        id=f"train:{row.line}",
        messages=_prompt(query),
        completion=row.text("response"),
        group=str(row.read().get("type", "")),
    )


def _gsm8k_example(row: Row) -> Example:
    solution = row.text("answer")
    answer = solution.rpartition("####")[2].strip()
    if "####" not in solution or len(find_numbers(answer)) != 1:
        raise ValueError("has an answer without a number after ####")
    return Example(
        id=f"gsm8k:{row.line}",
        messages=_prompt(row.text("question")),
        completion=solution,
        reference={"answer": answer},
    )


def _math_example(row: Row) -> Example:
    solution = row.text("solution")
    values = row.read()
    answer = values.get("answer") or last_box(solution)
    if not answer:
        raise ValueError("has neither an answer nor a box in its solution")
    return Example(
        id=f"math:{row.line}",
        messages=_prompt(row.text("problem")),
        completion=solution,
        reference={"answer": str(answer)},
        group=str(values.get("subject") or values.get("type") or ""),
    )


_TEST_EXAMPLES = {"gsm8k": _gsm8k_example, "math": _math_example}


def _prompt(question: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": f"{question}\n\n{_HOW}"},)
