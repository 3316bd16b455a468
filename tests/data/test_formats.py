"""The formats of rows that people have: what is asked, what is trained, what is refused by name."""

import json

import pytest
from conftest import jsonl

from talr_cli.data.jsonl import Jsonl
from talr_cli.errors import UserError
from talr_cli.scorers.user import UserScorer

ASKED = {"role": "user", "content": "Capital of Peru?"}
ANSWERED = {"role": "assistant", "content": "Lima."}
CALL = {"name": "weather", "arguments": {"city": "Oslo", "days": None}}
TOOL = {"name": "weather", "description": "Of a city", "parameters": {"type": "object"}}


def loaded(tmp_path, *rows, test=(), **values):
    """The splits of rows in a file."""
    for name, lines in (("train", rows), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text(jsonl(lines))
    if test:
        values["test"] = str(tmp_path / "test.jsonl")
    return Jsonl(train=str(tmp_path / "train.jsonl"), **values).load()


def one(tmp_path, row, **values):
    return loaded(tmp_path, row, **values).train[0]


def refusal(tmp_path, row, **values):
    with pytest.raises(UserError) as error:
        loaded(tmp_path, row, {"prompt": "fine", "completion": "fine"}, **values)
    message = str(error.value)
    assert message.startswith("1 of 2 rows are bad")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Capital of Peru?", "completion": "Lima."},
        {"prompt": "Capital of Peru?", "response": "Lima."},
        {"query": "Capital of Peru?", "response": "Lima."},
        {"question": "Capital of Peru?", "answer": "Lima."},
        {"question": "Capital of Peru?", "response": "Lima."},
        {"instruction": "Capital of Peru?", "input": "", "output": "Lima."},
        {"instruction": "Capital of Peru?", "context": "", "response": "Lima."},
        {"prompt": [ASKED], "completion": [ANSWERED]},
        {"prompt": [ASKED], "completion": "Lima."},
        {"prompt": json.dumps([ASKED]), "completion": json.dumps([ANSWERED])},
        {"messages": [ASKED, ANSWERED]},
        {"messages": json.dumps([ASKED, ANSWERED])},
        {
            "conversations": [
                {"from": "human", "value": "Capital of Peru?"},
                {"from": "gpt", "value": "Lima."},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Capital of Peru?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Lima."}]},
            ]
        },
    ],
    ids=lambda row: "-".join(row),
)
def test_the_same_row_in_every_format(tmp_path, row):
    example = one(tmp_path, row)
    assert (example.messages, example.completion) == ((ASKED,), "Lima.")
    assert example.reference == {"answer": "Lima."}
    assert example.conversation == (ASKED, ANSWERED)


def test_alpacas_columns_are_all_used(tmp_path):
    row = {
        "instruction": "Translate.",
        "input": "dog",
        "output": "Hund",
        "system": "You know German.",
        "history": [["Translate. cat", "Katze"]],
    }
    example = one(tmp_path, row)
    assert [(part["role"], part["content"]) for part in example.conversation] == [
        ("system", "You know German."),
        ("user", "Translate. cat"),
        ("assistant", "Katze"),
        ("user", "Translate.\ndog"),
        ("assistant", "Hund"),
    ]
    assert example.turns == ()
    assert one(tmp_path, row, train_on="all").turns == (2,)


@pytest.mark.parametrize(
    ("row", "system"),
    [
        ({"prompt": "a", "completion": "b", "system": "s"}, "s"),
        ({"messages": [ASKED, ANSWERED], "system": "s"}, "s"),
        ({"messages": [{"role": "developer", "content": "d"}, ASKED, ANSWERED]}, "d"),
        ({"system": "s", "messages": [{"role": "system", "content": "s"}, ASKED, ANSWERED]}, "s"),
        ({"question": "a", "response": "b", "system_prompt": "s"}, "s"),
    ],
)
def test_a_system_column_comes_first(tmp_path, row, system):
    roles = [part["role"] for part in one(tmp_path, row).messages]
    assert roles == ["system", "user"]
    assert one(tmp_path, row).messages[0]["content"] == system


