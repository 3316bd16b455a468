"""What holds for every generated data set: the same rows everywhere, and counts that can be had."""

import hashlib
import json
import subprocess
import sys

import pytest
from conftest import config

from talr_cli.data.esci_mini import EsciMini
from talr_cli.data.facts_mini import FactsMini
from talr_cli.data.medcalc_mini import MedCalcMini
from talr_cli.errors import UserError

DATASETS = pytest.mark.parametrize("dataset", [EsciMini, FactsMini, MedCalcMini])
DRAWN = pytest.mark.parametrize("dataset", [EsciMini, MedCalcMini])


@pytest.mark.parametrize(
    ("dataset", "digest"),
    [
        (MedCalcMini(), "6841b53f4bceb30e"),
        (MedCalcMini(target="label", data_seed=1), "55375b6180a812bb"),
        (FactsMini(), "b9d4fbdb1d75e4b9"),
        (EsciMini(), "285a0c976ba8d681"),
        (EsciMini(target="label", data_seed=1), "ed9233cd64b1d9e6"),
    ],
)
def test_the_rows_are_those_that_published_figures_were_made_with(dataset, digest):
    splits = dataset.load()
    rows = [
        [row.id, *row.messages, row.completion, row.reference, row.group, row.category]
        for row in (*splits.train, *splits.validation, *splits.test)
    ]
    assert hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16] == digest


@DATASETS
def test_another_seed_draws_other_rows(dataset):
    assert dataset(data_seed=1).load().test != dataset().load().test


@DATASETS
def test_rows_do_not_depend_on_the_process(dataset):
    code = (
        f"import json; from {dataset.__module__} import {dataset.__name__} as Dataset;"
        "print(json.dumps([[r.messages, r.completion] for r in Dataset().load().test]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [[list(row.messages), row.completion] for row in dataset().load().test]
    assert json.loads(other.stdout) == here


@pytest.mark.parametrize(
    ("dataset", "value", "expected"),
    [
        ("medcalc-mini", "test_rows=-1", "is outside"),
        ("medcalc-mini", "target=both", "is not one of explanation, label"),
        ("esci-mini", "train_rows=-1", "is outside"),
        ("esci", "target=both", "is not one of explanation, label"),
        ("esci", "test_share=-0.1", "is outside"),
        ("medcalc", "prompt=ours", "is not one of plain, official"),
        ("medcalc", "on_bad_row=ignore", "is not one of stop, skip"),
        ("facts-mini", "facts=100", r"is outside \[4, 96\]"),
        ("facts-mini", "train_phrasings=9", r"is outside \[1, 8\]"),
        ("facts-mini", "test_phrasings=0", r"is outside \[1, 8\]"),
        ("facts-mini", "test_rows=-1", "is outside"),
    ],
)
def test_values_out_of_range_are_refused(dataset, value, expected):
    with pytest.raises(UserError, match=f"dataset.{value} {expected}"):
        config("train", f"dataset={dataset}", f"dataset.{value}")


@DRAWN
def test_too_many_rows_are_refused_with_the_number_there_is(dataset, monkeypatch):
    monkeypatch.setattr(f"{dataset.__module__}._MOST_DRAWS", 500)  # for the test's sake
    with pytest.raises(UserError, match=r"dataset\.validation_rows=10000 is more than") as error:
        dataset(validation_rows=10**4).load()
    most = int(str(error.value).rpartition(" ")[2])
    assert len(dataset(validation_rows=most).load().validation) == most
