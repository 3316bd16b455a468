"""Which part of an output is the answer, by the marks that models put around their thoughts."""

import copy

import pytest

from talr_cli.data.rendering import Renderer
from talr_cli.scorers.thoughts import without_thoughts

PAIRS = [
    ("<think>", "</think>"),
    ("<THINK>", "</THINK>"),
    ("<thinking>", "</thinking>"),
    ("<Thought>", "</Thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("Here is my thought process:", "Here is my response:"),
]


@pytest.mark.parametrize(("start", "end"), PAIRS)
def test_thoughts_within_every_pair_of_marks_are_removed(start, end):
    assert without_thoughts(f"{start}Is it 4? No.{end}\n\n5") == "5"
    assert without_thoughts(f"Is it 4? No.{end} 5") == "5"  # opened by the prompt
    assert without_thoughts(f"{start}Is it 4? No, 5") == ""
    assert without_thoughts(f"{start}4?{end}4{start}5?{end}5") == "5"
    assert without_thoughts(f"{start}4?{end}\n{start}5?") == ""
    assert without_thoughts(f"{start}4? {start}No.{end} 5") == "5"
    assert without_thoughts(f"5\n{start}I checked it, 4 is wrong.{end}\n") == "5"
    assert without_thoughts(f"5\n{start}Is it 4?") == "5"


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("Five.", "Five."),
        (" Five.\n", " Five.\n"),
        ("", ""),
        ("<think></think>", ""),
        ("I <think> so.", "I <think> so."),
        ("<think>4?</think>I <think> so.", "I <think> so."),
        ("4? <think>No.</think> Or 6?</think>", ""),
        ("Write `</think>` behind it.", "Write `</think>` behind it."),
        ("My reasoning: [think] of 5", "My reasoning: [think] of 5"),
        ("<reasoning>4?</reasoning>\n<answer>\n5\n</answer>\n", "<answer>\n5\n</answer>"),
        ("<r><answer>5</answer><reasoning>4?</reasoning></r>", "<r><answer>5</answer>"),
        ("<think>4?</think><response>5</response>", "5"),
        ("<think>4?</think>\n<output>5</output>", "5"),
        ("<think>4?</think><response>5", "5"),
        ("There is my thought process: 5", "There is my thought process: 5"),
        ("Let there be 5. There is my response: 5", "Let there be 5. There is my response: 5"),
        ("4?<|end_of_thought|>\n<|begin_of_solution|>5<|end_of_solution|>", "5"),
        ("<|START_THINKING|>4?<|END_THINKING|><|START_RESPONSE|>5<|END_RESPONSE|>", "5"),
        ("<|START_THINKING|>4?<|END_THINKING|><|START_RESPONSE|>5", "5"),
        ("<|START_THINKING|>4?<|END_THINKING|>5<|END_RESPONSE|>", "5"),
        ("<|START_RESPONSE|>5 <|END_RESPONSE|>", "5 "),
        ("5<|END_RESPONSE|>", "5"),
        ("<|channel|>analysis<|message|>4<|end|><|start|>a<|channel|>final<|message|>5", "5"),
        ("<|channel|>final<|message|>5<|return|>", "5"),
        ("<|channel|>final<|message|>5<|end|>6", "5"),
        ("<|channel|>final<|message|>5<|start|>user", "5"),
        ("<|channel|>final<|message|>5<|message|>6", "5<|message|>6"),
        ("<|channel|>analysis<|channel|>final<|message|>5", "5"),
        ("<out><think>4?</think></out>", ""),
        ("<|channel|>final <|constrain|>json<|message|>{}", "{}"),
        ("<|channel|>analysis<|message|>Is it 4?", ""),
        ("<|channel|>final<|message|>4<|end|><|start|>a<|channel|>analysis<|message|>5", ""),
    ],
)  # fmt: skip
def test_the_answer_that_is_left_without_thoughts(output, answer):
    assert without_thoughts(output) == answer


def test_long_repetitions_are_read_at_once():
    for piece in (
        "<think>",
        "</think>",
        "<think></think>",
        "<|channel|>",
        "<response>",
        "[THINK]\n",
    ):
        without_thoughts(piece * 20_000)


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (("[THINK]", "[/THINK]"), "[THINK]4?[/THINK]5"),
        *(
            (marks, "{}4?{}{}5{}".format(*marks))
            for marks in (
                (
                    "<|START_THINKING|>",
                    "<|END_THINKING|>",
                    "<|START_RESPONSE|>",
                    "<|END_RESPONSE|>",
                ),
                (
                    *("<|begin_of_thought|>", "<|end_of_thought|>"),
                    *("<|begin_of_solution|>", "<|end_of_solution|>"),
                ),
            )
        ),
        (
            ("<|channel|>", "<|message|>", "<|start|>", "<|end|>"),
            "<|channel|>analysis<|message|>4?<|end|><|start|>assistant<|channel|>final<|message|>5",
        ),
    ],
)
def test_marks_that_are_special_tokens_are_seen_and_others_are_not(renderer, marks, said):
    """Decoded without its special tokens such an answer would begin with the thought."""
    tokenizer = copy.deepcopy(renderer.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [*marks, "<|other|>"]})
    marked = Renderer(tokenizer, {})
    tokens = tokenizer(f"<|other|>{said}<|other|>", add_special_tokens=False).input_ids
    assert marked.decode_answer([*tokens, marked.end_of_turn, *tokens]) == said
    assert without_thoughts(marked.decode(tokens)) == "5"
    plain = tokenizer("<|other|>4? 5", add_special_tokens=False).input_ids
    assert marked.decode_answer(plain) == "4? 5"
