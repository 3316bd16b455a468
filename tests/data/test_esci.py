"""ESCI: the forms of the data, which row goes into which split, what is asked and learned."""

import csv
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from conftest import config, jsonl
from pyarrow import parquet

from talr_cli.data.choices import possible_completions
from talr_cli.data.esci import Esci, comparison
from talr_cli.data.splitting import hashed_split
from talr_cli.errors import UserError
from talr_cli.run.identity import scored_data
from talr_cli.scorers.esci import LABELS

SPLITS = ("train", "validation", "test")


def row(number, query=None, label="E", **columns):
    return {
        "example_id": number,
        "query": query or f"query {number // 4}",
        "product_title": f"Product {number}",
        "esci_label": label,
        **columns,
    }


def write(path, rows):
    path.write_text(jsonl(rows))
    return str(path)


def queries(examples):
    return {example.messages[0]["content"].partition("\n")[0].casefold() for example in examples}


def ids(examples):
    return [example.id for example in examples]


@pytest.mark.parametrize(
    ("name", "rows", "counts"),
    [
        ("esci_original_columns.csv", 200, (138, 49, 1, 12)),
        ("esci_pairs_dev.jsonl", 1000, (517, 360, 36, 87)),
    ],
)
@pytest.mark.parametrize("target", ["label", "explanation"])
def test_every_real_row_is_read_and_its_own_answer_is_right(real_data, name, rows, counts, target):
    loaded = Esci(path=str(real_data / name), target=target).load()
    examples = [*loaded.train, *loaded.validation, *loaded.test]
    assert len(examples) == len(set(ids(examples))) == rows
    labels = Counter(example.reference["answer"] for example in examples)
    assert labels == dict(zip(LABELS, counts, strict=True))
    for example in examples:
        assert loaded.scorer(example.completion, example.reference).correct, example.id
        assert example.group == example.reference["answer"]


