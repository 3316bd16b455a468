"""What is trained on, decoded, for the chat templates of all configured models.

The tokenizers of the large models are on the hub; here each model's template, as TRL ships it,
runs on a tokenizer that knows the template's special tokens.
"""

from pathlib import Path

import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from talr_cli.config import composition
from talr_cli.data.base import Example
from talr_cli.data.encoding import encode_all
from talr_cli.data.rendering import IGNORED, Renderer, RowError
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


def test_a_tokenizer_that_fails_or_has_no_tokens_is_one_line():
    """A pattern runs into the library's limit, which Rust says by no exception of Python's."""
    tokenizer = chatml("qwen3.jinja")
    renderer = Renderer(tokenizer, {"enable_thinking": False})
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(RowError, match=r"the tokenizer fails on it: .*limit"):
        renderer.prompt_ids(({"role": "user", "content": "a" * 40 + "b"},))
    empty = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), eos_token="<end>", pad_token="<end>"
    )
    empty.chat_template = "{% for m in messages %}{{ m.content }}<end>{% endfor %}"
    with pytest.raises(UserError, match="has no tokens for a text"):
        Renderer(empty, {})


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ 1 % 0 }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ range(10 ** 30) | list }}",
        "{% break %}",
        "{% if true %}" * 150 + "{% endif %}" * 150,
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
    ],
    ids=range(11),
)
def test_a_template_that_fails_in_any_way_is_named_in_one_line(template):
    tokenizer = chatml("qwen3.jinja")
    tokenizer.chat_template = template + tokenizer.chat_template
    with pytest.raises(UserError, match="chat template") as raised:
        Renderer(tokenizer, {"enable_thinking": False})
    assert "\n" not in str(raised.value)


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


def phi3():
    special = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    return character_tokenizer("phi3.jinja", special, eos="<|endoftext|>")


def llama3():
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return character_tokenizer("llama3.jinja", special, bos=special[0], eos=special[-1])


def cohere():
    sides = ["CHATBOT", "USER", "SYSTEM", "START_OF_TURN", "END_OF_TURN"]
    special = ["<BOS_TOKEN>", *(f"<|{side}_TOKEN|>" for side in sides), "<|END_RESPONSE|>"]
    special += ["<|START_RESPONSE|>", "<|NEW_FILE|>"]
    return character_tokenizer(
        "cohere2.jinja", special, bos=special[0], eos="<|END_OF_TURN_TOKEN|>"
    )


@pytest.mark.parametrize(
    ("make", "end"),
    [(phi3, "<|end|>"), (cohere, "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>")],
    ids=["phi3", "cohere"],
)
def test_only_what_ends_the_turn_is_trained_and_all_of_it(make, end):
    """Behind its end Phi-3's template writes that of the text, which no answer needs."""
    tokenizer = make()
    renderer = Renderer(tokenizer, {})
    rendered = renderer.encode(EXAMPLE)
    assert decode(tokenizer, rendered.targets) == EXAMPLE.completion + end
    assert rendered.input_ids[-1] == renderer.end_of_turn


def test_where_the_template_ends_no_turn_the_tokenizers_end_is_trained():
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    renderer = Renderer(tokenizer, {})
    rendered = renderer.encode(EXAMPLE)
    said = f"user: What is 2 + 3?\nassistant: {EXAMPLE.completion}<|im_end|>"
    assert decode(tokenizer, rendered.input_ids) == said
    assert decode(tokenizer, rendered.targets) == f"{EXAMPLE.completion}<|im_end|>"
    assert len(rendered.labels) == len(rendered.input_ids)
    assert renderer.end_of_turn == tokenizer.eos_token_id


