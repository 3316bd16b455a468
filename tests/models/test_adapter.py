"""An adapter is scored as what it was trained to be: merged, it computes what it did alone."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import config
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from small_models import CONFIGS, SIZE, made, token_ids
from transformers import AutoModelForCausalLM, LlamaConfig
from trl import SFTConfig

from talr_cli.errors import UserError
from talr_cli.methods.adapters import Lora
from talr_cli.models import loading, sources
from talr_cli.models.adapter import merge_adapter, resolve_base
from talr_cli.models.checks import check_loads
from talr_cli.training.trainer import MethodTrainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

GROWN = SIZE["vocab_size"] + 3
LORA = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of a model whose head is its own, and of one whose head is its embedding."""
    folder = tmp_path_factory.mktemp("bases")
    made("llama").save_pretrained(folder / "own")
    torch.manual_seed(0)
    tied = AutoModelForCausalLM.from_config(LlamaConfig(**SIZE, tie_word_embeddings=True))
    tied.save_pretrained(folder / "tied")
    return folder


def adapted(base, rows=None, **options):
    """A model with an adapter that was trained, as it computed then."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    torch.manual_seed(1)
    found = get_peft_model(model, LoraConfig(**LORA, **options))
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    found.peft_config["default"].base_model_name_or_path = str(base)
    return found.eval()


def config_for(path):
    shipped = config("train", "model=tiny").model
    return replace(shipped, path=str(path), package=None, random_init=None)


def logits(model):
    with torch.no_grad():
        return model(token_ids(length=20)).logits


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("own", {"target_modules": "all-linear", "use_dora": True}),
        ("own", {"target_modules": ["q_proj"], "use_rslora": True}),
        ("own", {"target_modules": ["q_proj", "lm_head", "embed_tokens"]}),
        ("own", {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}),
        ("own", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}),
        ("own", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("own", {"target_modules": ["q_proj"], "rows": GROWN}),
        (
            "own",
            {
                "target_modules": ["q_proj"],
                "modules_to_save": ["embed_tokens", "lm_head"],
                "rows": GROWN,
            },
        ),
        ("tied", {"target_modules": ["q_proj"], "rows": GROWN}),
        # Of a matrix that is embedding and head, PEFT's merge changes both.
        ("tied", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("tied", {"target_modules": ["q_proj", "lm_head"]}),
        ("tied", {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}),
        ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
        ("tied", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}),
    ],
)
def test_a_merged_adapter_gives_the_logits_it_was_trained_with(base, options, bases, tmp_path):
    trained = adapted(bases / base, **options)
    trained.save_pretrained(tmp_path)
    here = config_for(tmp_path)
    source = sources.resolve_model(here)
    loading.load_without_weights(source, here)
    model = loading.load_model(source, here, torch.float32, "cpu").eval()
    model.tie_weights()  # by its config, as lm-eval and others do
    torch.testing.assert_close(logits(model), logits(trained), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_loading_an_adapter_raises_no_future_warning(bases, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(bases / "own")
    Lora().wrap(base, str(bases / "own")).save_pretrained(tmp_path)
    here = config_for(tmp_path)
    source = sources.resolve_model(here)
    loading.load_without_weights(source, here)
    loading.load_model(source, here, torch.float32, "cpu")


def test_merging_after_training_unties_the_embedding(bases):
    trained = adapted(bases / "tied", target_modules=["q_proj", "embed_tokens"])
    expected = logits(trained)
    model = merge_adapter(trained)
    assert model.config.tie_word_embeddings is False
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["zamba", "laguna", "mamba", "llama4", "falcon"])
def test_every_architecture_computes_merged_what_it_computed_adapted(kind, tmp_path):
    """Zamba's layers share matrices, PEFT renames weights of Laguna and refuses some of Mamba's,

    the router of Llama 4 is a linear layer with two outputs, and Falcon has a class of its own for
    what is a linear layer.
    """
    made(kind).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    trained = Lora(rank=2).wrap(model, str(tmp_path / "base")).eval()
    trained(token_ids(length=20)).logits.square().sum().backward()
    moved = [one for one in trained.parameters() if one.grad is not None and one.grad.any()]
    assert len(moved) >= 4
    with torch.no_grad():
        for parameter in moved:
            parameter.add_(0.2 * torch.randn_like(parameter))
    trained.save_pretrained(tmp_path / "adapter")
    alone, base = logits(trained), logits(made(kind))
    source = sources.directory_source(tmp_path / "adapter")
    here = replace(config_for(tmp_path / "adapter"), attention="eager")
    loaded = loading.load_model(source, here, torch.float32, "cpu")
    assert (alone - base).abs().max() > 0.1
    for merged in (merge_adapter(trained), loaded):
        torch.testing.assert_close(logits(merged.eval()), alone, rtol=1e-3, atol=1e-3)


def test_layers_that_share_their_matrix_get_no_adapter(tmp_path, caplog):
    made("zamba").save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match=r"no adapter can be on q_proj: several layers share"):
        Lora(rank=2, target_modules=["in_proj", "q_proj"]).wrap(model, "base")
    Lora(rank=2).wrap(model, "base")
    assert "no adapter on down_proj" in caplog.text
    adapted(tmp_path / "base", target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    source = sources.directory_source(tmp_path / "adapter")
    with pytest.raises(UserError, match="share a matrix"):
        loading.load_without_weights(source, config_for(tmp_path / "adapter"))


def test_a_training_goes_on_with_the_adapter_that_its_checkpoint_holds(tmp_path):
    """Laguna's shared experts, over which PEFT passes when it loads them."""
    first, second = (Lora(rank=2).wrap(made("laguna"), "base") for _ in range(2))
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    first.save_pretrained(tmp_path)
    trainer = object.__new__(MethodTrainer)
    trainer.model, trainer.regulariser, trainer.is_fsdp_enabled = second, None, False
    trainer.is_deepspeed_enabled, trainer.args = False, SFTConfig(str(tmp_path), use_cpu=True)
    trainer._load_from_checkpoint(str(tmp_path))
    weights = dict(second.named_parameters())
    for name, parameter in first.named_parameters():
        assert torch.equal(weights[name], parameter)


