"""A model in another form than talr reads is named, with what to do; nothing of it is run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from talr_cli.errors import UserError
from talr_cli.models.checkpoints import resolve_checkpoint
from talr_cli.models.other_formats import suggest_hub_id
from talr_cli.models.sources import ModelSource, resolve_model, resolve_offline
from talr_cli.models.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["q4.gguf"], "GGUF"),
        (["pytorch_model_fsdp_0/__0_0.distcp", "config.json"], "accelerate merge-weights"),
        (["__0_0.distcp"], "accelerate merge-weights"),
        (
            ["global_step5/zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_to_fp32.py"],
            "zero_to_fp32.py",
        ),
        (["pytorch_model.bin", "config.json"], "pickle, which is not opened"),
        (["pytorch_model-00001-of-00002.bin", "config.json"], "pickle, which is not opened"),
        (["adapter_model.bin", "adapter_config.json"], "pickle, which is not opened"),
        (["checkpoint-500/config.json", "trainer_state.json"], "checkpoint-500"),
        (["checkpoint-20/adapter_config.json"], "checkpoint-20"),
        (["model/config.json"], "/model"),
        (["config.json"], "save_pretrained first"),
        ([], "not a Hugging Face checkpoint"),
    ],
)
def test_other_checkpoint_formats_are_refused_by_name(files, said, tiny_config, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('it was run')")
    with pytest.raises(UserError, match=f"^{tmp_path} holds no .*{said}") as error:
        resolve_checkpoint(str(tmp_path), None, tiny_config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Qwen/Qwen3-0.6B", None),
        ("gpt2", None),
        ("runs/study/run/model", None),
        ("Qwen/Qwen3-0.6B/", "model.path=Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B", "model.path=Qwen/Qwen3-0.6B"),
        ("hf.co/Qwen/Qwen3-0.6B/", "model.path=Qwen/Qwen3-0.6B"),
        (
            "https://huggingface.co/Qwen/Qwen3-0.6B/tree/v1.1",
            "model.path=Qwen/Qwen3-0.6B model.revision=v1.1",
        ),
        ("Qwen/Qwen3-0.6B@abc123", "model.path=Qwen/Qwen3-0.6B model.revision=abc123"),
    ],
)
def test_an_address_of_the_hub_suggests_the_model_id(typed, meant):
    assert suggest_hub_id(typed) == meant


def test_a_wrong_model_names_the_option_that_was_typed(tiny_config, tmp_path, no_hub):
    for path in (str(tmp_path / "none"), "lab/none@1", "lab/no model", str(__file__)):
        with pytest.raises(UserError, match=r"^ckpt="):
            resolve_checkpoint(path, None, tiny_config)
        for find in (resolve_model, resolve_offline):  # a training's, and a plan's
            with pytest.raises(UserError, match=r"^model\.path="):
                find(replace(tiny_config, path=path, package=None, random_init=None))
    (tmp_path / "model.gguf").touch()
    for path, meant in (
        (tmp_path / "model.gguf", "GGUF files are not opened; give the folder of the model"),
        (__file__, f"give the folder that holds it, {Path(__file__).parent}"),
    ):
        with pytest.raises(UserError, match=meant):
            resolve_model(replace(tiny_config, path=str(path), package=None, random_init=None))
    with pytest.raises(
        UserError, match="of a run it is the directory, which `talr show NAME` says"
    ):
        resolve_checkpoint("sft-lr1e-5", None, tiny_config)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gemma"])
def test_a_folder_without_a_tokenizer_is_refused(kind, tiny_config, tmp_path):
    """transformers makes an empty one for some models, and a template of ours would fit it."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages }}")
    config = replace(tiny_config, chat_template=str(template))
    with pytest.raises(UserError, match="holds no tokenizer") as error:
        load_tokenizer(ModelSource(tmp_path, "", "here"), config)
    assert str(tmp_path) in str(error.value)