SAID = st.text("ab <>{}%[]|/\n#", min_size=1, max_size=12).filter(lambda text: text.strip())


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_prompts_of_training_are_those_of_scoring_and_answers_are_trained_whole(data):
    """Whatever is said, signs of templates and of Jinja among it, in one turn or in several."""
    make = data.draw(st.sampled_from([phi3, cohere, llama3, gemma, lambda: chatml("qwen3.jinja")]))
    tokenizer = make()
    renderer = Renderer(tokenizer, {})
    turns = data.draw(st.lists(st.tuples(SAID, SAID), min_size=1, max_size=3))
    *before, (asked, answered) = turns
    messages = [
        {"role": role, "content": text}
        for pair in before
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    messages.append({"role": "user", "content": asked})
    learned = tuple(range(1, len(messages), 2))
    rendered = renderer.encode(Example("x", tuple(messages), answered, turns=learned))
    prompt = renderer.prompt_ids(messages)
    assert rendered.input_ids[: len(prompt)] == prompt
    assert IGNORED not in rendered.labels[len(prompt) :]
    assert rendered.input_ids[-1] == renderer.end_of_turn
    trained = decode(tokenizer, rendered.targets)
    assert not rendered.lost
    place = 0
    for _, text in turns:
        place = trained.index(text.strip(), place) + len(text.strip())
    if not rendered.added:
        letters = "".join(map(chr, filter(range(128).__contains__, rendered.targets)))
        said = "".join(text for _, text in turns)
        assert "".join(letters.split()) == "".join(said.split())


def test_a_template_that_leaves_out_texts_is_refused():
    """Those of models with pictures take lists of parts alone."""
    tokenizer = character_tokenizer("idefics3.jinja", ["<end_of_utterance>"], eos="<|im_end|>")
    with pytest.raises(UserError, match="leaves out what a message says where that is a text"):
        Renderer(tokenizer, {})


def test_a_missing_bos_or_generation_prompt_is_warned_of(caplog):
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    renderer = Renderer(tokenizer, {})
    assert "has no generation prompt: '<|im_start|>assistant" in caplog.text
    assert renderer.encode(EXAMPLE).added.startswith("<|im_start|>assistant")
    caplog.clear()
    tokenizer = gemma()
    backend = tokenizer.backend_tokenizer
    pair = [("<bos>", tokenizer.bos_token_id)]
    backend.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A $B", pair)
    Renderer(tokenizer, {})
    assert not caplog.text
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    Renderer(tokenizer, {})
    assert "begins without '<bos>', which the tokenizer puts before every text" in caplog.text


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


@pytest.mark.parametrize(
    ("switch", "given", "helps"),
    [("", None, None), ("is not false", None, False), ("is false", False, True)],
)
def test_a_template_that_contradicts_its_prompt_is_refused_with_what_helps(switch, given, helps):
    """Such as one whose generation prompt opens a thought that its answers do not have."""
    tokenizer = chatml("qwen2_5.jinja")
    condition = switch and f"and enable_thinking {switch}"
    tokenizer.chat_template += f"{{% if add_generation_prompt {condition} %}}<think>{{% endif %}}"
    with pytest.raises(UserError, match=r"differ .*: .*model\.chat_template=FILE") as error:
        Renderer(tokenizer, {} if given is None else {"enable_thinking": given})
    advised = "++model.template_arguments.enable_thinking="
    value = str(error.value).partition(advised)[2].partition(" ")[0]
    assert value == {None: "", True: "true", False: "false"}[helps]
    if value:
        Renderer(tokenizer, {"enable_thinking": helps})


def test_mark_targets_shows_the_trained_part(renderer):
    shown = renderer.mark_targets(renderer.encode(EXAMPLE))
    assert shown.endswith("⟦Two and three make five.\nAnswer: 5<|im_end|>⟧")


def test_an_added_token_that_is_not_special_is_a_text_of_rows():
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])
    rendered = Renderer(tokenizer, {}).encode(Example("x", EXAMPLE.messages, "So <tool_call>"))
    assert decode(tokenizer, rendered.targets) == "So <tool_call><|im_end|>"
    assert rendered.special == ""


def test_an_answer_that_names_the_end_token_is_trained_whole():
    """Also where the template has no turn end of its own."""
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '# ' + m.role + '\\n' + m.content + '\\n\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}# assistant\n{% endif %}"
    )
    plain = Renderer(tokenizer, {})
    answer = "The token <|endoftext|> ends a text. So does <|im_end|>, here."
    rendered = plain.encode(Example("x", EXAMPLE.messages, answer))
    assert decode(tokenizer, rendered.targets) == answer + "<|im_end|>"
    assert rendered.targets[-1] == plain.end_of_turn == tokenizer.eos_token_id


THOUGHT = "<think>Two, three.</think>\n\nFive."


