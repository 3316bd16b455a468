"""The loss and its gradient against plain full-logits references, however the batch is cut up."""

import math

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from talr_cli.methods.objectives import Sft, Talr
from talr_cli.training.token_scores import add_token_scores, score_targets
from talr_cli.training.trainer import MethodTrainer

PAD = 0


def rows(count=16, seed=0):
    """Ragged rows: a prompt, then targets; some with a single target."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        prompt = int(torch.randint(1, 9, (), generator=generator))
        answer = 1 if number % 5 == 0 else int(torch.randint(2, 12, (), generator=generator))
        ids = torch.randint(1, 50, (prompt + answer,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return made


def reference_losses(model, row):
    """-log p of each target of one row, from its full logits in float64."""
    ids = torch.tensor([row["input_ids"]])
    log_probs = model(ids).logits[0, :-1].double().log_softmax(-1)
    labels = torch.tensor(row["labels"])[1:]
    picked = log_probs.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return -picked[labels != -100]


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def reference_gradient(model, batch, weigh):
    model.zero_grad()
    per_row = [reference_losses(model, row) for row in batch]
    count = sum(len(losses) for losses in per_row)
    weights = weigh([losses.detach() for losses in per_row])
    total = sum((w * losses).sum() for w, losses in zip(weights, per_row, strict=True))
    (total / count).backward()
    return gradient(model), float(total / count)


def ones(per_row):
    return [torch.ones_like(losses) for losses in per_row]


def talr_weights(per_row):
    means = sorted(float(losses.mean()) for losses in per_row)
    tau = means[(len(means) - 1) // 2]
    return [torch.exp(-losses / tau).clamp(min=0.01) for losses in per_row]


def trainer_gradient(model, batch, objective, folder, micro, padding_free=False):
    """What the trainer accumulates in one optimizer step over `batch`."""
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=len(batch) // micro,
        max_steps=1,
        learning_rate=0.0,
        max_grad_norm=0.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        padding_free=padding_free,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        pad_token="<pad>",
    )
    seen = {}

    class Catching(MethodTrainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            seen["loss"] = seen.get("loss", 0.0) + float(loss)
            seen["gradient"] = gradient(self.model).clone()
            return loss

    model.zero_grad()
    trainer = Catching(
        model=model,
        args=arguments,
        objective=objective,
        processing_class=stub_tokenizer(),
        train_dataset=Dataset.from_list(batch),
    )
    trainer.train()
    return seen["gradient"], seen["loss"]


def stub_tokenizer():
    """The smallest tokenizer that the trainer takes; rows come as token ids."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": PAD, "</s>": 49, **{f"w{i}": i for i in range(1, 49)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, "<pad>")),
        pad_token="<pad>",
        eos_token="</s>",
    )


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding-free"])
@pytest.mark.parametrize("micro", [16, 4, 1])
@pytest.mark.parametrize(
    ("objective", "weigh"),
    [(Sft(), ones), (Talr(tau_estimator="exact"), talr_weights)],
    ids=["sft", "talr"],
)
def test_gradient_is_the_formula_however_the_batch_is_cut(
    toy_model, tmp_path, objective, weigh, micro, padding_free
):
    batch = rows()
    expected, expected_loss = reference_gradient(toy_model, batch, weigh)
    actual, loss = trainer_gradient(toy_model, batch, objective, tmp_path, micro, padding_free)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    error = (actual - expected).norm() / expected.norm()
    assert float(error) < 1e-5


def test_first_lagged_step_is_exact(toy_model, tmp_path):
    batch = rows()
    expected, _ = reference_gradient(toy_model, batch, talr_weights)
    actual, _ = trainer_gradient(toy_model, batch, Talr(tau_estimator="lagged"), tmp_path, 4)
    assert float((actual - expected).norm() / expected.norm()) < 1e-5


def test_microbatch_scope_depends_on_the_cut(toy_model, tmp_path):
    """The reason why it is not the default."""
    whole, _ = trainer_gradient(toy_model, rows(), Talr(tau_scope="microbatch"), tmp_path, 16)
    cut, _ = trainer_gradient(toy_model, rows(), Talr(tau_scope="microbatch"), tmp_path, 4)
    assert float((whole - cut).norm() / whole.norm()) > 1e-3


def test_gradient_agrees_with_finite_differences(toy_model, tmp_path):
    """Weights held fixed, as the objective lets no gradient through them.

    Along the gradient itself, since the model's norms compute in fp32 and blur small steps.
    """
    batch = rows(4)
    fixed = talr_weights([reference_losses(toy_model, row).detach() for row in batch])

    def loss():
        with torch.no_grad():
            per_row = [reference_losses(toy_model, row) for row in batch]
        count = sum(len(losses) for losses in per_row)
        return float(sum((w * one).sum() for w, one in zip(fixed, per_row, strict=True)) / count)

    direction, _ = trainer_gradient(toy_model, batch, Talr(), tmp_path, 4)
    length = float(direction.norm())

    def move(step):
        position = 0
        with torch.no_grad():
            for parameter in toy_model.parameters():
                part = direction[position : position + parameter.numel()]
                parameter += step * part.view_as(parameter) / length
                position += parameter.numel()

    step = 1e-2
    move(step)
    above = loss()
    move(-2 * step)
    below = loss()
    assert (above - below) / (2 * step) == pytest.approx(length, rel=1e-3)


def test_only_targets_are_projected(toy_model):
    """The head sees as many positions as there are targets, on a CPU too."""
    batch = DataCollatorForLanguageModeling(PAD)(rows(6))
    add_token_scores(toy_model, ())
    seen = []
    original = torch.mm

    def counting(a, b, **kwargs):
        if b.shape[-1] == 50:
            seen.append(a.shape[0])
        return original(a, b, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "mm", counting)
        tokens = score_targets(toy_model, toy_model, batch)
    targets = int((batch["labels"][:, 1:] != -100).sum())
    assert len(tokens.log_probs) == targets
    assert seen == [targets]


def test_a_batch_without_targets_is_a_differentiable_zero(toy_model):
    add_token_scores(toy_model, ())
    ids = torch.randint(1, 50, (2, 5))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.full_like(ids, -100),
    }
    tokens = score_targets(toy_model, toy_model, batch)
    loss = -tokens.log_probs.sum()
    loss.backward()
    assert float(loss) == 0.0
    assert float(gradient(toy_model).abs().sum()) == 0.0


def test_losses_stay_finite_at_extreme_logits(toy_model):
    """p = 1 and p near 0: weights and gradients stay finite at losses of 1e4."""
    with torch.no_grad():
        toy_model.lm_head.weight.mul_(1e5)
    add_token_scores(toy_model, ())
    batch = DataCollatorForLanguageModeling(PAD)(rows(4))
    tokens = score_targets(toy_model, toy_model, batch)
    assert float(-tokens.log_probs.min()) > 1e4
    objective = Talr()
    weights = objective.weights(tokens, objective.temperature(tokens.sequence_losses()))
    (weights * -tokens.log_probs).mean().backward()
    assert torch.isfinite(gradient(toy_model)).all()
    assert math.isfinite(float(weights.sum()))
