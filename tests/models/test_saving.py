"""What is saved is what is scored: the same logits, the same ends; nothing that is no number."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from optimizer_step import rows, stub_tokenizer, trainer_gradient
from small_models import made, token_ids

from talr_cli.errors import DivergedError
from talr_cli.methods.adapters import Lora
from talr_cli.methods.averaging import interpolate
from talr_cli.methods.objectives import Sft
from talr_cli.models import loading, saving, sources


def reloaded(folder, tiny_config, attention="sdpa"):
    here = {"path": str(folder), "package": None, "random_init": None, "attention": attention}
    config = OmegaConf.merge(tiny_config, here)
    return loading.load_model(sources.directory_source(folder), config, "auto", "cpu").eval()


def logits(model):
    with torch.no_grad():
        return model(token_ids()).logits


KINDS = ["llama", "qwen3", "gemma2", "gemma3", "gpt_neox", "phi", "granite", "qwen3_moe", "xglm"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_model_gives_the_same_logits_after_saving_and_loading(kind, tiny_config, tmp_path):
    """Bit for bit; positions up to 200, where rounded rotary frequencies are far off."""
    model = made(kind)
    exact = logits(model)
    saving.cast_weights(model, torch.bfloat16)
    saving.save_model(model, stub_tokenizer(), 49, tmp_path / "model")
    attention = "eager" if kind in ("gemma2", "xglm") else "sdpa"
    model.set_attn_implementation(attention)
    again = reloaded(tmp_path / "model", tiny_config, attention)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(model), logits(again))
    assert not torch.equal(exact, logits(again).float())


def test_a_trained_models_configs_are_those_that_were_loaded(tiny_config, tmp_path):
    """TRL writes the tokenizer's pad token into them, whose embedding Youtu drops when loaded."""
    model = made("youtu")
    before = model.config.to_dict(), model.generation_config.to_dict()
    trainer_gradient(model, rows(4), Sft(), tmp_path / "out", 4, activation_checkpointing=True)
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before
    saving.save_model(model.eval(), stub_tokenizer(), 49, tmp_path / "model")
    again = reloaded(tmp_path / "model", tiny_config)
    assert torch.equal(
        again(torch.tensor([[0, 5, 6]])).logits, model(torch.tensor([[0, 5, 6]])).logits
    )


@pytest.mark.parametrize("options", [{}, {"dora": True}])
def test_a_merged_adapter_gives_the_same_logits_after_saving_and_loading(
    options, tiny_config, tmp_path
):
    adapted = Lora(rank=4, **options).wrap(made("llama"), "some/base")
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    merged = saving.cast_weights(adapted.merge_and_unload(), torch.bfloat16).eval()
    saving.save_model(merged, stub_tokenizer(), 49, tmp_path / "model")
    assert torch.equal(logits(merged), logits(reloaded(tmp_path / "model", tiny_config)))


def test_the_ends_of_an_average_are_the_two_models(tiny_config, tmp_path):
    models = {"base": made("llama"), "tuned": made("llama")}
    with torch.no_grad():
        models["tuned"].lm_head.weight.mul_(1.5)
    for name, model in models.items():
        saving.cast_weights(model, torch.bfloat16)
        saving.save_model(model, stub_tokenizer(), 49, tmp_path / name)
    for alpha, expected in ((0.0, "base"), (1.0, "tuned")):
        folder = tmp_path / expected
        into = tmp_path / f"average-{alpha}"
        into.mkdir()
        (into / "config.json").write_bytes((folder / "config.json").read_bytes())
        interpolate(tmp_path / "base", tmp_path / "tuned", into, lambda tensor, alpha=alpha: alpha)
        assert torch.equal(logits(reloaded(into, tiny_config)), logits(models[expected]))


@pytest.mark.parametrize(
    ("own", "expected"), [(None, [49]), (2, [2, 49]), ([2, 49], [2, 49]), (49, [49])]
)
def test_the_saved_generation_config_has_the_trained_end_token(
    own, expected, tiny_config, tmp_path
):
    model = made("llama")
    model.generation_config.eos_token_id = own
    saving.save_model(model, stub_tokenizer(), 49, tmp_path / "model")
    assert reloaded(tmp_path / "model", tiny_config).generation_config.eos_token_id == expected


def test_published_settings_that_transformers_does_not_save_are_kept(tiny_config, tmp_path):
    """A temperature without do_sample, as many models have: known only when all is trained."""
    (tmp_path / "base").mkdir()
    made("llama").save_pretrained(tmp_path / "base")
    file = tmp_path / "base/generation_config.json"
    asked = {"temperature": 0.6, "top_p": 0.9, "max_new_tokens": 7}
    file.write_text(json.dumps({**json.loads(file.read_text()), **asked}))
    model = reloaded(tmp_path / "base", tiny_config)
    model.generation_config.eos_token_id = [2]
    with pytest.raises(ValueError, match="invalid"):
        model.save_pretrained(tmp_path / "refused")
    saving.save_model(model, stub_tokenizer(), 49, tmp_path / "model")
    saved = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert asked.items() <= saved.items()
    assert saved["eos_token_id"] == [2, 49]
    again = reloaded(tmp_path / "model", tiny_config).generation_config
    assert again.to_dict() == model.generation_config.to_dict()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_or_infinite_weights_are_not_saved(value, tmp_path):
    model = made("llama")
    with torch.no_grad():
        model.model.norm.weight[3] = value
    with pytest.raises(DivergedError, match=r"model\.norm\.weight"):
        saving.save_model(model, stub_tokenizer(), 49, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_smollm2_gives_the_same_logits_after_saving_and_loading(tmp_path):
    from talr_cli.config import composition

    config = composition.load("eval", []).model
    source = sources.resolve_model(config)
    model = loading.load_model(source, config, torch.float32, "cpu").eval()
    saving.cast_weights(model, torch.bfloat16)
    saving.save_model(model, stub_tokenizer(), 2, tmp_path / "model")
    again = loading.load_model(
        sources.directory_source(tmp_path / "model"), config, "auto", "cpu"
    ).eval()
    assert torch.equal(logits(model), logits(again))