def test_tools_calls_and_reasoning_reach_the_template(tmp_path):
    row = {
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": "Weather in Oslo?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {**CALL, "arguments": json.dumps(CALL["arguments"])},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"},
            {"role": "assistant", "content": "Four.", "reasoning_content": "It says 4."},
        ],
    }
    example = one(tmp_path, row)
    assert example.tools == ({"type": "function", "function": TOOL},)
    # Templates write arguments as JSON: text would come out in quotes.
    assert example.messages[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "c1", "function": CALL}],
    }
    assert example.messages[2]["tool_call_id"] == "c1"
    assert example.reply == row["messages"][-1]


def test_sharegpts_calls_are_calls(tmp_path):
    row = {
        "conversations": [
            {"from": "human", "value": "Weather in Oslo?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "4 degrees"},
            {"from": "gpt", "value": "Four."},
        ],
        "tools": json.dumps([TOOL]),
    }
    example = one(tmp_path, row, train_on="all")
    assert example.messages[1]["tool_calls"] == [{"type": "function", "function": CALL}]
    assert example.messages[2] == {"role": "tool", "content": "4 degrees"}
    assert example.turns == (1,)


def test_openais_older_functions_are_tools(tmp_path):
    """Fine-tuning files of 2023 have them: one call a message, without an id."""
    older = {**CALL, "arguments": json.dumps(CALL["arguments"])}
    row = {
        "messages": [
            {"role": "user", "content": "Weather in Oslo?"},
            {"role": "assistant", "content": None, "function_call": older},
            {"role": "function", "name": "weather", "content": "4 degrees"},
            {"role": "assistant", "content": "Four.", "function_call": None},
        ],
        "functions": [TOOL],
    }
    example = one(tmp_path, row, train_on="all")
    assert example.messages[1]["tool_calls"] == [{"type": "function", "function": CALL}]
    assert example.messages[2] == {"role": "tool", "content": "4 degrees", "name": "weather"}
    assert example.tools == ({"type": "function", "function": TOOL},)
    assert (example.turns, example.completion) == ((1,), "Four.")
    both = {"role": "assistant", "tool_calls": [CALL], "function_call": CALL}
    assert "with function_call, which is not known" in refusal(
        tmp_path, {"messages": [ASKED, both]}
    )
    assert "has functions beside messages" in refusal(tmp_path, {**row, "tools": [TOOL]})


@pytest.mark.parametrize("given", [{}, {"arguments": None}, {"arguments": ""}, {"arguments": "{}"}])
def test_a_call_may_have_no_arguments(tmp_path, given):
    row = {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"name": "now", **given}]}]}
    called = {"type": "function", "function": {"name": "now", "arguments": {}}}
    assert one(tmp_path, row, scorer="none").reply["tool_calls"] == [called]


def test_a_call_can_be_what_is_trained_and_not_what_is_compared(tmp_path):
    call = {"role": "assistant", "tool_calls": [CALL]}
    row = {"messages": [ASKED, call]}
    example = one(tmp_path, row, scorer="none")
    assert example.completion == ""
    assert example.reply["tool_calls"] == [{"type": "function", "function": CALL}]
    with pytest.raises(UserError, match=r"test\.jsonl:1 has no answer to compare with"):
        loaded(tmp_path, row, test=[row])
    answered = {**row, "answer": "weather(Oslo)"}
    assert loaded(tmp_path, row, test=[answered]).test[0].reference["answer"] == "weather(Oslo)"


THREE = [ASKED, ANSWERED, {"role": "user", "content": "Of Chile?"}]
SANTIAGO = {"role": "assistant", "content": "Santiago."}


