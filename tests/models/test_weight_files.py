"""The weights that are read from a folder are those that transformers loads from it."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import made
from transformers import AutoModelForCausalLM

from talr_cli.methods.averaging import interpolate
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
def test_they_are_those_that_transformers_loads(shards, change, tmp_path):
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


def test_a_folder_without_an_index_has_none(shards):
    (shards / INDEX).unlink()
    assert weight_files(shards) == []
    shutil.copy(shards / "consolidated.safetensors", shards / SINGLE)
    assert weight_files(shards) == [shards / SINGLE]
