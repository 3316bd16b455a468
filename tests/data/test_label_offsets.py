"""The targets of rows, for tokenizers of several kinds, held to the places of their characters."""

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from talr_cli.data.base import Example
from talr_cli.data.rendering import Renderer

SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ASKED = "What is 2+2?"
ANSWERS = (
    "42.5 mg",
    "  indented",
    "\tx",
    "😀 ok",
    "北京",
    "é",
    "Hello.\n\nHow are you?",
    "x  ",
    ".",
)
TRAINED_ON = [ASKED, "It is 4. And now? user assistant [INST] [/INST] Hello, how are you?   ok\tx"]
CHATML = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}
{% else %}{{ m['content'] }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
INST = """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' -%}
[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}
{%- endfor %}"""


def byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return made, trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )


def sentence_piece(scheme="always", whole=False):
    """As of Llama 2: a space is put before texts, and what it does not know are bytes."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme)
    if whole:
        made.pre_tokenizer = None
        spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        made.normalizer = normalizers.Sequence(spaces)
    made.decoder = decoders.Metaspace("▁", scheme)
    return made, trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=BYTES, show_progress=False
    )


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (INST, "</s>")])
@pytest.mark.parametrize(
    "made",
    [
        byte_level(),
        sentence_piece(),
        sentence_piece("first"),
        sentence_piece("never"),
        sentence_piece(whole=True),
    ],
)
def test_the_targets_are_the_characters_of_the_answers_and_their_ends(made, template, end):
    tokenizer, trainer = made
    tokenizer.train_from_iterator(TRAINED_ON * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    renderer = Renderer(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
            pad_token="</s>", chat_template=template,
        ),
        {},
    )  # fmt: skip
    user, earlier = {"role": "user", "content": ASKED}, {"role": "assistant", "content": "It is 4."}
    for answer in ANSWERS:
        example = Example("row", (user, earlier, user), answer, turns=(1,))
        whole = renderer.prompt(example.conversation).removesuffix("<|im_start|>assistant\n")
        spans, begin = [], 0
        for text in ("It is 4.", answer):
            begin = whole.index(ASKED, begin) + len(ASKED)
            header = " [/INST]" if end == "</s>" else "<|im_end|>\n<|im_start|>assistant\n"
            start = begin + len(header)
            assert whole[begin:start] == header
            begin = whole.index(end, start) + len(end)
            assert whole[start:begin].strip() == f"{text}{end}".strip()
            spans.append((start, begin))
        encoded = renderer.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        row = renderer.encode(example)
        if tokenizer.pre_tokenizer is None and row.tokenized_apart:
            continue  # "]▁" is a token, over the end of the prompt
        assert row.input_ids == encoded.input_ids
        is_target = [
            any(start <= first and last <= stop for start, stop in spans)
            for first, last in encoded.offset_mapping
        ]
        assert [label != -100 for label in row.labels] == is_target
