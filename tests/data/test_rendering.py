"""What is trained on, decoded, for the chat templates of all configured models.

The tokenizers of the large models are on the hub; here each model's template, as TRL ships it,
runs on a tokenizer that knows the template's special tokens.
"""

from pathlib import Path

import pytest
import trl
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from talr_cli.data.base import Example
from talr_cli.data.rendering import IGNORED, Renderer, encode_all
from talr_cli.errors import UserError

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
EXAMPLE = Example(
    "one",
    ({"role": "user", "content": "What is 2 + 3?"},),
    "Two and three make five.\nAnswer: 5",
)


def character_tokenizer(template, special, bos=None, eos=None):
    """Every character is a token, every special token is one."""
    characters = {chr(code): code for code in range(128)}
    backend = Tokenizer(models.WordLevel(characters, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token=special[0]
    )
    tokenizer.chat_template = (TEMPLATES / template).read_text()
    return tokenizer


def chatml(template):
    return character_tokenizer(
        template, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|im_end|>"
    )


def gemma():
    special = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    return character_tokenizer("gemma3.jinja", special, bos="<bos>", eos="<eos>")


def decode(tokenizer, ids):
    return "".join(tokenizer.convert_ids_to_tokens(ids))


CASES = {
    "qwen2.5-3b": (lambda: chatml("qwen2_5.jinja"), {}, "<|im_end|>", "<|im_start|>assistant\n"),
    "qwen3-4b": (
        lambda: chatml("qwen3.jinja"),
        {"enable_thinking": False},
        "<|im_end|>",
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "gemma3-4b": (gemma, {}, "<end_of_turn>", "<start_of_turn>model\n"),
}


@pytest.mark.parametrize("model", CASES)
def test_targets_are_the_completion_and_the_end_of_the_turn(model):
    make, arguments, end, header = CASES[model]
    tokenizer = make()
    renderer = Renderer(tokenizer, arguments)
    rendered = renderer.encode(EXAMPLE)
    assert decode(tokenizer, rendered.targets) == EXAMPLE.completion + end
    prompt = decode(tokenizer, rendered.input_ids[: -len(rendered.targets)])
    assert prompt.endswith(header)
    assert renderer.end_of_turn == tokenizer.convert_tokens_to_ids(end)
    assert prompt.count("<bos>") == (1 if model == "gemma3-4b" else 0)


def test_targets_with_the_real_tokenizer_of_smollm2(tokenizer, renderer):
    rendered = renderer.encode(EXAMPLE)
    assert tokenizer.decode(rendered.targets) == EXAMPLE.completion + "<|im_end|>"
    prompt = tokenizer.decode(rendered.input_ids[: -len(rendered.targets)])
    assert prompt.endswith("What is 2 + 3?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.pad_token_id in rendered.targets  # pad = eos must not mask the end


def test_training_prompt_is_what_generation_sees(renderer):
    rendered = renderer.encode(EXAMPLE)
    prompt = renderer.prompt_ids(EXAMPLE.messages)
    assert rendered.input_ids[: len(prompt)] == prompt
    assert set(rendered.labels[: len(prompt)]) == {IGNORED}


def test_a_special_token_inside_the_completion_does_not_end_it(tokenizer, renderer):
    example = Example("x", EXAMPLE.messages, "one <|im_end|> two")
    assert tokenizer.decode(renderer.encode(example).targets).endswith(" two<|im_end|>")


def test_a_template_that_contradicts_its_prompt_is_refused():
    """Such as one whose generation prompt opens a thought that its answers do not have."""
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.chat_template += "{% if add_generation_prompt %}{{ '<think>' }}{% endif %}"
    with pytest.raises(UserError, match=r"model\.template_arguments"):
        Renderer(tokenizer, {})


def test_the_mark_shows_what_is_trained(renderer):
    shown = renderer.marked(renderer.encode(EXAMPLE))
    assert shown.endswith("⟦Two and three make five.\nAnswer: 5<|im_end|>⟧")


def test_long_rows_are_cut_and_those_without_a_target_are_named(renderer):
    long_answer = Example("answer", EXAMPLE.messages, "word " * 500)
    long_prompt = Example("prompt", ({"role": "user", "content": "word " * 500},), "yes")
    encoded = encode_all([EXAMPLE, long_answer, long_prompt], renderer, max_length=200)
    assert [len(row.input_ids) for row in encoded.rows][1:] == [200]
    assert encoded.rows[1].targets == encoded.rows[1].input_ids[-len(encoded.rows[1].targets) :]
    assert encoded.cut == 1
    assert len(encoded.without_target) == 1
    assert encoded.without_target[0].startswith("prompt (5")