def test_which_answers_of_several_are_trained_is_chosen_and_said(tmp_path, caplog):
    row = {"messages": [*THREE, SANTIAGO]}
    last = one(tmp_path, row)
    assert (last.messages, last.turns, last.completion) == (tuple(THREE), (), "Santiago.")
    assert "1 of 1 training rows have several answers: dataset.train_on=last" in caplog.text
    own = str(tmp_path / "train.jsonl")
    splits = loaded(tmp_path, row, test=[row], validation=own, train_on="all", max_overlap=1.0)
    assert splits.train[0].turns == splits.validation[0].turns == (1,)
    assert splits.test[0].turns == ()
    assert "dataset.train_on=all trains all of each" in caplog.text


def test_a_message_that_answers_nothing_is_not_trained(tmp_path):
    row = {"messages": [{"role": "assistant", "content": "Hello!"}, *THREE, SANTIAGO]}
    assert one(tmp_path, row, train_on="all").turns == (2,)


@pytest.mark.parametrize("train_on", ["last", "all"])
@pytest.mark.parametrize(
    ("first", "second", "completion", "turns"),
    [
        ({"weight": 1}, {"weight": 0}, "Lima.", ()),
        ({}, {"weight": 0}, "Lima.", ()),
        ({"weight": 0}, {"weight": 1}, "Santiago.", ()),
        ({"train": False}, {}, "Santiago.", ()),
        ({"loss": True}, {}, "Santiago.", (1,)),
    ],
)
def test_flags_of_messages_decide_what_is_trained(
    tmp_path, train_on, first, second, completion, turns
):
    row = {"messages": [ASKED, {**ANSWERED, **first}, THREE[2], {**SANTIAGO, **second}]}
    example = one(tmp_path, row, train_on=train_on)
    assert (example.completion, example.turns) == (completion, turns)
    assert not {"weight", "train", "loss"} & {key for part in example.messages for key in part}
    # What follows the last trained answer cannot change anything.
    assert len(example.messages) == (3 if completion == "Santiago." else 1)


def message(**values):
    return {"messages": [ASKED, {**ANSWERED, **values}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "completion": "b", "input": "c"}, "has input beside completion, prompt"),
        ({"prompt": "a", "completion": "b", "images": ["c"]}, "has images beside"),
        ({"question": "a", "answer": "b", "context": "c"}, "has context beside answer, question"),
        ({"instruction": "a", "response": "b", "context": "c"}, "has context beside instruction"),
        ({"question": "a", "answer": "4", "completion": "so 4"}, "has completion beside answer"),
        ({"question": "a", "answer": "4", "response": "so 4"}, "has response beside answer"),
        ({"question": "a", "answer": "4", "prompt": "Q: a"}, "has prompt beside answer"),
        ({"prompt": "a", "completion": "b", "system": "s", "system_prompt": "t"}, "system_prompt"),
        ({"prompt": "\u200b", "completion": "b"}, "has nothing in prompt."),
        ({"messages": [], "source": "web"}, "has nothing in messages."),
        ({"conversations": None, "prompt": " "}, "has nothing in conversations and prompt."),
        ({"messages": [], "question": "a"}, "has no answer or response, and nothing in messages."),
        (message(**{"from": "human"}), "a message whose role and from say different things"),
        (message(value="Quito."), "a message whose content and value say different things"),
        ({"messages": [ASKED, ANSWERED], "history": [["a", "b"]]}, "a history beside messages"),
        ({"messages": [ASKED, ANSWERED], "instruction": "a"}, "has instruction beside messages"),
        ({"prompt": "a", "completion": "b", "history": ["c"]}, "not a list of pairs"),
        (
            {"system": "s", "messages": [{"role": "system", "content": "t"}, ASKED, ANSWERED]},
            "a system beside another system message",
        ),
        ({"prompt": "a", "output": "b"}, "has no completion or response, but output."),
        ({"prompt": "a"}, "has no completion or response."),
        ({"text": "a", "meta": "b"}, "has the columns text, meta; wanted are messages or"),
        ({"prompt": "a", "completion": "b", "tools": [{"x": 1}]}, "has a tool without a name"),
        ({"prompt": "a", "completion": "b", "tools": "{"}, "has tools that are not JSON"),
        (message(prefix=True), "has a message of the assistant with prefix, which is not known"),
        (message(role="critic"), "has a message of the role critic"),
        (message(role=None), "has a message of the role None"),
        (message(content=7), "has a content that is not text but int"),
        (message(content=""), "has an empty assistant message"),
        (message(content=[{"type": "image_url"}]), "with a part of the kind image_url"),
        (message(tool_calls=[{"id": "c"}]), "has a tool call without a name"),
        (message(tool_calls=[{"name": "f", "arguments": "{"}]), "has arguments that are not JSON"),
        (message(weight=0), "has no message of the assistant that is to be trained"),
        (message(weight=0.5), "has a message with weight=0.5"),
        (message(weight=1, train=False), "whose weight and train say different things"),
        ({"messages": [{**ASKED, "weight": 1}, ANSWERED]}, "has a user message with weight=1"),
        ({"messages": [{**ASKED, "reasoning_content": "x"}, ANSWERED]}, "with reasoning_content"),
        ({"messages": [ASKED]}, "do not end with the assistant's answer"),
        ({"messages": "[]", "system": "s"}, "do not end with the assistant's answer"),
        ({"messages": ["a", "b"]}, "has messages that are not objects"),
        ({"messages": "a"}, "has messages that are not JSON"),
        (
            {"messages": '[{"role": "user", "content": "\\ud83d"}, {"role": "assistant"}]'},
            "has messages that are not JSON",
        ),
    ],
)
def test_columns_and_keys_that_would_be_lost_are_refused_by_name(tmp_path, row, reason):
    assert reason in refusal(tmp_path, row)


