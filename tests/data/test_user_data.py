"""Files of rows: what is read, what is reported, and where."""

import csv
import json

import pytest

from talr_cli.data.jsonl import Jsonl
from talr_cli.errors import UserError

GOOD = {"prompt": "What is 2 + 2?", "completion": "It is 4.", "answer": "4"}
CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hi."},
    ]
}


def write(path, *lines):
    encoded = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(b"\n".join(encoded) + b"\n")
    return str(path)


def test_a_row_of_a_prompt_and_a_row_of_messages_are_read(tmp_path):
    named = {"group": "sums", "category": "maths"}
    path = write(tmp_path / "a.jsonl", {**GOOD, **named}, CONVERSATION)
    first, second = Jsonl(train=path).load().train
    twice = write(tmp_path / "twice.jsonl", *[{**GOOD, "id": "x"}] * 2)
    assert [row.id for row in Jsonl(train=path, test=twice).load().test] == ["x", "x#2"]
    assert [(row.group, row.category) for row in (first, second)] == [("sums", "maths"), ("", "")]
    assert Jsonl(train=path).name == Jsonl(train=[path, "b.csv"]).name == "a"
    assert Jsonl(hub_id="someone/rows").name == "rows"
    assert Jsonl(train=".hidden").name == ".hidden"
    assert first.messages == ({"role": "user", "content": "What is 2 + 2?"},)
    assert (first.completion, first.reference["answer"]) == ("It is 4.", "4")
    assert [message["role"] for message in second.messages] == ["system", "user"]
    assert (second.completion, second.reference["answer"]) == ("Hi.", "Hi.")


def test_some_of_the_training_rows_are_drawn_by_data_seed(tmp_path):
    path = write(
        tmp_path / "a.jsonl", *({**GOOD, "id": str(n), "prompt": f"{n}?"} for n in range(40))
    )

    def drawn(**values):
        splits = Jsonl(train=path, validation=path, test=path, **values).load()
        assert len(splits.validation) == len(splits.test) == 40
        return [row.id for row in splits.train]

    assert drawn(train_rows=20)[:9] == drawn(train_rows=9)
    assert len({*drawn(train_rows=20)}) == 20
    assert {*drawn(train_rows=40)} == {*drawn()}
    assert {*drawn(train_rows=9)} != {*drawn(train_rows=9, data_seed=1)} != {*drawn()[:9]}
    with pytest.raises(UserError, match=r"dataset\.train_rows=41 is not between 1 and the 40 rows"):
        drawn(train_rows=41)
    assert len(Jsonl(train=path, test=path, train_rows=41).load_test().test) == 40


def test_conversations_in_a_csv_are_json(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["messages"])
        writer.writerow([json.dumps(CONVERSATION["messages"])])
    assert Jsonl(train=str(tmp_path / "a.csv")).load().train[0].completion == "Hi."


def test_all_bad_rows_are_named_with_file_and_line(tmp_path):
    path = write(
        tmp_path / "bad.jsonl",
        GOOD,
        {"prompt": "no completion"},
        {**GOOD, "completion": "  "},
        b"\xff\xfe broken",
        {**GOOD, "prompt": 7},
        b"{not json",
        GOOD,
        {"messages": [{"role": "user", "content": "alone"}]},
        b"[1, 2]",
    )
    with pytest.raises(UserError) as error:
        Jsonl(train=path).load()
    message = str(error.value)
    assert message.startswith("7 of 9 rows are bad")
    for line, reason in (
        ("2, 3", "has no completion"),
        (4, "is not UTF-8"),
        (5, "has a prompt that is not text but int"),
        (6, "is not JSON"),
        (8, "do not end with the assistant"),
        (9, "is not a JSON object"),
    ):
        assert f"bad.jsonl:{line} " in message
        assert reason in message
    assert "\n" not in message


