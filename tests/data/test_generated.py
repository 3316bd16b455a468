"""What holds for every generated data set: the same rows everywhere, and counts that can be had."""

import hashlib
import json
import subprocess
import sys

import pytest

from talr_cli.data.esci_mini import EsciMini
from talr_cli.data.medcalc_mini import MedCalcMini
from talr_cli.errors import UserError

DATASETS = pytest.mark.parametrize("dataset", [EsciMini, MedCalcMini])


@pytest.mark.parametrize(
    ("dataset", "digest"),
    [
        (MedCalcMini(), "6841b53f4bceb30e"),
        (MedCalcMini(target="label", data_seed=1), "55375b6180a812bb"),
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


@DATASETS
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"validation_rows": 10**6}, "dataset.validation_rows=1000000 is more than there are"),
        ({"test_rows": -1}, "dataset.test_rows=-1 is negative"),
        ({"target": "both"}, "dataset.target=both"),
    ],
)
def test_values_out_of_range_are_refused(dataset, values, expected):
    with pytest.raises(UserError, match=expected):
        dataset(**values).load()