@pytest.mark.parametrize("text", ["[INST] a", "[1, 2]", "[]", '[{"a": 1}]', '{"role": "user"}'])
def test_a_prompt_with_brackets_is_a_text(tmp_path, text):
    example = one(tmp_path, {"prompt": text, "completion": "b", "context": "c", "question": "d"})
    assert example.messages == ({"role": "user", "content": text},)


def test_rows_of_an_unknown_format_give_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        loaded(tmp_path, *[{"text": "a"}] * 30)
    message = str(error.value)
    assert "each of its 30 rows has the columns text; wanted are messages or" in message
    assert message.count("text") == 1
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,b\nc,d\n")
    with pytest.raises(UserError, match="each of its 2 rows has the columns text, label"):
        Jsonl(train=str(file), test=str(file)).load()


def test_columns_that_no_model_sees_are_named_once_and_kept_for_a_scorer(tmp_path, caplog):
    row = {"prompt": "a", "completion": "b", "answer": "", "source": "web", "level": 3}
    seen = []

    def judge(output, reference):
        seen.append(reference)
        return True

    splits = loaded(tmp_path, row, row, row, test=[row], scorer=UserScorer(judge, "a.judge"))
    assert len(splits.train) == 3
    assert caplog.text.count("columns that no model sees: level, source") == 1
    assert seen == [{"answer": "b", "source": "web", "level": 3}]


def test_choices_are_asked_of_test_rows_only(tmp_path):
    row = {"prompt": "a", "completion": "b"}
    test = {**row, "prompt": "c", "choices": '["b", "d"]'}
    assert loaded(tmp_path, row, test=[test], scorer="choice").test[0].reference == {
        "answer": "b",
        "choices": ["b", "d"],
    }
    with pytest.raises(UserError, match=r"test\.jsonl:1 has no list of choices"):
        loaded(tmp_path, test, test=[row], scorer="choice")
    for choices, reason in (
        (["b", ""], "not all texts or numbers"),
        (["b", None], "not all texts or numbers"),
        ([{"label": "b"}, {"label": "d"}], "not all texts or numbers"),
        (["b", "B."], "two choices that are read alike"),
    ):
        with pytest.raises(UserError, match=reason):
            loaded(tmp_path, row, test=[{**test, "choices": choices}], scorer="choice")
