"""What a model cannot do is said before its weights are read, with what to type."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from small_models import CONFIGS, SIZE
from transformers import BartConfig, CLIPConfig, MllamaForCausalLM
from transformers.models.mllama.configuration_mllama import MllamaTextConfig

from talr_cli.errors import UserError
from talr_cli.models.checks import (
    check_length,
    check_loads,
    check_vocabulary,
    max_positions,
    share_vocabulary,
)
from talr_cli.models.loading import load_model
from talr_cli.models.sources import ModelSource


def source_of(folder, config, **more):
    settings = {**config.to_dict(), **more}
    (folder / "config.json").write_text(json.dumps(settings))
    return ModelSource(folder, "", str(folder))


@pytest.mark.parametrize(
    ("kind", "attention", "instead"),
    [
        ("llama", "sdpa", None),
        ("llama", "eager", None),
        ("gemma2", "sdpa", "eager"),
        ("gpt_oss", "sdpa", "eager"),
        ("gemma2", "eager", None),
        ("llama", "flash_attention_2", "sdpa"),  # not installed here
        ("llama", "sdpaa", "sdpa"),
    ],
)
def test_a_missing_attention_kernel_is_refused_with_one_that_exists(
    kind, attention, instead, tiny_config, tmp_path
):
    source = source_of(tmp_path, CONFIGS[kind]())
    config = replace(tiny_config, attention=attention)
    if instead is None:
        assert check_loads(source, config, to_train=True)["model_type"]
        return
    with pytest.raises(UserError, match=f"set model.attention={instead}") as error:
        check_loads(source, config, to_train=True)
    assert "\n" not in str(error.value)


def test_quantised_weights_whose_library_is_missing_are_refused(tiny_config, tmp_path):
    stored = {"quant_method": "awq", "bits": 4}
    source = source_of(tmp_path, CONFIGS["llama"](), quantization_config=stored)
    for to_train in (True, False):
        with pytest.raises(UserError, match=r"quantised \(awq\)"):
            check_loads(source, tiny_config, to_train=to_train)


def test_mxfp4_weights_are_scored_but_not_trained(tiny_config, tmp_path):
    """gpt-oss's own: what was trained would not be what is saved."""
    source = source_of(
        tmp_path, CONFIGS["gpt_oss"](), quantization_config={"quant_method": "mxfp4"}
    )
    config = replace(tiny_config, attention="eager")
    assert check_loads(source, config, to_train=False)["model_type"] == "gpt_oss"
    with pytest.raises(UserError, match=r"quantised \(mxfp4\).*give the unquantised model"):
        check_loads(source, config, to_train=True)


def test_training_on_an_adapter_is_refused(tiny_config, tiny_source, tmp_path):
    named = {"base_model_name_or_path": str(tiny_source.directory)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(named))
    source = ModelSource(tmp_path, "", "adapter")
    with pytest.raises(UserError, match="is an adapter"):
        check_loads(source, tiny_config, to_train=True)
    assert check_loads(source, tiny_config, to_train=False)["model_type"] == "llama"


def test_the_text_part_of_a_vision_model_is_checked_as_such(tiny_config, tmp_path):
    from transformers import Gemma3Config

    whole = Gemma3Config(text_config=CONFIGS["gemma3"]())
    config = replace(tiny_config, architecture="Gemma3ForCausalLM")
    settings = check_loads(source_of(tmp_path, whole), config, to_train=True)
    assert max_positions(settings) == 256
    with pytest.raises(UserError, match="no class Gemma9"):
        check_loads(
            source_of(tmp_path, whole), replace(config, architecture="Gemma9"), to_train=True
        )