@pytest.mark.parametrize(
    ("change", "answer", "lost", "added"),
    [
        ("{{ m.content }}", THOUGHT, "", ""),
        ("{{ m.content.split('</think>')[-1] }}", THOUGHT, THOUGHT, ""),
        ("{{ m.content.split('</think>')[-1] }}", "Five.", "", ""),
        ("{{ '<think></think>' + m.content }}", "Five.", "", "<think></think> ..."),
        ("{{ m.content | trim }}", " Five. ", "", ""),  # but for space
        ("{{ m.content | upper }}", "Five.", "Five.", ""),
    ],
)
def test_what_a_template_drops_from_an_answer_or_adds_to_it_is_reported(
    change, answer, lost, added
):
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + change
        + "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rendered = Renderer(tokenizer, {}).encode(Example("x", EXAMPLE.messages, answer))
    assert (rendered.lost, rendered.added) == (lost, added)


def metaspace(*merges):
    """A tokenizer like Llama 2's, which writes a space before every text."""
    tokens = ["<unk>", "<s>", "</s>", "\n", "\u2581", *"<|>userait:HA.", "A.", "\u2581A", "\nA"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.BPE(vocabulary, [("\u2581", "A"), *merges], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role[:1] + ':\\n' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:\\n' }}{% endif %}"
    )
    return tokenizer


def test_tokens_equal_those_of_the_whole_text():
    tokenizer = metaspace()
    renderer = Renderer(tokenizer, {})
    rendered = renderer.encode(Example("x", ({"role": "user", "content": "Hi"},), "A."))
    whole = tokenizer("u:\nHi</s>a:\nA.</s>", add_special_tokens=False).input_ids
    assert rendered.input_ids == whole
    assert tokenizer.convert_ids_to_tokens(rendered.targets) == ["A", ".", "</s>"]
    assert not rendered.tokenized_apart


def test_a_token_over_the_end_of_the_prompt_is_cut_there():
    """Generation starts from the prompt alone, so training does."""
    tokenizer = metaspace(("\n", "A"))
    renderer = Renderer(tokenizer, {})
    asked = {"role": "user", "content": "Hi"}
    turns = Example("two", (asked, {"role": "assistant", "content": "H"}, asked), "A.", turns=(1,))
    rendered = renderer.encode(turns)
    prompt = renderer.prompt_ids(turns.messages)
    assert rendered.input_ids[: len(prompt)] == prompt  # it is cut there alone
    assert tokenizer.convert_ids_to_tokens(rendered.targets)[:2] == ["H", "</s>"]
    rendered = renderer.encode(Example("x", (asked,), "A."))
    prompt = renderer.prompt_ids([asked])
    assert rendered.tokenized_apart
    plain = Example("plain", (asked,), "H")
    assert encode_all([turns, plain], renderer, 99).tokenized_apart == 1
    assert rendered.input_ids[: len(prompt)] == prompt
    assert tokenizer.convert_ids_to_tokens(rendered.targets)[1:] == [".", "</s>"]


@pytest.mark.parametrize("merges", [(), [("\n", "A")]], ids=["whole", "cut"])
def test_turns_that_a_space_is_written_before_take_linear_time(merges, monkeypatch):
    """Their tokens are those of the whole text, but where an answer is cut from its prompt."""
    tokenizer = metaspace(*merges)
    renderer = Renderer(tokenizer, {})
    asked = {"role": "user", "content": " Hi A"}
    answers = ["H", "A.", " A", "i"] * 5
    messages = [one for text in answers for one in (asked, {"role": "assistant", "content": text})]
    *messages, _ = messages
    row = Example("x", tuple(messages), answers[-1], turns=tuple(range(1, len(messages), 2)))
    text = renderer.render(row).text
    whole = tokenizer.tokenize(text)
    seen, tokenize = [], renderer.tokenize
    monkeypatch.setattr(renderer, "tokenize", lambda text: seen.append(text) or tokenize(text))
    rendered = renderer.encode(row)
    assert sum(map(len, seen)) < 5 * len(text)
    # What is tokenized alone gets a space.
    expected = [part for one in whole for part in (["\n", "\u2581A"] if one == "\nA" else [one])]
    assert tokenizer.convert_ids_to_tokens(rendered.input_ids) == expected
    assert rendered.tokenized_apart == bool(merges)
    said = tokenizer.convert_ids_to_tokens(rendered.targets)
    assert "".join(said).replace("\u2581", "") == "".join(f"{text.strip()}</s>" for text in answers)


@pytest.mark.parametrize("name", ["esci-mini", "medcalc-mini"])
def test_shipped_rows_have_the_tokens_of_prompt_and_answer_apart(name, renderer, tokenizer):
    """So they were made before whole texts were tokenized; runs made then are still these runs."""
    dataset = composition.load("train", ["model=tiny", f"dataset={name}"]).dataset
    splits = dataset.load()
    for example in [*splits.train[:100], *splits.test[:50]]:
        prompt = renderer.prompt(example.messages)
        answer = example.completion + "<|im_end|>"
        parts = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer)]
        rendered = renderer.encode(example)
        assert rendered.input_ids == parts[0] + parts[1]
        assert rendered.targets == parts[1]


