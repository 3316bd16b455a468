"""The weights that are read from a folder are those that transformers loads from it."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import made
from transformers import AutoModelForCausalLM

from talr_cli.errors import UserError
from talr_cli.methods.averaging import interpolate
from talr_cli.models.config import ModelConfig
from talr_cli.models.loading import load_model
from talr_cli.models.shape import shape_of
from talr_cli.models.sources import directory_source
from talr_cli.models.weight_files import INDEX, SINGLE, files_of_tensors, weight_files


@pytest.fixture
def shards(tmp_path):
    """A folder whose weights lie in some files; one more holds others under the same names."""
    folder = tmp_path / "model"
    made("llama").save_pretrained(folder, max_shard_size="20KB")
    first = weight_files(folder)[0]
    others = {name: tensor + 1 for name, tensor in load_file(first).items()}
    save_file(others, folder / "consolidated.safetensors", {"format": "pt"})
    return folder


def a_name_twice(folder):
    """The index is of the file before, the name stands in the last one too."""
    first, *_, last = weight_files(folder)
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(last), name: tensor + 2}, last, {"format": "pt"})


def an_older_save(folder):
    """One whole file beside the shards of another save."""
    weights = {name: tensor + 3 for name, tensor in made("llama").state_dict().items()}
    save_file(weights, folder / SINGLE, {"format": "pt"})


@pytest.mark.parametrize("change", [lambda folder: None, a_name_twice, an_older_save])
def test_weight_files_are_those_that_transformers_loads(shards, change, tmp_path):
    change(shards)
    loaded = AutoModelForCausalLM.from_pretrained(shards).state_dict()
    found = files_of_tensors(shards)
    assert found.keys() == loaded.keys()
    for name, file in found.items():
        with safe_open(file, "pt") as content:
            assert torch.equal(content.get_tensor(name), loaded[name]), name
    whole = shape_of(directory_source(shards))
    assert whole.weights == sum(one.numel() for one in loaded.values())
    assert "consolidated.safetensors" not in {file.name for file in weight_files(shards)}
    # An average that has nothing of the tuned model is the base.
    tuned, into = tmp_path / "tuned", tmp_path / "average"
    into.mkdir()
    made("llama").save_pretrained(tuned)
    interpolate(shards, tuned, into, lambda tensor: 0.0)
    assert all(torch.equal(t, loaded[n]) for n, t in load_file(into / SINGLE).items())


def test_shards_without_an_index_are_no_weights(shards):
    (shards / INDEX).unlink()
    assert weight_files(shards) == []
    shutil.copy(shards / "consolidated.safetensors", shards / SINGLE)
    assert weight_files(shards) == [shards / SINGLE]


def size(number):
    return number.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""),
        ("config.json", b"[1]"),
        ("config.json", b"\xff\xfe"),
        (SINGLE, b""),
        (SINGLE, size(2**62) + b"{}"),
        (SINGLE, size(2) + b"[]"),
        (SINGLE, size(7) + b'{"a":1}'),
        (SINGLE, size(34) + b'{"a":{"dtype":"F32","sh'),
        (SINGLE, size(34) + b'{"a":{"dtype":"F32","shape":[-1]}}'),
        (INDEX, b'{"weight_map": {}}'),
        (INDEX, b'{"weight_map": {"a": 7}}'),
        (INDEX, b'{"weight_map": {"a": "nowhere.safetensors"}}'),
        (INDEX, b"{"),
    ],
    ids=repr,
)
def test_a_damaged_file_is_named_before_anything_is_loaded(name, content, tmp_path):
    made("llama").save_pretrained(tmp_path)
    if name == INDEX:
        (tmp_path / SINGLE).rename(tmp_path / "other.safetensors")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"(config\.json|safetensors).*: replace it with a new"):
        shape_of(directory_source(tmp_path))


@pytest.mark.parametrize("where", ["deep/", "../", "{folder}/deep/"])
def test_an_index_names_no_weights_that_the_models_identity_knows_nothing_of(where, tmp_path):
    folder = tmp_path / "model"
    made("llama").save_pretrained(folder)
    name = f"{where.format(folder=folder)}other.safetensors"
    (folder / name).parent.mkdir(exist_ok=True)
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).rename(folder / name)
    shutil.copy(folder / name, folder / "rest.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))
    with pytest.raises(UserError, match="which is no file beside it"):
        directory_source(folder)


def test_weights_of_another_name_are_not_taken_for_these(tmp_path):
    """transformers would load them in place of model.safetensors."""
    made("llama").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    named = {**json.loads(config.read_text()), "transformers_weights": "deep/other.safetensors"}
    config.write_text(json.dumps(named))
    with pytest.raises(UserError, match="by transformers_weights, which is not read here"):
        directory_source(tmp_path)


def test_a_config_with_a_value_of_another_kind_is_named(tmp_path):
    made("llama").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "layer_types": [["full"]]}))
    with pytest.raises(UserError, match=r"config\.json of"):
        shape_of(directory_source(tmp_path))


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(float("nan"), torch.float32), (float("-inf"), torch.bfloat16), (1e6, torch.float16)],
)
def test_weights_that_are_not_finite_are_refused(number, dtype, tmp_path):
    """Scores of such a model would be those of nothing."""
    model = made("llama")
    model.lm_head.weight.data[-1, -1] = number
    model.to(dtype).save_pretrained(tmp_path)
    said = r"lm_head\.weight holds a number that is not finite"
    with pytest.raises(UserError, match=said):
        load_model(directory_source(tmp_path), ModelConfig(path=str(tmp_path)), "auto", "cpu")