def test_one_real_file_is_split_by_query(real_data):
    loaded = Esci(path=str(real_data / "esci_pairs_dev.jsonl")).load()
    train, validation, test = (queries(getattr(loaded, split)) for split in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert 0.15 < len(loaded.test) / 1000 < 0.25
    assert 0.02 < len(loaded.validation) / 1000 < 0.08


def test_a_query_written_otherwise_goes_into_the_same_split(tmp_path):
    rows = [row(n, query) for n in range(40) for query in (f"Red  Shoe {n}", f"red shoe {n} ")]
    loaded = Esci(path=write(tmp_path / "a.jsonl", rows)).load()
    places = [
        {" ".join(one.split()) for one in queries(getattr(loaded, split))} for split in SPLITS
    ]
    assert [len(rows) for rows in places] == [len(getattr(loaded, split)) // 2 for split in SPLITS]
    assert loaded.test


def test_the_order_of_the_file_does_not_change_the_splits(tmp_path):
    rows = [row(n) for n in range(80)]
    one = Esci(path=write(tmp_path / "a.jsonl", rows)).load()
    other = Esci(path=write(tmp_path / "a.jsonl", rows[::-1])).load()
    for split in SPLITS:
        assert set(ids(getattr(one, split))) == set(ids(getattr(other, split)))


def test_the_column_split_decides_where_there_is_one(tmp_path):
    rows = [row(n, split="test" if n % 8 < 4 else "train") for n in range(80)]
    path = write(tmp_path / "a.jsonl", rows)
    loaded = Esci(path=path).load()
    assert set(ids(loaded.test)) == {f"a:{n}" for n in range(80) if n % 8 < 4}
    assert len(loaded.train) + len(loaded.validation) == 40
    # The same file for both: no row that is marked as a test row is trained on.
    both = Esci(path=path, test_path=path).load()
    assert [ids(getattr(both, split)) for split in SPLITS] == [
        ids(getattr(loaded, split)) for split in SPLITS
    ]


def test_a_test_file_holds_all_test_rows(tmp_path):
    train = write(tmp_path / "train.jsonl", [row(n) for n in range(80)])
    test = write(tmp_path / "test.jsonl", [row(n) for n in range(100, 120)])
    loaded = Esci(path=train, test_path=test, validation_share=0.3).load()
    assert ids(loaded.test) == [f"test:{n}" for n in range(100, 120)]
    assert len(loaded.train) + len(loaded.validation) == 80
    assert not queries(loaded.train) & queries(loaded.validation)
    assert loaded.validation


@pytest.mark.parametrize("has_test_file", [False, True])
def test_values_that_test_rows_may_depend_on_count_for_scores(tmp_path, has_test_file):
    """And no others, or a base would be scored anew for every number of training rows."""
    first, second, test = (
        write(tmp_path / f"{name}.jsonl", [row(n, small_version=n % 2) for n in range(begin, 200)])
        for name, begin in (("a", 0), ("b", 40), ("c", 80))
    )
    one = Esci(path=first, test_path=test if has_test_file else None)
    changed = {
        **{"path": second, "test_share": 0.4, "validation_share": 0.3, "data_seed": 1},
        **{"train_rows": 9, "validation_rows": 1, "test_rows": 9, "small_version": True},
        **{"target": "explanation", "max_overlap": 0.5, "locale": None, "test_path": first},
        **{"on_bad_row": "skip", "max_bad_share": 0.5},
    }
    free = {"train_rows", "validation_rows", "validation_share", "max_overlap"}
    free |= {"on_bad_row", "max_bad_share"}
    free |= {"path", "test_share"} if has_test_file else set()
    for name, value in changed.items():
        other = replace(one, **{name: value})
        assert (scored_data(other) == scored_data(one)) == (name in free), name
        assert name not in free or other.load_test().test == one.load_test().test, name


def test_the_three_kinds_of_files_give_the_same_rows(tmp_path):
    rows = [
        row(n, product_locale="us", small_version=n % 2, product_description=None)
        for n in range(40)
    ]
    write(tmp_path / "a.jsonl", rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for filters in ({}, {"small_version": True}):
        read = [
            Esci(path=str(tmp_path / f"a.{kind}"), **filters).load()
            for kind in ("jsonl", "csv", "parquet")
        ]
        assert read[0].train == read[1].train == read[2].train
        assert read[0].test == read[1].test == read[2].test
        assert sum(len(getattr(read[0], split)) for split in SPLITS) == (20 if filters else 40)


def test_the_hub_is_read_by_its_splits(tmp_path, monkeypatch):
    """`load_dataset` takes a folder for a data set of the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub"
    folder.mkdir()
    with (folder / "train.csv").open("w", newline="") as file:
        rows = [row(n, product_locale="us" if n < 60 else "es") for n in range(80)]
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([row(n, product_locale="us") for n in range(100, 108)])
    loaded = Esci(hub_id=str(folder), validation_share=0.2).load()
    assert ids(loaded.test) == [f"test:{n}" for n in range(100, 108)]
    assert len(loaded.train) + len(loaded.validation) == 60
    assert loaded.validation


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("Exact", ["E", "e", "exact", "Exact", " EXACT "]),
        ("Substitute", ["S", "substitute", "Substitute"]),
        ("Complement", ["C", "complement", "Complement"]),
        ("Irrelevant", ["I", "irrelevant", "Irrelevant"]),
    ],
)
def test_labels_in_all_their_written_forms(tmp_path, label, written):
    rows = [row(n, label=form) for n, form in enumerate(written)]
    path = write(tmp_path / "a.jsonl", rows)
    loaded = Esci(path=path, test_share=0.0, validation_share=0.0).load()
    assert {example.completion for example in loaded.train} == {f"Answer: {label}"}


def test_bad_rows_of_both_files_are_named_with_their_line(tmp_path):
    train = [row(0), row(1, label="Exactly"), row(2, query=" "), row(3, split="dev")]
    del train[0]["product_title"]
    test = [row(4), row(5, label=""), row(6, label="ES")]
    with pytest.raises(UserError) as error:
        Esci(
            path=write(tmp_path / "a.jsonl", train), test_path=write(tmp_path / "b.jsonl", test)
        ).load()
    message = str(error.value)
    assert message.startswith("6 of 7 rows are bad")
    for part in (
        "a.jsonl:1 has no product_title",
        "a.jsonl:2 has the label Exactly, which is none of Exact, Substitute",
        "a.jsonl:3 has no query",
        "a.jsonl:4 has a split that is not train or test: dev",
        "b.jsonl:2 has no esci_label",
        "b.jsonl:3 has the label ES",
    ):
        assert part in message
    assert "\n" not in message


def test_a_row_that_is_filtered_out_is_not_bad(tmp_path):
    rows = [row(0, product_locale="us"), row(1, product_locale="jp", label="?")]
    path = write(tmp_path / "a.jsonl", rows)
    assert sum(len(getattr(Esci(path=path).load(), split)) for split in SPLITS) == 1
    with pytest.raises(UserError, match=r"a\.jsonl:2"):
        Esci(path=path, locale=None).load()


def test_the_drawn_rows_depend_on_data_seed_alone_and_grow_by_addition(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(n) for n in range(400)])

    def drawn(split, **values):
        return ids(getattr(Esci(path=path, **values).load(), split))

    for split in ("train", "test"):
        few, many = (drawn(split, **{f"{split}_rows": n}) for n in (10, 30))
        assert many[:10] == few
        assert len(set(many)) == 30
        assert set(few) != set(drawn(split, **{f"{split}_rows": 10}, data_seed=1))
        assert set(few) <= set(drawn(split))
    assert len(drawn("validation", validation_rows=3)) == 3
    assert len(drawn("validation", validation_rows=1)) == 1


def test_drawing_fewer_rows_moves_no_query_to_another_split(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(n) for n in range(400)])
    few, all_of_it = Esci(path=path, train_rows=10).load(), Esci(path=path).load()
    assert few.test == all_of_it.test
    assert few.validation == all_of_it.validation


def test_the_explanation_says_which_words_the_title_has():
    said = comparison("Red 1.5l kettles without lid red", "RED Kettle, 1.5L (with lids)")
    assert said == (
        "Words of the query in the title: red, 1.5l, kettles, lid.\n"
        "Words of the query not in the title: without."
    )
    assert comparison("gas", "a ga")[-5:] == " gas."
    assert comparison("?", "x").count("none") == 2


def test_the_explanation_does_not_depend_on_the_label(tmp_path):
    rows = [row(n, query="blue lamp", label=label) for n, label in enumerate("ESCI")]
    for one in rows:
        one["product_title"] = "Blue Lamp"
    path = write(tmp_path / "a.jsonl", rows)
    loaded = Esci(path=path, target="explanation", test_share=0.0, validation_share=0.0).load()
    texts = [example.completion.rpartition("\n") for example in loaded.train]
    assert len({text[0] for text in texts}) == 1
    assert len({text[2] for text in texts}) == 4
    assert len({example.messages[0]["content"] for example in loaded.train}) == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"validation_share": 0.8}, "leave something to train on"),
        ({"test_path": "x.csv", "path": None}, "dataset.test_path needs dataset.path"),
        ({"locale": "xx"}, "dataset.locale=xx dataset.small_version=False leave no row of"),
        ({"train_rows": 9}, "dataset.train_rows=9 is not between 1 and the"),
        ({"test_rows": 0}, "dataset.test_rows=0 is not between 1 and the"),
        ({"small_version": True}, "has a small_version that is not 0 or 1: None"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, values, expected):
    path = write(tmp_path / "a.jsonl", [row(n, product_locale="us") for n in range(8)])
    with pytest.raises(UserError, match=expected):
        Esci(**{"path": path, **values}).load()


def test_without_the_hub_the_option_to_give_a_file_is_named(no_hub):
    with pytest.raises(UserError, match=r"dataset\.path=FILE"):
        Esci(hub_id="nobody/nothing").load()


def test_the_config_reaches_the_dataset():
    composed = config("train", "dataset=esci", "dataset.path=a.csv", "dataset.locale=null")
    assert (composed.dataset.name, composed.dataset.locale) == ("esci", None)


def test_shares_of_a_hash_split_are_met_and_only_grow():
    keys = [f"key {n}" for n in range(4000)]
    few = Counter(hashed_split(key, 0.1, 0.2) for key in keys)
    assert few["test"] / 4000 == pytest.approx(0.2, abs=0.025)
    assert few["validation"] / 4000 == pytest.approx(0.1, abs=0.02)
    for key in keys:
        if hashed_split(key, 0.1, 0.2) == "test":
            assert hashed_split(key, 0.1, 0.3) == "test"
    # Of every version alike: SHA-256 of "abc" begins with ba7816bf (FIPS 180-4), .728 of the whole.
    assert [hashed_split("abc", share, 0.5) for share in (0.22, 0.23)] == ["train", "validation"]
    assert [hashed_split("abc", 0.1, share) for share in (0.72, 0.73)] == ["validation", "test"]


# Rows that are answered by choosing


def test_every_choice_takes_the_place_of_the_answer(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(n, label="ESCI"[n % 4]) for n in range(8)])
    rows = Esci(path=path, test_share=0.0, validation_share=0.0).load().train
    for example, completions in zip(rows, possible_completions(rows), strict=True):
        assert completions == {label: f"Answer: {label}" for label in LABELS}
        assert completions[example.reference["answer"]] == example.completion


def test_working_before_the_answer_would_give_it_away(tmp_path):
    path = write(tmp_path / "a.jsonl", [row(0), row(1, query="product")])
    values = {"path": path, "test_share": 0.0, "validation_share": 0.0}
    rows = Esci(**values, target="explanation").load().train
    with pytest.raises(UserError, match="those of a:0 and a:1 differ before it"):
        possible_completions(rows)