def test_every_trained_turn_is_a_target(renderer, tokenizer):
    messages = (
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Two.?"},
        {"role": "assistant", "content": "Go away."},
        {"role": "user", "content": "Three?"},
    )
    rendered = renderer.encode(Example("x", messages, "Four.", turns=(1,)))
    shown = renderer.mark_targets(rendered)
    assert shown.count("\u27e6") == 2
    assert "assistant\n\u27e6Two.<|im_end|>\u27e7\n" in shown
    assert shown.endswith("\u27e6Four.<|im_end|>\u27e7")
    alone = renderer.encode(Example("x", messages, "Four."))
    assert rendered.input_ids == alone.input_ids
    assert tokenizer.decode(alone.targets) == "Four.<|im_end|>"


def test_an_earlier_turn_ends_where_the_template_ends_it():
    """gpt-oss ends the last answer by another token than those before it, and a call by a third."""
    special = ["<|endoftext|>", "<|start|>", "<|channel|>", "<|message|>"]
    special += ["<|end|>", "<|return|>", "<|call|>"]
    tokenizer = character_tokenizer("gptoss.jinja", special, eos="<|return|>")
    renderer = Renderer(tokenizer, {})
    ask = {"role": "user", "content": "Yes"}
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    back = {"role": "tool", "name": "f", "tool_call_id": "1", "content": "Back"}
    called = ' to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>'
    rows = [((ask, calling, back), called)]
    # `final` and `l` stand before every answer too, and the thoughts of earlier ones are left out.
    for text in ("Yes", "final", "l", "a<|end|>b"):
        for thought in ({}, {"thinking": f"Hm. {text}"}):
            answer = {"role": "assistant", "content": text, **thought}
            rows.append(((ask, answer, ask), f"<|channel|>final<|message|>{text}<|end|>"))
    for messages, before in rows:
        rendered = renderer.encode(Example("x", messages, "Done", turns=(1,)))
        trained = decode(tokenizer, rendered.targets)
        assert trained == before + "<|channel|>final<|message|>Done<|return|>"
    last = renderer.encode(Example("x", (ask,), "", reply_fields={"tool_calls": [call]}))
    assert decode(tokenizer, last.targets) == called


def test_a_call_that_the_template_does_not_write_without_its_result_is_trained():
    raising = "{% if m.tool_calls and loop.last %}{{ raise_exception('no result') }}{% endif %}"
    tokenizer = templated(raising + "{{ m.content }}{% if m.tool_calls %} look Oslo{% endif %}")
    calling = {"role": "assistant", "content": "So", "tool_calls": [CALL]}
    messages = (EXAMPLE.messages[0], calling, {"role": "tool", "content": "7"})
    rendered = Renderer(tokenizer, {}).encode(Example("x", messages, "Done", turns=(1,)))
    assert decode(tokenizer, rendered.targets) == "So look Oslo<|im_end|>Done<|im_end|>"


def test_an_answer_is_decoded_up_to_the_end_of_the_turn_or_of_the_text():
    renderer = Renderer(gemma(), {})
    said = renderer.tokenize("42")
    for end in (renderer.end_of_turn, renderer.tokenizer.eos_token_id):
        assert renderer.decode_answer([*said, end, *said]) == renderer.decode(said)
    assert renderer.end_of_turn != renderer.tokenizer.eos_token_id


