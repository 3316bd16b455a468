"""A damaged results.json is named, hides no other run, and gives no number."""

import copy
import json
import random

import pytest
from synthetic_study import results, scored, write_study

from talr_cli.errors import UserError
from talr_cli.runs.results import read_results
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_results, scored_runs


def whole_result():
    one = scored("sft", [1, 0, 1, 1], {"sums": [1, 0], "words": [0, 0, 1]}, id="a" * 8)
    one["domain"]["categories"] = {"lab": {"score": 0.5, "stderr": 0.1, "n": 2}}
    return one


def with_value(path, value):
    """`whole` with one value in place of another; `...` takes the key away."""
    one = copy.deepcopy(whole_result())
    *place, last = path.split(".")
    section = one
    for key in place:
        section = section[key]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return one


@pytest.fixture
def study(tmp_path):
    write_study(tmp_path, [results("talr", id="b" * 8), whole_result()])
    (path,) = tmp_path.glob("*/*/sft-*/results.json")
    return tmp_path, path


def methods(folder):
    return [one["run"]["method"] for one in load_results(folder, "s")]


def test_what_was_written_is_read(study):
    folder, path = study
    assert read_results(path) == whole_result()
    assert methods(folder) == ["sft", "talr"]
    for part in ("domain", "general", "drift", "training", "weights"):
        path.write_text(json.dumps(with_value(part, None)))
        assert read_results(path)[part] is None


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("domain", ..., "domain is missing"),
        ("run.base", ..., "run.base is missing"),
        ("run.model", None, "run.model is null, not text"),
        ("run.lr", "1e-6", 'run.lr is "1e-6", not a number above 0'),
        ("run.lr", -1e-6, "run.lr is -1e-06, not a number above 0"),
        ("domain.score", "0.75", 'domain.score is "0.75", not a number'),
        ("domain.score", True, "domain.score is true, not a number"),
        ("domain.score", 0.25, "domain: the score 0.25 is not the mean 0.75 of its parts"),
        ("domain.stderr", -0.1, "domain.stderr is -0.1, not a number from 0"),
        ("domain.items.2", None, "domain.items.2 is null, not a number"),
        ("domain.items.2", 0.0, "domain: the score 0.75 is not the mean 0.5"),
        ("domain.items_hash", ..., "domain.items_hash is missing"),
        ("domain.n", 5, "domain: n is 5, not "),
        ("domain.processes", 10**400, "domain.processes is"),
        ("domain.limit", "all", 'domain.limit is "all", not a count'),
        ("domain.answer_by", True, "domain.answer_by is true, not text"),
        ("domain.categories.lab", 0.5, "domain.categories.lab is 0.5, not an object"),
        ("general.tasks", [], "general.tasks is [], not an object"),
        ("general.tasks.sums.n", 2.5, "general.tasks.sums.n is 2.5, not a count"),
        ("general.tasks.sums.score", 0.9, "general.sums: the score 0.9 is not the mean 0.5"),
        ("general.score", 0.9, "general: the score 0.9 is not the mean"),
        ("training.steps", "many", "training.steps is"),
        ("training.timed_steps", {}, "training.timed_steps is {}, not a count"),
        ("training.rows", [24], "training.rows is [24], not a count"),
        ("weights.averaged", {"alpha": "half", "of": "x"}, "weights.averaged.alpha is"),
        ("versions", None, "versions is null, not an object"),
        ("schema", "2", "schema is"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(study, caplog, path, value, said):
    folder, file = study
    file.write_text(json.dumps(with_value(path, value)))
    with pytest.raises(UserError) as error:
        read_results(file)
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert methods(folder) == ["talr"]
    (record,) = caplog.records
    assert said in record.getMessage()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema": 2, "run": 1e999}',
        b"NaN",
    ],
)
def test_content_that_is_no_results_json_is_left_out_with_one_line(study, caplog, content):
    folder, file = study
    file.write_bytes(content)
    assert methods(folder) == ["talr"]
    assert len(caplog.records) == 1
    assert RunDirectory(file.parent).read_results() is None


def test_a_file_that_was_cut_anywhere_gives_nothing(study):
    _, file = study
    text = file.read_bytes()
    for end in range(0, len(text) - 2, 97):
        file.write_bytes(text[:end])
        with pytest.raises(UserError):
            read_results(file)


def test_a_flipped_byte_changes_no_score(study):
    """It is noticed, or it hit something that is no score, such as the name of a device."""
    _, file = study
    text = file.read_bytes()
    generator = random.Random(0)
    for _ in range(300):
        place = generator.randrange(len(text))
        flipped = bytes([text[place] ^ 1 << generator.randrange(8)])
        file.write_bytes(text[:place] + flipped + text[place + 1 :])
        try:
            found = read_results(file)
        except UserError:
            continue
        for part in ("domain", "general"):
            assert found[part]["score"] == pytest.approx(whole_result()[part]["score"], abs=2e-6)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", 10**400),
        ("versions", {"x" * 10_000: 1}),
        ("run.lr", "x" * 10_000),
    ],
)
def test_a_value_or_name_of_any_length_makes_no_long_line(study, path, value):
    _, file = study
    file.write_text(json.dumps(with_value(path, value)))
    with pytest.raises(UserError, match=r"overrides\.yaml") as error:
        read_results(file)
    assert len(str(error.value).replace(str(file.parent), "")) < 500


def test_results_of_another_schema_say_what_to_type(study):
    _, file = study
    file.write_text(json.dumps(with_value("schema", 1)))
    with pytest.raises(UserError, match=r"schema 1, not 2.*arguments are in .*overrides\.yaml"):
        read_results(file)
    (file.parent / "model").mkdir()
    with pytest.raises(UserError, match=r"overrides\.yaml: it only scores again"):
        read_results(file)


def test_a_study_of_unreadable_results_is_not_called_unscored(study):
    folder, _ = study
    for file in folder.glob("*/*/*/results.json"):
        file.write_text('{"schema": 1}')
    with pytest.raises(UserError, match="can be read: score the runs again"):
        scored_runs(folder, "s")
    assert load_results(folder, "absent") == []
