"""FSDP2's checkpoints hold pickles; what they name is not run."""

import pickle
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as sharded

from talr_cli.errors import UserError
from talr_cli.training.loop import _check_strategy
from talr_cli.training.sharded_checkpoint import read_as_data

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def state(value=1e-3):
    weights = {"kernel": torch.arange(6.0, dtype=torch.bfloat16), "step": torch.tensor(3)}
    return {"model": weights, "groups": [{"lr": value, "betas": (0.9, 0.99), "fused": None}]}


def test_what_torch_writes_is_read(tmp_path):
    sharded.save(state(), checkpoint_id=tmp_path / "optimizer_0")
    found = state(0.0)
    found["model"]["kernel"].zero_()
    with read_as_data(tmp_path):
        sharded.load(found, checkpoint_id=tmp_path / "optimizer_0")
    assert found["groups"] == state()["groups"]
    assert torch.equal(found["model"]["kernel"], state()["model"]["kernel"])


def test_metadata_that_names_a_function_is_refused(tmp_path):
    sharded.save(state(), checkpoint_id=tmp_path / "optimizer_0")
    marker = tmp_path / "marker"
    (tmp_path / "optimizer_0" / ".metadata").write_bytes(pickle.dumps(Attack(marker)))
    with (
        pytest.raises(UserError, match=r"\.metadata is not what torch writes"),
        read_as_data(tmp_path),
    ):
        pass
    assert not marker.exists()


def test_a_function_by_way_of_a_module_that_may_be_named_is_refused(tmp_path):
    (tmp_path / "optimizer_0").mkdir()
    marker = tmp_path / "marker"
    command = pickle.SHORT_BINUNICODE + bytes([len(f"touch {marker}")]) + f"touch {marker}".encode()
    named = b"\x80\x04\x8c\x07pathlib\x8c\tos.system\x93" + command + b"\x85R."
    (tmp_path / "optimizer_0" / ".metadata").write_bytes(named)
    with pytest.raises(UserError, match=r"it names pathlib\.os\.system"), read_as_data(tmp_path):
        pass
    assert not marker.exists()


def test_a_value_that_names_a_function_is_not_read(tmp_path):
    marker = tmp_path / "marker"
    sharded.save(state(Attack(marker)), checkpoint_id=tmp_path / "optimizer_0")
    with pytest.raises(UserError, match="more than tensors"), read_as_data(tmp_path):
        sharded.load(state(), checkpoint_id=tmp_path / "optimizer_0")
    assert not marker.exists()
    sharded.load(state(), checkpoint_id=tmp_path / "optimizer_0")
    assert marker.exists(), "else the test proves nothing"


@pytest.mark.parametrize(
    ("name", "now_sharded", "said"),
    [
        ("pytorch_model_fsdp_0", True, None),
        ("model.safetensors", False, None),
        ("pytorch_model_fsdp_0", False, "strategy=fsdp2 and cannot be read under ddp"),
        ("model.safetensors", True, "strategy=ddp and cannot be read under fsdp2"),
    ],
)
def test_a_checkpoint_of_the_other_strategy_is_refused(name, now_sharded, said, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=said) if said else nullcontext():
        _check_strategy(tmp_path, now_sharded)
