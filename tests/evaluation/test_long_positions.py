"""Models that turn positions by other frequencies from some length on: no row changes another's.

transformers chooses by the longest row of a batch, for all of its rows.
"""

from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from small_models import SIZE

from talr_cli.data.encoding import TokenRows
from talr_cli.data.rendering import Rendered
from talr_cli.evaluation.choosing import _read_separately
from talr_cli.evaluation.continuations import Choices, continuation_likelihoods
from talr_cli.evaluation.decoding import Request
from talr_cli.evaluation.drift import predictions
from talr_cli.evaluation.generation import generate_batch
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.reading import ignores_padding
from talr_cli.models.checks import rope_switch_length
from talr_cli.run.fit import _single_rows_if_needed
from talr_cli.training.base_losses import target_losses
from talr_cli.training.config import TrainerConfig

SWITCH = 32
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
    "long_factor": [4.0, 8.0, 16.0, 32.0], "original_max_position_embeddings": SWITCH,
}  # fmt: skip
ROWS = [[3 + (7 * i + start) % 50 for i in range(length)] for start, length in ((0, 20), (3, 60))]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    settings = hf.LlamaConfig(**SIZE, rope_parameters=LONG)
    made = hf.AutoModelForCausalLM.from_config(settings).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def log_probabilities_alone(model):
    """The log-probabilities of each row by itself."""
    with torch.no_grad():
        return [model(torch.tensor([row])).logits[0].log_softmax(-1) for row in ROWS]


def test_a_padded_batch_would_change_the_short_row(model, log_probabilities_alone):
    padded = torch.zeros(2, 60, dtype=torch.long)
    for place, row in enumerate(ROWS):
        padded[place, : len(row)] = torch.tensor(row)
    with torch.no_grad():
        together = model(padded).logits.log_softmax(-1)
    torch.testing.assert_close(together[1], log_probabilities_alone[1])
    assert (together[0, :20] - log_probabilities_alone[0]).abs().max() > 1e-3


def test_drift_and_losses_are_computed_for_each_row_alone(model, log_probabilities_alone):
    with torch.inference_mode():
        found = torch.cat(list(predictions(model, ROWS).log_probs()))
    torch.testing.assert_close(found, torch.cat(log_probabilities_alone), rtol=1e-4, atol=1e-5)
    losses = target_losses(model, [Rendered(row, [-100, *row[1:]]) for row in ROWS], None)
    for own, row, log_probs in zip(losses, ROWS, log_probabilities_alone, strict=True):
        expected = -log_probs[:-1].gather(1, torch.tensor(row[1:])[:, None])[:, 0]
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_answers_are_generated_for_each_row_alone(model):
    rows = [Request(tuple(row), 6) for row in ROWS]
    assert generate_batch(model, rows, ()) == [generate_batch(model, [row], ())[0] for row in rows]
    assert ignores_padding(model, SWITCH)
    assert not ignores_padding(model, SWITCH + 1)
    assert (
        continuation_likelihoods(model, [Choices(row, [[5, 6], [7]]) for row in ROWS], 8, None)
        is None
    )


def test_choices_are_judged_each_alone(model, log_probabilities_alone):
    rows = [Rendered(row, [-100] * 5 + row[5:]) for row in ROWS]
    found = _read_separately(model, [[row] for row in rows], 0, BatchSize(8))
    for (total,), row, log_probs in zip(found, ROWS, log_probabilities_alone, strict=True):
        expected = log_probs[4:-1].gather(1, torch.tensor(row[5:])[:, None]).sum()
        assert total == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "switch"),
    [
        ({"rope_parameters": LONG, "max_position_embeddings": 4096}, SWITCH),
        ({"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}, "max_position_embeddings": 64}, 64),
        ({"text_config": {"rope_parameters": {"full_attention": LONG}}}, SWITCH),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, None),
        ({"rope_parameters": {"rope_type": "llama3"}, "max_position_embeddings": 64}, None),
        ({"model_type": "bloom"}, None),
    ],
)
def test_the_length_at_which_rope_switches_is_read_from_the_config(settings, switch):
    assert rope_switch_length(settings) == switch


def test_longer_rows_are_trained_one_by_one(model, tmp_path):
    model.config.save_pretrained(tmp_path)
    trainer = TrainerConfig(batch_size=4, micro_batch_size=4)
    for row, at_once in ((ROWS[0], 4), (ROWS[1], 1)):
        run = SimpleNamespace(
            config=SimpleNamespace(trainer=trainer),
            source=SimpleNamespace(directory=tmp_path),
            rows=TokenRows([Rendered(row, row)]),
            general=TokenRows(),
        )
        assert _single_rows_if_needed(run).micro_batch_size == at_once
