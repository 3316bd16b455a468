"""MedCalc-Bench's rows from its own files: splits, prompts, categories and what is reported."""

import csv
import json

import pytest
from conftest import config

from talr_cli.data.medcalc import MedCalc
from talr_cli.errors import UserError
from talr_cli.run.identity import identity, scored_data

# Answer, lower and upper limit and category, in the four forms that the benchmark has.
FORMS = [
    ("141.042", "133.9899", "148.0941", "lab"),
    ("4", "4", "4", "risk"),
    ("08/31/2023", "08/31/2023", "08/31/2023", "date"),
    ("('17 weeks', '4 days')", "('17 weeks', '4 days')", "('17 weeks', '4 days')", "date"),
]


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def made_row(number):
    answer, lower, upper, category = FORMS[number % 4]
    return {
        "Row Number": number,
        "Calculator ID": number % 4,
        "Calculator Name": f"Calculator {number % 4}",
        "Category": category,
        "Note ID": f"note-{number // 3}",
        "Patient Note": f'Fall {number}: "39 °C",\n{100 + number} bpm, a man of {number} years.',
        "Question": f"What is the value of calculator {number % 4}?",
        "Ground Truth Answer": answer,
        "Lower Limit": lower,
        "Upper Limit": upper,
        "Ground Truth Explanation": f"From {number} µg follows {answer}.",
    }


@pytest.fixture(params=["made", "real"])
def files(request, tmp_path):
    """A file to train on and one of other notes."""
    if request.param == "real":
        folder = request.getfixturevalue("real_data")
        return folder / "medcalc_train.csv", folder / "medcalc_dev.csv"
    rows = [made_row(number) for number in range(240)]
    return write(tmp_path / "train.csv", rows[:120]), write(tmp_path / "dev.csv", rows[120:])


def test_every_row_is_read_and_its_own_answer_is_right(files):
    train, test = files
    own = MedCalc(path=str(train), test_path=str(test))
    loaded = own.load()
    assert own.load_test().test == loaded.test
    assert len(loaded.train) + len(loaded.validation) == len(read(train))
    given = {f"{test.stem}:{row['Row Number']}": row for row in read(test)}
    assert [example.id for example in loaded.test] == list(given)
    for example in (*loaded.train, *loaded.test):
        assert loaded.scorer(example.completion, example.reference).correct, example.id
    for example in loaded.test:
        row = given[example.id]
        (message,) = example.messages
        assert row["Patient Note"].strip() in message["content"]
        assert row["Question"].strip() in message["content"]
        answer = row["Ground Truth Answer"].strip()
        assert example.completion.endswith(f"\nAnswer: {answer}")
        assert example.completion.startswith(row["Ground Truth Explanation"].strip())


def test_one_file_is_split_by_patient_note(files):
    path = files[1]
    own = MedCalc(path=str(path))
    loaded = own.load()
    assert own.load_test().test == loaded.test, "a share of its only file"
    rows = read(path)
    note = {row["Row Number"]: row["Note ID"] for row in rows}
    notes = [
        {note[example.id.rpartition(":")[2]] for example in split}
        for split in (loaded.train, loaded.validation, loaded.test)
    ]
    assert not notes[0] & notes[1]
    assert not notes[0] & notes[2]
    assert not notes[1] & notes[2]
    assert sum(map(len, (loaded.train, loaded.validation, loaded.test))) == len(rows)
    assert 0.1 < len(loaded.test) / len(rows) < 0.3


def test_label_targets_hold_the_answer_alone(files):
    loaded = MedCalc(path=str(files[1]), target="label").load()
    for example in loaded.train:
        assert example.completion == f"Answer: {example.reference['answer']}"


@pytest.mark.parametrize("target", ["explanation", "label"])
def test_the_benchmarks_own_prompt_asks_for_json_and_the_target_is_that_json(files, target):
    path = str(files[1])
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


def test_rows_know_their_category_and_do_without(tmp_path, files):
    rows = read(files[1])
    loaded = MedCalc(path=str(files[1]), test_share=0).load()
    category = {row["Calculator Name"]: row["Category"] for row in rows}
    assert all(one.category == category[one.group] for one in loaded.train)
    for row in rows:
        del row["Category"]
    loaded = MedCalc(path=str(write(tmp_path / "without.csv", rows)), test_share=0).load()
    assert {one.category for one in loaded.train} == {""}


def test_another_prompt_and_another_version_are_other_runs():
    base = config("train", "dataset=medcalc")
    changes = ["prompt=official", "revision=abc", "hub_id=ncbi/MedCalc-Bench-v1.2", "target=label"]
    changed = [config("train", "dataset=medcalc", f"dataset.{change}") for change in changes]
    assert len({identity(one, "m") for one in (base, *changed)}) == 5


def test_a_share_of_the_file_counts_for_scores_where_test_rows_are_one(files):
    path, test = map(str, files)
    for given in ({}, {"path": path}, {"path": path, "test_path": test}):
        one, other = (scored_data(MedCalc(**given, test_share=share)) for share in (0.2, 0.3))
        assert (one != other) == (given == {"path": path})


def test_a_broken_record_is_named(tmp_path):
    rows = [made_row(number) for number in range(3)]
    good = write(tmp_path / "good.csv", rows)
    rows[1]["Ground Truth Answer"] = "rather high"
    rows[2]["Ground Truth Explanation"] = ""
    broken = write(tmp_path / "broken.csv", rows)
    own = MedCalc(path=str(good), test_path=str(broken))
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
