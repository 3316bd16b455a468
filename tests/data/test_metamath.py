"""MetaMathQA: which rows are trained on, and the test rows of both benchmarks."""

import json

import pytest
from conftest import config, jsonl

from talr_cli.data import metamath
from talr_cli.data.metamath import MetaMath
from talr_cli.errors import UserError

KINDS = ("GSM_Rephrased", "GSM_SV", "GSM_FOBAR", "MATH_AnsAug")


def row(problem, kind):
    return {
        "query": f"Problem {problem} as {kind}: what is {problem} + 1?",
        "response": f"{problem} + 1 = {problem + 1}.\n#### {problem + 1}\nThe answer is: "
        f"{problem + 1}",
        "type": kind,
        "original_question": f"What is {problem} + 1?",
    }


ROWS = [row(problem, kind) for problem in range(200) for kind in KINDS]
GSM8K = {"question": "What is 2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}


def problem_of(example):
    return example.messages[0]["content"].split()[1]


@pytest.fixture
def files(tmp_path):
    """The training rows as the hub has them, one JSON array, and one test row."""
    (tmp_path / "train.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "test.jsonl").write_text(json.dumps(GSM8K) + "\n")
    return {"path": str(tmp_path / "train.json"), "test_path": str(tmp_path / "test.jsonl")}


def test_rows_become_prompt_and_response(files):
    loaded = MetaMath(**files, validation_share=0.0).load()
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (800, 0, 1)
    first = loaded.train[0]
    assert first.messages[0]["content"].startswith(ROWS[0]["query"])
    assert first.completion == ROWS[0]["response"]
    assert first.group == "GSM_Rephrased"
    assert len({example.id for example in loaded.train}) == 800


def test_training_and_test_prompts_ask_in_the_same_words(files):
    loaded = MetaMath(**files, validation_share=0.0).load()
    how = loaded.train[0].messages[0]["content"].removeprefix(ROWS[0]["query"])
    assert loaded.test[0].messages[0]["content"] == GSM8K["question"] + how
    assert "The answer is:" in how


def test_no_original_question_is_in_training_and_validation(files):
    loaded = MetaMath(**files, validation_share=0.2).load()
    assert len(loaded.train) + len(loaded.validation) == 800
    assert 0.1 < len(loaded.validation) / 800 < 0.3
    held_out = {problem_of(example) for example in loaded.validation}
    assert not held_out & {problem_of(example) for example in loaded.train}
    assert len(loaded.validation) == len(KINDS) * len(held_out)


def test_the_drawn_rows_depend_on_data_seed_alone_and_grow_by_addition(files):
    def drawn(**values):
        return [example.id for example in MetaMath(**files, **values).load().train]

    assert drawn(train_rows=50) == drawn(train_rows=50)
    assert drawn(train_rows=120)[:50] == drawn(train_rows=50)
    assert len(set(drawn(train_rows=120))) == 120
    assert set(drawn(train_rows=50)) != set(drawn(train_rows=50, data_seed=1))
    assert set(drawn(train_rows=50)) != set(drawn()[:50])


@pytest.mark.parametrize("train_rows", [0, -1, 801])
def test_a_number_of_rows_that_there_is_not_is_refused(files, train_rows):
    with pytest.raises(UserError, match=f"dataset.train_rows={train_rows} is not between 1 and"):
        MetaMath(**files, train_rows=train_rows).load()


def test_the_real_gsm8k_rows_and_their_gold_answers(files, real_data):
    files["test_path"] = str(real_data / "gsm8k_test.jsonl")
    loaded = MetaMath(**files).load()
    assert len(loaded.test) == 1319
    assert MetaMath(**files).load_test().test == loaded.test
    for example in loaded.test:
        assert loaded.scorer(example.completion, example.reference).correct, example.id


def test_math_rows_take_the_answer_or_the_box_of_the_solution(tmp_path, files, monkeypatch):
    # Which rows there are does not depend on the package that compares their answers.
    monkeypatch.setitem(metamath._SCORERS, "math", lambda: None)
    rows = [
        {
            "problem": "Halve 1.",
            "solution": "It is \\boxed{0.5}.",
            "answer": "\\frac{1}{2}",
            "subject": "Prealgebra",
        },
        {
            "problem": "Which point?",
            "solution": "Not \\boxed{1} but $\\boxed{\\left(\\frac{\\sqrt{3}}{2}, 1\\right)}$.",
            "type": "Geometry",
        },
        {"problem": "How many?", "solution": "There are $\\boxed 7$ of them."},
    ]
    path = tmp_path / "math.jsonl"
    path.write_text(jsonl(rows))
    files["test_path"] = str(path)
    test = MetaMath(**files, benchmark="math").load().test
    assert [example.reference["answer"] for example in test] == [
        "\\frac{1}{2}",
        "\\left(\\frac{\\sqrt{3}}{2}, 1\\right)",
        "7",
    ]
    assert [example.group for example in test] == ["Prealgebra", "Geometry", ""]


def test_bad_rows_of_both_files_are_named_together(tmp_path, files):
    (tmp_path / "train.json").write_text(json.dumps([ROWS[0], {**ROWS[1], "response": " "}]))
    answers = ("It is 4.", "so #### four", "#### Two steps\n2 + 2 = 4\n#### 4")  # the last is good
    lines = [GSM8K, *({**GSM8K, "answer": answer} for answer in answers)]
    (tmp_path / "test.jsonl").write_text(jsonl(lines))
    with pytest.raises(UserError) as error:
        MetaMath(**files).load()
    message = str(error.value)
    assert message.startswith("3 of 6 rows are bad")
    assert "train.json:2 has no response" in message
    assert "test.jsonl:2, 3 has an answer without a number after ####" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("benchmark=aime", "dataset.benchmark=aime is not one of gsm8k, math"),
        ("validation_share=1.5", "dataset.validation_share=1.5 is outside"),
    ],
)
def test_values_out_of_range_are_refused(override, expected):
    with pytest.raises(UserError, match=expected):
        config("train", "dataset=metamath", f"dataset.{override}")


@pytest.mark.parametrize("given", ["path", "test_path"])
def test_without_the_hub_the_file_that_is_missing_is_named(files, given, no_hub):
    missing = "test_path" if given == "path" else "path"
    with pytest.raises(UserError, match=rf"dataset\.{missing}=FILE"):
        MetaMath(hub_id="nobody/nothing", **{given: files[given]}).load()


def test_the_config_reaches_the_dataset():
    composed = config("train", "dataset=metamath", "dataset.benchmark=math")
    assert (composed.dataset.benchmark, composed.dataset.train_rows) == ("math", None)
