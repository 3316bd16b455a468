"""The parts of a method beside the objective: names, refusals, averaging, replay, LoRA."""

import copy
import json

import pytest
import torch
from conftest import config
from hypothesis import given
from hypothesis import strategies as st
from optimizer_step import toy
from safetensors.torch import load_file, save_file

from talr_cli.errors import UserError
from talr_cli.methods.adapters import Lora
from talr_cli.methods.averaging import Averaging, interpolate
from talr_cli.methods.replay import spread


def method(*overrides):
    return config("train", *overrides).parts


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "sft"),
        (["method=talr"], "talr"),
        (["method=l2"], "l2"),
        (["method=talr", "adapter=lora"], "talr+lora"),
        (["method=lora", "objective=talr"], "talr+lora"),
        (["method=flow", "regulariser=l2"], "flow+l2"),
        (["method=talr", "merge=averaging", "merge.alpha=0.7"], "talr+averaging0.7"),
        (["method=averaging"], "averaging"),
        (["method=asft"], "dft+kl"),
        (["method=kl", "replay=general", "adapter=lora"], "lora+kl+replay"),
        (["method=stm", "adapter=lora"], "stm+lora"),
        (["method=tailsft"], "tailsft"),
        (["method=self-sft"], "self-sft"),
        (["method=self-replay", "objective=talr"], "talr+self-replay"),
        (["method=talr-base"], "talr-base"),
        (["method=talr-shuffled", "objective.probabilities=base"], "talr-base-shuffled"),
    ],
)
def test_methods_compose_and_are_named_by_their_parts(overrides, name):
    assert method(*overrides).name == name


def test_l2_with_lora_is_refused_with_its_reason():
    with pytest.raises(UserError, match="regulariser=l2 does not go with adapter=lora"):
        method("method=lora", "regulariser=l2")


@pytest.mark.parametrize("alpha", [-0.1, 1.5, "half", [0.2, 2], [], True])
def test_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(UserError, match=r"merge\.alpha"):
        Averaging(alpha)


# Averaging


@pytest.fixture
def endpoints(tmp_path):
    """Two models of one form on disk: the base in one file, the tuned one in two shards."""
    base, tuned, into = (tmp_path / name for name in ("base", "tuned", "into"))
    for folder in (base, tuned, into):
        folder.mkdir()
    torch.manual_seed(0)
    names = ["a", "b", "c"]
    theta0 = {name: torch.randn(4, 3).bfloat16() for name in names}
    theta = {name: torch.randn(4, 3).bfloat16() for name in names}
    theta0["count"], theta["count"] = torch.tensor([3]), torch.tensor([5])
    save_file(theta0, base / "model.safetensors")
    shards = {"one.safetensors": ["a", "count"], "two.safetensors": ["b", "c"]}
    for file, held in shards.items():
        save_file({name: theta[name] for name in held}, tuned / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (tuned / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return base, tuned, into, theta0, theta


def loaded(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_are_bitwise(endpoints, alpha):
    base, tuned, into, theta0, theta = endpoints
    interpolate(base, tuned, into, alpha)
    expected = theta if alpha else theta0
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded(into).items())


def test_between_the_ends_it_is_linear_in_fp32(endpoints):
    base, tuned, into, theta0, theta = endpoints
    interpolate(base, tuned, into, 0.3)
    result = loaded(into)
    assert result.keys() == theta.keys()
    for name in "abc":
        expected = 0.7 * theta0[name].double() + 0.3 * theta[name].double()
        assert torch.equal(result[name], expected.bfloat16()), name
    assert result["count"].tolist() == [5]


def test_other_tensors_are_refused(endpoints):
    base, tuned, into, _, _ = endpoints
    save_file({"a": torch.zeros(4, 3)}, base / "model.safetensors")
    with pytest.raises(ValueError, match="different tensors, such as b"):
        interpolate(base, tuned, into, 0.5)


# Replay


@given(
    st.lists(st.integers(1, 300), min_size=30, max_size=200),
    st.lists(st.integers(1, 90), min_size=1, max_size=20),
    st.floats(0.01, 0.5),
)
def test_the_share_of_general_tokens_is_met_to_within_a_row(domain, general, share):
    taken = spread(domain, general, share)
    assert len(taken) == len(domain)
    tokens = sum(general[index] for rows in taken for index in rows)
    assert abs(tokens - share / (1 - share) * sum(domain)) <= max(general)
    order = [index for rows in taken for index in rows]
    assert order == [number % len(general) for number in range(len(order))]


# LoRA


@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"dora": True}])
def test_the_merged_model_computes_what_the_adapted_one_did(options):
    base = toy()
    start = copy.deepcopy(base.state_dict())
    adapted = Lora(rank=4, alpha=8, **options).wrap(base, "some/base")
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                assert "lora_" in name
                parameter += 0.1 * torch.randn_like(parameter)
    ids = torch.randint(0, 50, (2, 9))
    before = adapted(ids).logits
    assert adapted.peft_config["default"].base_model_name_or_path == "some/base"
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, before, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == start.keys()
    assert not torch.equal(
        merged.state_dict()["model.layers.0.mlp.up_proj.weight"],
        start["model.layers.0.mlp.up_proj.weight"],
    )
