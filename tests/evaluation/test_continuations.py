"""Choices whose text is read once, against each of them alone in a plain forward pass."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from talr_cli.evaluation.continuations import Choices, continuation_likelihoods
from talr_cli.evaluation.general.answering import Answering

SMALL = {"vocab_size": 60, "num_hidden_layers": 2, "initializer_range": 0.5}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"hidden_size": 16, **HEADS}),
    # Absolute positions, positions by the mask, a window shorter than the texts.
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    "bloom": (BloomForCausalLM, BloomConfig, {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {"hidden_size": 16, "head_dim": 8, "sliding_window": 4, **HEADS},
    ),
}


def made(name):
    model, shape, values = MODELS[name]
    torch.manual_seed(0)
    return model(shape(**{**SMALL, **values})).eval()


def plain(model, text, tokens):
    with torch.no_grad():
        log_probs = model(torch.tensor([[*text, *tokens]])).logits[0].double().log_softmax(-1)
    rows = log_probs[len(text) - 1 : -1]
    total = sum(float(row[token]) for row, token in zip(rows, tokens, strict=True))
    return total, rows.argmax(-1).tolist() == list(tokens)


@pytest.mark.filterwarnings("error::FutureWarning")  # of a name that transformers will forget
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("most_rows", [1, 4, 64])
@pytest.mark.parametrize("beginning", [0, 1, 6])
def test_likelihoods_equal_those_of_each_choice_alone(name, most_rows, beginning):
    model = made(name)
    draw = torch.Generator().manual_seed(1)

    def tokens(count):
        return torch.randint(3, 60, (count,), generator=draw).tolist()

    shared = tokens(beginning)
    questions = [
        Choices([*shared, *tokens(length)], [tokens(count) for count in counts])
        for length, counts in ((9, (3, 1, 2)), (2, (1, 1)), (5, (4, 4, 1, 2, 1)), (2, (7,)))
    ]
    text = questions[1].text

    def said(text):
        with torch.no_grad():
            return int(model(torch.tensor([text])).logits[0, -1].argmax())

    # One of the choices is what the model would say itself, another after a word that it would not.
    likely = said(text)
    questions.append(Choices(text, [[likely], [likely, 5]]))
    other = (likely + 1) % 60
    after = said([*text, other])
    questions.append(Choices(text, [[other, after], [other, (after + 1) % 60]]))
    found = continuation_likelihoods(model, questions, most_rows, torch.float32)
    assert found[-2][0][1]
    assert not found[-1][0][1]
    found += continuation_likelihoods(model, questions[-2:], most_rows, None)  # of one text
    questions += questions[-2:]
    for question, likelihoods in zip(questions, found, strict=True):
        for choice, (total, likeliest) in zip(question.continuations, likelihoods, strict=True):
            expected, is_likeliest = plain(model, question.text, choice)
            assert total == pytest.approx(expected, rel=1e-4)
            assert likeliest is is_likeliest


def test_a_recurrent_model_reads_each_text_itself(renderer):
    torch.manual_seed(0)
    size = {"vocab_size": len(renderer.tokenizer), "hidden_size": 16, "state_size": 4}
    model = MambaForCausalLM(MambaConfig(**{**SMALL, **size})).eval()
    requests = [(("q", "a"), [5, 6, 7], [8, 9]), (("q", "b"), [5, 6, 7], [9])]
    found = Answering(model, renderer, 4)._loglikelihood_tokens(requests, disable_tqdm=True)
    for (total, _), (_, text, tokens) in zip(found, requests, strict=True):
        assert total == pytest.approx(plain(model, text, tokens)[0], rel=1e-4)