def test_a_bad_row_of_a_json_array_is_named(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([GOOD, "text", {"prompt": "x"}]))
    with pytest.raises(UserError) as error:
        Jsonl(train=str(tmp_path / "a.json")).load()
    assert "a.json:2 is not a JSON object" in str(error.value)
    assert "a.json:3 has no completion" in str(error.value)


def test_bad_rows_may_be_skipped_up_to_a_share(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", *[GOOD] * 9, {"prompt": "x"})
    loaded = Jsonl(train=path, on_bad_row="skip", max_bad_share=0.1).load()
    assert len(loaded.train) == 9
    assert "1 of 10 rows are bad" in caplog.text
    with pytest.raises(UserError, match="max_bad_share"):
        Jsonl(train=path, on_bad_row="skip", max_bad_share=0.09).load()


@pytest.mark.parametrize(("good", "share"), [(9, 0.1), (14, 0.07), (19, None)])
def test_the_suggested_values_leave_out_the_bad_rows(tmp_path, good, share):
    """Both values at once, and the second only where the default does not do."""
    path = write(tmp_path / "a.jsonl", *[GOOD] * good, {"prompt": "x"})
    values = {} if share is None else {"max_bad_share": share}
    typed = "dataset.on_bad_row=skip" + "".join(f" dataset.{k}={v:.2f}" for k, v in values.items())
    with pytest.raises(UserError) as error:
        Jsonl(train=path).load()
    assert str(error.value).endswith(f"leave them out with {typed}")
    assert len(Jsonl(train=path, on_bad_row="skip", **values).load().train) == good


def test_training_rows_can_be_judged_as_test_rows_are(tmp_path):
    """By replay=self; where nothing asks for it, choices may be missing."""
    row = {"prompt": "A or B?", "completion": "B", "choices": ["A", "B"]}
    splits = Jsonl(train=write(tmp_path / "a.jsonl", row, GOOD), scorer="choice").load()
    asked, without = splits.train
    assert splits.scorer("Answer: B", asked.reference).correct == 1
    assert splits.scorer("Answer: A", asked.reference).correct == 0
    assert "choices" not in without.reference


def test_a_long_list_of_bad_rows_is_cut(tmp_path):
    path = write(tmp_path / "a.jsonl", *[{"prompt": "x"}] * 50, GOOD)
    with pytest.raises(UserError, match=r"a\.jsonl:1, 2, .*, 20 and 30 more has no completion"):
        Jsonl(train=path).load()


def test_csv_lines_are_counted_in_the_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,completion\n"two\nlines",fine\nq,\xff\nonly one\nno, quotes, no\n')
    with pytest.raises(UserError) as error:
        Jsonl(train=str(path)).load()
    assert "a.csv:4 is not UTF-8" in str(error.value)
    assert "a.csv:5 has 1 fields, not 2" in str(error.value)
    assert "a.csv:6 has 3 fields, not 2" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.jsonl", None, "none.jsonl does not exist: give"),
        ("trian.jsonl", None, r"trian.jsonl does not exist \(did you mean \S+/train.jsonl\?\)"),
        ("empty.jsonl", b"", "is empty"),
        ("rows.txt", b"x", "does not end with .jsonl, .json, .csv, .tsv, .parquet"),
        ("rows.parquet", b"not parquet", "is not a Parquet file"),
        ("lines.json", b"{}\n{}\n", "each of its 2 rows has the columns"),
        ("object.json", b"{}", "is one JSON object, and none of its keys holds a list of rows"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, expected):
    (tmp_path / "train.jsonl").write_bytes(b"{}")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected):
        Jsonl(train=str(tmp_path / name)).load()


def test_an_unknown_scorer_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(UserError, match=r"dataset\.scorer=bleu"):
        Jsonl(train=path, scorer="bleu").load()


def test_no_scorer_means_nothing_to_score(tmp_path):
    path = write(tmp_path / "a.jsonl", GOOD)
    assert Jsonl(train=path, scorer="none").load().scorer is None
