"""The base model is scored once, whatever is trained beside it on other rows."""

import pytest
from conftest import config, jsonl

from talr_cli.data.loading import load_test
from talr_cli.run.identity import data_identity, identity
from talr_cli.run.record import scoring_identity
from talr_cli.sweep.grid import expand_grid, scoring_key

ROW = {"prompt": "2 + 2?", "completion": "4"}


def base_identities(*overrides):
    """(identity of the base's directory, that of its scores)."""
    composed = config("eval", *overrides)
    return identity(composed, "x"), scoring_identity(composed)


def write_rows(path, *rows):
    path.write_text(jsonl(rows))
    return path


def test_an_edited_training_file_leaves_the_base_and_its_scores_where_they_are(tmp_path):
    train, test = (write_rows(tmp_path / f"{name}.jsonl", ROW) for name in ("train", "test"))
    given = ("dataset=jsonl", f"dataset.train={train}", f"dataset.test={test}")
    before = base_identities(*given)
    write_rows(train, ROW, {"prompt": "3 + 3?", "completion": "6"})
    assert base_identities(*given, f"dataset.validation={test}", "dataset.train_on=all") == before
    write_rows(test, {"prompt": "3 + 3?", "completion": "6"})
    assert not {*base_identities(*given)} & {*before}


@pytest.mark.parametrize(
    ("dataset", "overrides"),
    [
        ("medcalc-mini", ["train_rows=5", "validation_rows=2"]),
        ("esci-mini", ["train_rows=5", "validation_rows=2"]),
        ("facts-mini", ["train_rows=5", "validation_rows=2", "train_phrasings=2"]),
    ],
)
def test_what_changes_no_test_row_is_no_part_of_the_bases_identity(dataset, overrides):
    given = [f"dataset={dataset}", *(f"dataset.{one}" for one in overrides)]
    usual, other = config("eval", given[0]), config("eval", *given)
    assert load_test(other.dataset).test == load_test(usual.dataset).test
    assert base_identities(*given) == base_identities(given[0])
    assert base_identities(given[0], "dataset.data_seed=1")[0] != base_identities(given[0])[0]


@pytest.mark.parametrize("dataset", ["medcalc", "esci"])
def test_a_file_that_test_rows_are_a_share_of_counts(tmp_path, dataset):
    path, test = tmp_path / "all.csv", tmp_path / "test.csv"
    given = (f"dataset={dataset}", f"dataset.path={path}")
    bases = []
    for text in ("one", "other"):
        path.write_text(text)
        test.write_text("test")
        bases.append(
            (base_identities(*given), base_identities(*given, f"dataset.test_path={test}"))
        )
    assert bases[0][0] != bases[1][0]
    assert bases[0][1] == bases[1][1]


def test_a_sweep_over_the_number_of_training_rows_scores_its_base_once():
    typed = ["model=tiny", "dataset=medcalc-mini", "lr=1e-4"]
    assert len({*map(scoring_key, expand_grid([*typed, "dataset.train_rows=4,8"], None))}) == 1
    assert len({*map(scoring_key, expand_grid([*typed, "dataset.test_rows=4,8"], None))}) == 2


def test_trainings_on_other_data_are_told_apart_whatever_else_is_alike(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", ROW)
    given = ("dataset=jsonl", f"dataset.train={train}")
    first = data_identity(config("train", *given))
    same = ("lr=1e-3", "trainer.epochs=9", "dataset.data_seed=1", f"dataset.test={train}")
    assert data_identity(config("train", *given, *same)) == first
    one, other = (config("train", *given, f"dataset.data_seed={seed}") for seed in (1, 2))
    assert data_identity(one, drawn=True) != data_identity(other, drawn=True)
    write_rows(train, ROW, ROW)
    assert data_identity(config("train", *given)) != first