def test_an_earlier_turn_that_the_template_rewrites_is_refused():
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last or m.role =="
        " 'user' else m.content | upper }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = Renderer(tokenizer, {})
    ask = {"role": "user", "content": "Is it?"}
    messages = (ask, {"role": "assistant", "content": "Yes"}, ask)
    with pytest.raises(RowError, match=r"an earlier answer of it, .* is not in the chat"):
        renderer.encode(Example("x", messages, "No", turns=(1,)))
    assert (
        decode(tokenizer, renderer.encode(Example("x", messages, "No")).targets) == "No<|im_end|>"
    )


def test_tools_calls_and_reasoning_reach_the_template():
    tokenizer = chatml("qwen3.jinja")
    renderer = Renderer(tokenizer, {})
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    reply = {"tool_calls": [call], "reasoning_content": "Sums are for tools."}
    example = Example("x", EXAMPLE.messages, "", reply_fields=reply, tools=(tool,))
    rendered = renderer.encode(example)
    target = decode(tokenizer, rendered.targets)
    assert "Sums are for tools." in target
    assert '"name": "add", "arguments": {"a": 2}' in target
    assert target.endswith("<|im_end|>")
    assert '"parameters": {}' in renderer.prompt(example.messages, example.tools)
    assert (rendered.lost, rendered.added, rendered.special) == ("", "", "")
    plain = chatml("qwen2_5.jinja")
    plain.chat_template = plain.chat_template.replace("tool_calls", "nothing")
    assert Renderer(plain, {}).encode(example).lost in ("add", "Sums are for tools.")


def templated(answer, header="<|im_start|>assistant\n", specials=()):
    """ChatML with this for what an answer says, and this generation prompt."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *specials]
    tokenizer = character_tokenizer("qwen2_5.jinja", special, eos="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        f"{{% if m.role == 'assistant' %}}{answer}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
        f"<|im_end|>\n{{% endfor %}}{{% if add_generation_prompt %}}{header}{{% endif %}}"
    )
    return tokenizer


CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "Oslo"}}}


@pytest.mark.parametrize(
    ("written", "earlier", "lost", "added"),
    [
        ("{{ m.content }}", {"content": "", "tool_calls": [CALL]}, "look", ""),
        ("{{ m.content }}", {"content": "So", "reasoning_content": "Hm."}, "Hm.", ""),
        (
            "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}",
            {"content": "", "tool_calls": [CALL, CALL]},
            "look",
            "",
        ),
        ("{{ m.content if loop.last else 'Oh. ' + m.content }}", {"content": "So"}, "", "Oh.  ..."),
    ],
    ids=["call", "thought", "second call", "added"],
)
def test_what_a_template_changes_in_an_earlier_trained_answer_is_reported(
    written, earlier, lost, added
):
    """Else the row would teach an answer without its call, or only its end."""
    ask = {"role": "user", "content": "Where?"}
    row = Example("x", (ask, {"role": "assistant", **earlier}, ask), "Done", turns=(1,))
    renderer = Renderer(templated(written), {})
    rendered = renderer.encode(row)
    assert (rendered.lost, rendered.added) == (lost, added)
    untrained = renderer.encode(Example("x", row.messages, "Done"))
    assert (untrained.lost, untrained.added) == ("", "")
    if lost:
        assert "(dataset.train_on=last trains one)" in encode_all([row], renderer, 99).refused[0]


def test_the_header_of_a_next_answer_is_not_trained():
    """Cohere's Command A has it behind every text, with or without a generation prompt."""
    header = "<|im_start|><|bot|>"
    tokenizer = templated(
        "{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name }}<|call|>{% endfor %}",
        specials=["<|bot|>", "<|call|>"],
    )
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|im_start|>{{ m.role }}\n", "<|im_start|>{{ '<|bot|>' if m.role == 'assistant' }}"
    ).partition("\n{% endfor %}")[0] + ("{% endfor %}" + header)
    renderer = Renderer(tokenizer, {})
    ask = {"role": "user", "content": "Where?"}
    answer = {"role": "assistant", "content": "There."}
    calls = {"reply_fields": {"tool_calls": [CALL]}}
    for row, trained in [
        (Example("x", (ask, answer, ask), "Here.", turns=(1,)), "There.<|im_end|>Here.<|im_end|>"),
        (Example("x", (ask,), "", **calls), "look<|call|><|im_end|>"),
    ]:
        rendered = renderer.encode(row)
        assert decode(tokenizer, rendered.targets) == trained
        assert rendered.input_ids[-1] == renderer.end_of_turn == tokenizer.eos_token_id


