"""Two runs are one run exactly where nothing that counts differs."""

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talr_cli.errors import UserError
from talr_cli.runs.identity import LARGE, code_digest, file_digest, run_identity
from talr_cli.runs.run_directory import RunDirectory


def test_spelling_of_a_number_and_order_of_keys_do_not_matter():
    one = json.loads('{"lr": 1e-6, "model": {"name": "m", "dtype": "fp32"}}')
    other = json.loads('{"model": {"dtype": "fp32", "name": "m"}, "lr": 0.000001}')
    assert run_identity(one, {}) == run_identity(other, {})


@pytest.mark.parametrize(
    "changed",
    [
        {"lr": 1.0000000001e-6, "model": {"name": "m"}},
        {"lr": 1e-6, "model": {"name": "n"}},
        {"lr": 1e-6, "model": {"name": "m"}, "seed": 0},
        {"lr": "1e-6", "model": {"name": "m"}},
        {"lr": None, "model": {"name": "m"}},
    ],
)
def test_any_changed_value_is_another_run(changed):
    assert run_identity({"lr": 1e-6, "model": {"name": "m"}}, {}) != run_identity(changed, {})


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_floats_are_told_apart_to_the_last_bit(a, b):
    same = run_identity({"lr": a}, {}) == run_identity({"lr": b}, {})
    assert same == (repr(a) == repr(b))


def test_content_of_a_file_counts_and_its_place_does_not(tmp_path: Path):
    first, moved, edited = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    first.write_text('{"x": 1}\n')
    moved.write_text('{"x": 1}\n')
    edited.write_text('{"x": 2}\n')
    identity = run_identity({}, {"train": first})
    assert identity == run_identity({}, {"train": moved})
    assert identity != run_identity({}, {"train": edited})
    assert identity != run_identity({}, {"test": first})
    assert identity != run_identity({}, {})
    assert file_digest(first) == file_digest(moved)


def test_the_file_of_code_counts_but_for_talrs_own_and_pythons():
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    for made in (sys.modules[__name__], Own, Own(), test_any_changed_value_is_another_run):
        assert code_digest(made) == own
    assert code_digest(pytest) == file_digest(Path(pytest.__file__))
    for made in (RunDirectory, json, Path, 1, ModuleType("of_a_notebook")):
        assert code_digest(made) is None


class Own:
    """A class of another package."""


def test_a_large_file_is_read_once_for_all_runs_of_a_plan_until_it_changes(tmp_path, monkeypatch):
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind)
    )
    rows = tmp_path / "rows.jsonl"
    for content in (b"a" * LARGE, b"b" * LARGE):
        rows.write_bytes(content)
        os.utime(rows, ns=(0, 0))  # a copy may keep the time of what it was copied from
        found = {file_digest(rows) for _ in range(3)}
        assert found == {hashlib.sha256(content).hexdigest()}
    assert read == [str(rows)] * 2


def test_identity_is_stable_over_versions():
    # A changed recipe would make every finished run of every user unfindable.
    assert run_identity({"lr": 1e-6, "seed": 0}, {}) == EXPECTED


EXPECTED = "6b3dbb1cd53d806729009ef4eb4a2c0ae963034c86ff1ccc678ba48b04c53bb9"


def test_a_file_without_the_right_to_read_is_named(tmp_path, monkeypatch):
    """A training file or a file of a model, of another user in a folder that is shared."""
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    (tmp_path / "train.jsonl").touch()
    monkeypatch.setattr(Path, "open", Mock(side_effect=error))
    with pytest.raises(UserError, match=r"train\.jsonl cannot be read \(Permission denied\)"):
        file_digest(tmp_path / "train.jsonl")
