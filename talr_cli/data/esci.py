"""ESCI, the Shopping Queries data (Reddy et al. 2022, arXiv 2206.06588), from the hub or files.

The task is to name the label of a query and a product. Only the product's title is used, which all
versions of the data have. The wording of the prompt is ours. The data has labels but no
explanations; see `comparison`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from talr_cli.data import options
from talr_cli.data.base import Example, Splits
from talr_cli.data.duplicates import unique_ids
from talr_cli.data.files import read_files
from talr_cli.data.hub import read_hub
from talr_cli.data.rows import BadRows, Row, check_paths
from talr_cli.data.splitting import check_shares, hashed_split, sample_rows
from talr_cli.errors import UserError
from talr_cli.fields import value
from talr_cli.scorers.esci import LABELS, EsciScorer, read_label

_COLUMNS = ("query", "product_title", "esci_label")
_MEANING = {
    "Exact": "it is what the query asks for, in every respect",
    "Substitute": "it misses some of what the query asks for, but can take its place",
    "Complement": "it is something else, to be used with what the query asks for",
    "Irrelevant": "it is none of these",
}
_HOW = {
    "explanation": "Compare the product with the query, then give the label on a last line",
    "label": "Give nothing but the label, on one line",
}
_WORD = re.compile(r"\d+\.\d+\w*|\w+")


@dataclass(frozen=True)
class Pair:
    """A query, the title of a product, and one of LABELS."""

    id: str
    query: str
    title: str
    label: str


@dataclass
class Esci:
    """Rows with the columns query, product_title and esci_label (E, exact or Exact).

    Without `path`, the rows are those of the hub's train and test splits. With `path` alone, the
    file's column `split` (train, test) decides; without that column, rows are split by query, so
    that no query is in two splits. With `test_path`, training rows come from `path` and test rows
    from `test_path`; rows of which a column `split` says otherwise are left out. The validation
    rows are those of `validation_share` of the training queries.

    `locale` keeps the rows with this product_locale or none; null keeps all. `small_version` keeps
    the rows of the benchmark's reduced version, which has harder queries. `train_rows`,
    `validation_rows` and `test_rows` are drawn by `data_seed`; a larger number includes the rows of
    a smaller one. `target` is the label, or a comparison followed by the label (`explanation`).
    """

    name: str = value(**options.NAME, default="esci")
    hub_id: str = value(**options.HUB_ID, default="tasksource/esci")
    revision: str | None = value(**options.REVISION)
    path: str | None = value(
        "a file with the same columns, read instead of the hub", **options.A_FILE
    )
    # It counts for the identity, as it decides which rows of `path` are trained on.
    test_path: str | None = value(
        "the rows to score; null: by the column `split` of `path`, or a share of it",
        **options.A_FILE,
    )
    target: str = value(
        "what a completion holds: an explanation that compares words, and the label; or the "
        "label only",
        "label",
        choices=("explanation", "label"),
    )
    locale: str | None = value("only rows of this locale (us, es or jp); null: all", "us")
    small_version: bool = value("use only the reduced version, with harder queries", False)
    train_rows: int | None = value(
        "rows to train on, drawn by data_seed; null: all", **options.SOME_ROWS
    )
    validation_rows: int | None = value(
        "rows for the validation loss, drawn by data_seed; null: all", **options.SOME_ROWS
    )
    test_rows: int | None = value(
        "rows to score, drawn by data_seed; null: all", **options.SOME_ROWS, identity=False
    )
    data_seed: int = value(**options.DATA_SEED)
    validation_share: float = value(
        "share of the training queries that is used for validation", 0.05, **options.SHARE
    )
    test_share: float = value(
        "share of the queries of `path` to score, if no other value selects them",
        0.2,
        **options.SHARE,
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
        return self._load(self._sources())

    def load_test(self) -> Splits:
        """Read only the test rows, if they have a file or a split of their own."""
        check_paths(self.path, self.test_path)
        others_unread = replace(self, train_rows=None, validation_rows=None)
        return others_unread._load([one for one in self._sources() if one[0] != "train"])

    @property
    def unscored(self) -> tuple[str, ...]:
        """See `data.base.scored_values`."""
        of_path = () if self.test_path is None else ("path", "test_share")
        return ("train_rows", "validation_rows", "validation_share", *options.UNSCORED, *of_path)

    def _load(self, sources: Sequence[tuple[str | None, Iterable[Row]]]) -> Splits:
        bad = BadRows(self.on_bad_row, self.max_bad_share)
        pairs: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
        for role, rows in sources:
            for record in bad.sift(rows, self._record):
                if record is None:
                    continue
                pair, split = record
                if role is None or split in (role, None):
                    pairs[self._place(pair, split or role)].append(pair)
        bad.settle()
        if not any(pairs.values()):
            raise UserError(
                f"dataset.locale={self.locale} dataset.small_version={self.small_version} leave no "
                f"row of {self.path or self.hub_id}"
            )
        return Splits(
            self._examples(pairs["train"], "train_rows", self.train_rows),
            self._examples(pairs["validation"], "validation_rows", self.validation_rows),
            self._examples(pairs["test"], "test_rows", self.test_rows),
            EsciScorer(),
        )

    def _sources(self) -> list[tuple[str | None, Iterable[Row]]]:
        """(split, rows) of each source; split is None if the rows are to be divided.

        A source is read only when its rows are asked for.
        """
        if self.path is None:
            instead = "give a file in its columns by dataset.path=FILE"
            return [
                (split, read_hub(self.hub_id, None, split, instead, self.revision))
                for split in ("train", "test")
            ]
        columns = (*_COLUMNS, "small_version") if self.small_version else _COLUMNS
        if self.test_path is None:
            return [(None, read_files(self.path, columns))]
        paths = {"train": self.path, "test": self.test_path}
        return [(split, read_files(path, columns)) for split, path in paths.items()]

    def _record(self, row: Row) -> tuple[Pair, str | None] | None:
        """(the pair, the value of its column `split`); None if it is filtered out."""
        values = row.read()
        if self.locale is not None and values.get("product_locale") not in (self.locale, None):
            return None
        if self.small_version:
            is_small = values.get("small_version")
            if is_small in (0, "0"):
                return None
            if is_small not in (1, "1"):
                raise ValueError(f"has a small_version that is not 0 or 1: {is_small}")
        query, title, written = (row.text(column) for column in _COLUMNS)
        label = read_label(written)
        if label is None:
            raise ValueError(f"has the label {written}, which is none of {', '.join(LABELS)}")
        split = values.get("split")
        if split not in (None, "train", "test"):
            raise ValueError(f"has a split that is not train or test: {split}")
        number = values.get("example_id")
        row_id = f"{row.file.stem}:{row.line if number is None else number}"
        return Pair(row_id, query, title, label), split

    def _place(self, pair: Pair, split: str | None) -> str:
        if split == "test":
            return split
        query = " ".join(pair.query.casefold().split())
        test_share = 0.0 if split == "train" else self.test_share
        return hashed_split(query, self.validation_share, test_share)

    def _examples(self, pairs: list[Pair], option: str, count: int | None) -> list[Example]:
        examples = [
            example(pair, comparison(pair.query, pair.title), self.target)
            for pair in sample_rows(pairs, option, count, self.data_seed)
        ]
        return unique_ids(examples, option.removesuffix("_rows"))


def example(pair: Pair, explanation: str, target: str) -> Example:
    """The pair as a row; its group is its label, so that scores by group are recalls."""
    meanings = "\n".join(f"{label}: {meaning}." for label, meaning in _MEANING.items())
    prompt = (
        f"Query: {pair.query}\nProduct: {pair.title}\n\n"
        f"Which label fits the product?\n{meanings}\n\n"
        f"{_HOW[target]} of the form 'Answer: <label>'."
    )
    line = f"Answer: {pair.label}"
    return Example(
        id=pair.id,
        messages=({"role": "user", "content": prompt},),
        completion=line if target == "label" else f"{explanation}\n{line}",
        reference={"answer": pair.label, "choices": list(LABELS)},
        group=pair.label,
    )


def comparison(query: str, title: str) -> str:
    """A text that says which words of the query the title has and which it lacks.

    Case and a plural s are ignored. The text replaces the explanation that the data lacks. What it
    says is true and can be seen in the prompt, but it is not why the annotators chose the label,
    and often does not determine it.
    """
    offered = {_stem(word) for word in _WORD.findall(title.casefold())}
    wanted = dict.fromkeys(_WORD.findall(query.casefold()))
    found = [word for word in wanted if _stem(word) in offered]
    missing = [word for word in wanted if _stem(word) not in offered]
    return (
        f"Words of the query in the title: {', '.join(found) or 'none'}.\n"
        f"Words of the query not in the title: {', '.join(missing) or 'none'}."
    )


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word