def test_a_template_that_always_thinks_is_used_for_answers_with_a_thought():
    """Nemotron's and GLM's prompts open a thought; an answer without one is written otherwise."""
    tokenizer = templated(
        "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content | replace('<think>', '<think>\n') }}",
        header="<|im_start|>assistant\n<think>\n",
    )
    renderer = Renderer(tokenizer, {})
    prompt = renderer.prompt_ids(EXAMPLE.messages)
    apart = {"reply_fields": {"reasoning_content": "Two."}}
    for row in (
        Example("x", EXAMPLE.messages, "5", **apart),
        Example("x", EXAMPLE.messages, "<think>Two.</think>5"),  # the prompt has its beginning
    ):
        rendered = renderer.encode(row)
        assert decode(tokenizer, rendered.targets) == "Two.</think>5<|im_end|>"
        assert rendered.input_ids[: len(prompt)] == prompt
        assert (rendered.lost, rendered.added) == ("", "")
    with pytest.raises(RowError, match=r"the prompt has '<think>\\n' where .* has '5<\|im_end\|>"):
        renderer.encode(Example("x", EXAMPLE.messages, "5"))


def test_an_earlier_answer_that_its_prompt_does_not_begin_names_what_helps():
    """Qwen3 without thinking writes an empty thought before the last answer alone."""
    tokenizer = templated(
        "{{ '<think></think>' if loop.last }}{{ m.content }}",
        header="<|im_start|>assistant\n<think></think>",
    )
    ask = {"role": "user", "content": "Where?"}
    messages = (ask, {"role": "assistant", "content": "There."}, ask)
    renderer = Renderer(tokenizer, {})
    assert renderer.encode(Example("x", messages, "Here.")).added == ""
    with pytest.raises(RowError, match=r"an earlier answer.*<think>.*dataset\.train_on=last"):
        renderer.encode(Example("x", messages, "Here.", turns=(1,)))


def test_an_end_of_turn_that_the_tokenizer_does_not_call_special_is_trained():
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_tokens([AddedToken("<end>", special=False)])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<end>")
    renderer = Renderer(tokenizer, {})
    rendered = renderer.encode(EXAMPLE)
    assert decode(tokenizer, rendered.targets) == EXAMPLE.completion + "<end>"
    assert tokenizer.convert_ids_to_tokens(renderer.end_of_turn) == "<end>"


def test_a_tokenizer_that_cuts_the_end_of_turn_is_refused():
    """Answers would end at any `>`."""
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.backend_tokenizer.encode_special_tokens = True
    tokenizer.split_special_tokens = True
    with pytest.raises(UserError, match=r"cuts '<\|im_end\|>'.*split_special_tokens=false"):
        Renderer(tokenizer, {})


def test_texts_that_the_tokenizer_does_not_know_are_counted():
    tokenizer = chatml("qwen2_5.jinja")
    tokenizer.unk_token = "?"
    renderer = Renderer(tokenizer, {})
    rows = [EXAMPLE, Example("new", EXAMPLE.messages, "\u4e2d\u6587?")]
    assert [renderer.encode(row).unknown for row in rows] == [0, 2]
    assert encode_all(rows, renderer, 999).unknown[0].startswith("new (2 of ")


def test_a_row_whose_text_does_not_begin_with_its_prompt_is_an_error_of_the_row():
    tokenizer = chatml("qwen2_5.jinja")
    note = "{% if messages[0].role == 'system' and not add_generation_prompt %}Note.{% endif %}"
    tokenizer.chat_template = note + tokenizer.chat_template
    renderer = Renderer(tokenizer, {})
    system = ({"role": "system", "content": "Be brief."}, *EXAMPLE.messages)
    with pytest.raises(RowError, match="does not continue its own generation prompt"):
        renderer.encode(Example("x", system, "5"))


def test_a_role_that_the_template_refuses_is_an_error_of_the_row():
    tokenizer = gemma()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + tokenizer.chat_template
    )
    system = ({"role": "system", "content": "Be brief."}, *EXAMPLE.messages)
    with pytest.raises(RowError, match="no system"):
        Renderer(tokenizer, {}).encode(Example("x", system, "5"))