def test_an_adapter_without_its_new_embedding_rows_is_refused(bases, tmp_path):
    trained = adapted(
        bases / "own", target_modules=["q_proj"], modules_to_save=["lm_head"], rows=GROWN
    )
    trained.save_pretrained(tmp_path, save_embedding_layers=False)
    here = config_for(tmp_path)
    with pytest.raises(UserError, match=f"embedding of {GROWN} rows.*grow the base") as error:
        loading.load_without_weights(sources.resolve_model(here), here)
    assert "\n" not in str(error.value)


def test_a_prompt_tuning_adapter_is_refused(bases, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(bases / "own")
    prompt = get_peft_model(model, PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3))
    prompt.peft_config["default"].base_model_name_or_path = str(bases / "own")
    prompt.save_pretrained(tmp_path)
    here = config_for(tmp_path)
    with pytest.raises(UserError, match=r"PROMPT_TUNING.*cannot be merged"):
        loading.load_without_weights(sources.resolve_model(here), here)


def test_a_base_that_cannot_be_found_is_refused_with_what_to_write(bases, tmp_path, no_hub):
    adapted(bases / "own", target_modules=["q_proj"]).save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    file = tmp_path / "two/adapter_config.json"
    source = sources.directory_source(tmp_path / "two")
    for base, said in (
        ("/home/me/base", "is not a directory; .*base_model_name_or_path"),
        ("lab/none", "neither a directory nor a model the hub gives us"),
        (str(tmp_path / "one"), "is an adapter itself"),
    ):
        file.write_text(
            json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": base})
        )
        with pytest.raises(UserError, match=f"two/adapter_config.json names, {base}.*{said}"):
            resolve_base(source, config_for(tmp_path / "two"))


def test_an_adapter_on_a_quantised_base_is_refused(tmp_path):
    settings = {**CONFIGS["llama"]().to_dict(), "quantization_config": {"quant_method": "awq"}}
    for folder in ("base", "adapter"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").touch()
    (tmp_path / "base/config.json").write_text(json.dumps(settings))
    named = {"base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(named))
    here = config_for(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"quantised \(awq\).*write the unquantised model"):
        check_loads(sources.resolve_model(here), here, to_train=False)
