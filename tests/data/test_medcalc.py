"""MedCalc-Bench's rows from its own files: splits, prompts, categories and what is reported."""

import csv
import json

import pytest
from conftest import config

from talr_cli.data.medcalc import MedCalc
from talr_cli.errors import UserError
from talr_cli.run.identity import identity, scored_data


def test_every_real_row_is_read_and_its_own_answer_is_right(real_data):
    own = MedCalc(
        path=str(real_data / "medcalc_train.csv"), test_path=str(real_data / "medcalc_dev.csv")
    )
    loaded = own.load()
    assert own.load_test().test == loaded.test
    assert len(loaded.train) + len(loaded.validation) == 1006
    assert len(loaded.test) == 419
    for example in (*loaded.train, *loaded.test):
        assert loaded.scorer(example.completion, example.reference).correct, example.id


def test_one_file_is_split_by_patient_note(real_data):
    path = real_data / "medcalc_dev.csv"
    own = MedCalc(path=str(path))
    loaded = own.load()
    assert own.load_test().test == loaded.test, "a share of its only file"
    with path.open(newline="") as file:
        note = {row["Row Number"]: row["Note ID"] for row in csv.DictReader(file)}
    notes = [
        {note[example.id.rpartition(":")[2]] for example in rows}
        for rows in (loaded.train, loaded.validation, loaded.test)
    ]
    assert not notes[0] & notes[1]
    assert not notes[0] & notes[2]
    assert not notes[1] & notes[2]
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == 419
    assert 0.1 < len(loaded.test) / 419 < 0.3


def test_label_targets_hold_the_answer_alone(real_data):
    loaded = MedCalc(path=str(real_data / "medcalc_dev.csv"), target="label").load()
    example = loaded.train[0]
    assert example.completion == f"Answer: {example.reference['answer']}"


@pytest.mark.parametrize("target", ["explanation", "label"])
def test_the_benchmarks_own_prompt_asks_for_json_and_the_target_is_that_json(real_data, target):
    path = str(real_data / "medcalc_dev.csv")
    loaded = MedCalc(path=path, prompt="official", target=target).load()
    plain = MedCalc(path=path).load()
    for example, other in zip(loaded.train, plain.train, strict=True):
        assert [message["role"] for message in example.messages] == ["system", "user"]
        system, user = (message["content"] for message in example.messages)
        note, _, question = other.messages[0]["content"].partition("\n\nQuestion: ")
        note, question = note.removeprefix("Patient note: "), question.rpartition("\n\n")[0]
        assert user.startswith(
            f"Here is the patient note:\n{note}\n\nHere is the task:\n{question}\n\n"
        )
        record = json.loads(example.completion)
        assert "\\u" not in example.completion, "letters are written as they are"
        keys = ["step_by_step_thinking", "answer"] if target == "explanation" else ["answer"]
        assert list(record) == keys
        for key in keys:
            assert f'"{key}": str(' in system
            assert f'"{key}": str(' in user
        assert record["answer"] == example.reference["answer"]
        assert loaded.scorer(example.completion, example.reference).correct, example.id


def test_rows_know_their_category_and_do_without(tmp_path, real_data):
    with (real_data / "medcalc_dev.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    loaded = MedCalc(path=str(real_data / "medcalc_dev.csv"), test_share=0).load()
    category = {row["Calculator Name"]: row["Category"] for row in rows}
    assert all(one.category == category[one.group] for one in loaded.train)
    for row in rows:
        del row["Category"]
    with (tmp_path / "without.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    loaded = MedCalc(path=str(tmp_path / "without.csv"), test_share=0).load()
    assert {one.category for one in loaded.train} == {""}


def test_another_prompt_and_another_version_are_other_runs():
    base = config("train", "dataset=medcalc")
    changes = ["prompt=official", "revision=abc", "hub_id=ncbi/MedCalc-Bench-v1.2", "target=label"]
    changed = [config("train", "dataset=medcalc", f"dataset.{change}") for change in changes]
    assert len({identity(one, "m") for one in (base, *changed)}) == 5


def test_a_share_of_the_file_counts_for_scores_where_test_rows_are_one(real_data):
    path, test = (str(real_data / f"medcalc_{name}.csv") for name in ("train", "dev"))
    for given in ({}, {"path": path}, {"path": path, "test_path": test}):
        one, other = (scored_data(MedCalc(**given, test_share=share)) for share in (0.2, 0.3))
        assert (one != other) == (given == {"path": path})


def test_a_broken_record_is_named(tmp_path, real_data):
    with (real_data / "medcalc_dev.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:3]
    for name in ("good", "broken"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        rows[1]["Ground Truth Answer"] = "rather high"
        rows[2]["Ground Truth Explanation"] = ""
    own = MedCalc(path=str(tmp_path / "good.csv"), test_path=str(tmp_path / "broken.csv"))
    for load in (MedCalc(path=own.test_path).load, own.load, own.load_test):
        with pytest.raises(UserError) as error:
            load()
        assert "unknown form: rather high" in str(error.value)
        assert "has no Ground Truth Explanation" in str(error.value)


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("Question,Patient Note\nwhat?,none\n")
    with pytest.raises(UserError, match="lacks the columns Row Number"):
        MedCalc(path=str(tmp_path / "a.csv")).load()


def test_without_the_hub_the_option_to_give_a_file_is_named(no_hub):
    with pytest.raises(UserError, match=r"dataset\.path="):
        MedCalc(hub_id="nobody/nothing").load()