def test_a_vision_language_model_is_refused_with_its_architecture(tiny_config, tmp_path):
    from transformers import Mistral3Config, MistralConfig

    settings = Mistral3Config(text_config=MistralConfig(**SIZE, head_dim=8))
    source = source_of(tmp_path, settings)
    with pytest.raises(UserError, match=r"model\.architecture=Mistral3ForConditionalGeneration"):
        check_loads(source, tiny_config, to_train=True)
    whole = replace(tiny_config, architecture="Mistral3ForConditionalGeneration")
    assert check_loads(source, whole, to_train=True)["model_type"] == "mistral3"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BartConfig(), "is a bart model of an encoder and a decoder"),
        (CLIPConfig(), "is a clip model: transformers has no causal language model"),
        (
            CLIPConfig(architectures=["LlamaForCausalLM"]),
            "is a clip model: transformers has no causal language model",
        ),
    ],
)
def test_what_is_no_causal_language_model_is_called_so(settings, message, tiny_config, tmp_path):
    with pytest.raises(UserError, match=message):
        check_loads(source_of(tmp_path, settings), tiny_config, to_train=True)


def test_the_saved_text_part_of_mllama_is_found_by_the_class_it_names(tiny_config, tmp_path):
    """The automatic class knows the whole model's config alone."""
    text = MllamaTextConfig(**SIZE, cross_attention_layers=[1])
    MllamaForCausalLM(text).save_pretrained(tmp_path)
    source = ModelSource(tmp_path, "", "text")
    assert check_loads(source, tiny_config, to_train=True)["model_type"] == "mllama_text_model"
    loaded = load_model(source, tiny_config, torch.float32, "cpu")
    assert type(loaded) is MllamaForCausalLM


def test_an_unknown_dtype_in_config_json_is_one_line(tiny_config, tmp_path):
    source = source_of(tmp_path, CONFIGS["llama"](), dtype="bf16")
    with pytest.raises(UserError, match="no attribute 'bf16'"):
        check_loads(source, tiny_config, to_train=True)


def test_models_share_a_vocabulary_only_with_the_same_tokens(tokenizer, tiny_source):
    settings = json.loads((tiny_source.directory / "config.json").read_text())
    assert share_vocabulary(settings, tokenizer, tiny_source)
    assert not share_vocabulary({**settings, "vocab_size": 7}, tokenizer, tiny_source)
    other = copy.copy(tokenizer)
    other.get_vocab = lambda: {one: -at for one, at in tokenizer.get_vocab().items()}
    assert not share_vocabulary(settings, other, tiny_source)


def test_every_token_of_the_rows_has_a_row_in_the_embedding(tokenizer):
    last = len(tokenizer) - 1
    rows = [[3, 4], [last]]
    check_vocabulary({"vocab_size": last + 1}, tokenizer, rows)
    check_vocabulary({"text_config": {"vocab_size": last + 64}}, tokenizer, rows)
    with pytest.raises(UserError, match=f"{last}, the embedding has {last} rows"):
        check_vocabulary({"vocab_size": last}, tokenizer, rows)
    # As Gemma 3's text models, whose tokenizer has a token for images that no text has.
    check_vocabulary({"vocab_size": last}, tokenizer, rows[:1])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 128}, 128),
        ({"max_position_embeddings": 2048, "keep_window_size": 512}, 512),  # Doge
        ({"text_config": {"max_position_embeddings": 64}}, 64),
        ({"model_type": "bloom"}, None),
        (
            {
                "max_position_embeddings": 4096,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 4096,
                },
            },
            16384,
        ),
    ],
)
def test_max_positions_are_read_from_the_config(settings, expected):
    assert max_positions(settings) == expected


def test_rows_longer_than_the_positions_are_refused():
    settings = {"n_positions": 100}
    check_length(settings, 100, "training rows", "set trainer.max_length={positions}")
    check_length(settings, 90, "test prompts", "set domain.max_new_tokens={rest}", 10)
    with pytest.raises(UserError, match=r"101 tokens.*set trainer\.max_length=100"):
        check_length(settings, 101, "training rows", "set trainer.max_length={positions}")
    with pytest.raises(UserError, match=r"an answer of 20.*domain\.max_new_tokens=10"):
        check_length(settings, 90, "test prompts", "set domain.max_new_tokens={rest}", 20)
