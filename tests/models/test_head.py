"""Logits from hidden states are the model's own, whatever it does to them."""

import pytest
import torch
import transformers as hf
from small_models import LAYERS, SIZE, ScaledHead, made, token_ids

from talr_cli.errors import UserError
from talr_cli.models.head import backbone, check_head, check_reads, head_is_plain, head_logits
from talr_cli.training.collator import Collator
from talr_cli.training.token_scores import add_token_scores, score_targets


@pytest.mark.parametrize(
    "kind",
    [
        *("llama", "granite", "cohere", "gemma2", "gemma3", "granitemoe", "llama4"),
        *("recurrent_gemma", "phi"),  # phi's head has a bias
    ],
)
def test_the_heads_logits_are_the_models_own_and_trls(kind):
    model, ids = made(kind), token_ids(length=12)
    with torch.no_grad():
        expected = model(ids).logits
        ours = head_logits(model, backbone(model)(ids).last_hidden_state)
    torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=1e-5)
    add_token_scores(model, ())
    batch = Collator(0)([{"input_ids": row, "labels": row} for row in ids.tolist()])
    tokens, hidden = score_targets(model, model, batch)
    picked = head_logits(model, hidden).log_softmax(-1).gather(1, ids[:, 1:].reshape(-1, 1))
    check_head(model)
    torch.testing.assert_close(picked[:, 0], tokens.log_probs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["modernbert", "bert", "rembert"])
def test_a_head_that_is_more_than_a_matrix_is_refused(kind):
    with pytest.raises(UserError, match="in a way of their own"):
        check_head(made(kind))


def test_a_model_that_takes_rows_of_some_lengths_only_is_refused():
    model = made("reformer")
    with pytest.raises(UserError, match=r"reformer models cannot be trained here.*any length"):
        check_head(model)
    assert not model.training


def test_a_model_that_reads_no_plain_tokens_is_not_scored():
    text = {**SIZE, "model_type": "gemma4_text", "head_dim": 8, "layer_types": LAYERS}
    text |= dict.fromkeys(("hidden_size_per_layer_input", "vocab_size_per_layer_input"), 0)
    draft = hf.AutoModelForCausalLM.from_config(hf.Gemma4AssistantConfig(text_config=text))
    with pytest.raises(UserError, match="gemma4_assistant models cannot be scored"):
        check_reads(draft.eval())
    check_reads(made("llama"))


def test_a_head_with_a_factor_for_each_token_is_refused():
    model = made("llama")
    assert head_is_plain(model)
    model.lm_head = ScaledHead(model.lm_head)
    assert not head_is_plain(model)
    with pytest.raises(UserError, match="in a way of their own"):
        check_head(model)


def test_a_model_that_looks_ahead_is_refused():
    model = made("llama")

    class Backwards(torch.nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, hidden):
            return self.norm(hidden + 0.1 * hidden.flip(1))

    model.model.norm = Backwards(model.model.norm)
    with pytest.raises(UserError, match="looks at later tokens"):
        check_head(model)
