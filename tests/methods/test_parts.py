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
from talr_cli.methods.adapters import Lora, Oft
from talr_cli.methods.averaging import Averaging, Lines, interpolate
from talr_cli.methods.replay import assign_replayed_rows


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
        (["method=averaging", "merge.alpha=[0,0.5,1]"], "averaging0,1"),
        (["method=asft"], "dft+kl"),
        (["method=kl", "replay=general", "adapter=lora"], "lora+kl+replay"),
        (["method=dora"], "dora"),
        (["method=talr", "adapter=rslora"], "talr+rslora"),
        (["method=oft"], "oft"),
        (["method=lines"], "lines"),
        (["method=lines", "merge.alpha=0.3", "merge.beta=0.2"], "lines0.3b0.2"),
        (["method=talr", "merge=ema", "merge.decay=0.9"], "talr+ema0.9"),
        (["merge=ema"], "ema"),
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
def test_averaging_at_alpha_0_and_1_gives_the_two_models_bit_for_bit(endpoints, alpha):
    base, tuned, into, theta0, theta = endpoints
    interpolate(base, tuned, into, lambda tensor: alpha)
    expected = theta if alpha else theta0
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded(into).items())


def test_averaging_is_linear_in_fp32(endpoints):
    base, tuned, into, theta0, theta = endpoints
    interpolate(base, tuned, into, lambda tensor: 0.3)
    result = loaded(into)
    assert result.keys() == theta.keys()
    for name in "abc":
        expected = 0.7 * theta0[name].double() + 0.3 * theta[name].double()
        assert torch.equal(result[name], expected.bfloat16()), name
    assert result["count"].tolist() == [5]


def test_averaging_models_of_different_tensors_is_refused(endpoints):
    base, tuned, into, _, _ = endpoints
    save_file({"a": torch.zeros(4, 3)}, base / "model.safetensors")
    with pytest.raises(ValueError, match="different tensors, such as b"):
        interpolate(base, tuned, into, lambda tensor: 0.5)


# LiNeS


def test_lines_keeps_more_of_the_change_the_deeper_the_layer(tmp_path):
    """theta_0 + (alpha + beta * l / (L - 1)) * change, and alpha outside the layers."""
    base, tuned, into = (tmp_path / name for name in ("base", "tuned", "into"))
    names = {
        "model.embed_tokens.weight": 0.2,
        "model.layers.0.mlp.up_proj.weight": 0.2,
        "model.layers.1.mlp.experts.2.up_proj.weight": 0.2 + 0.5 * 1 / 2,
        "model.layers.2.input_layernorm.weight": 0.2 + 0.5,
        "model.norm.weight": 0.2,
        "lm_head.weight": 0.2,
    }
    torch.manual_seed(0)
    theta0, theta = ({name: torch.randn(4, 3) for name in names} for _ in range(2))
    for folder, tensors in ((base, theta0), (tuned, theta), (into, None)):
        folder.mkdir()
        if tensors:
            save_file(tensors, folder / "model.safetensors")
    lines = Lines(alpha=0.2, beta=0.5)
    interpolate(base, tuned, into, lambda tensor: lines.share_of(tensor, 3))
    for name, tensor in loaded(into).items():
        change = theta[name].double() - theta0[name].double()
        expected = theta0[name].double() + names[name] * change
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)
    usual = Lines(alpha=0.3)
    shares = [usual.share_of(f"model.layers.{layer}.a.weight", 5) for layer in range(5)]
    assert shares == pytest.approx([0.3, 0.475, 0.65, 0.825, 1.0])
    assert shares[-1] == 1.0  # as trained, bit for bit
    assert usual.share_of("model.layers.0.a.weight", 1) == 1.0


# Replay


@given(
    st.lists(st.integers(1, 300), min_size=30, max_size=200),
    st.lists(st.integers(1, 90), min_size=1, max_size=20),
    st.floats(0.01, 0.5),
)
def test_the_replay_share_is_met_to_within_one_row(domain, general, share):
    owed = share / (1 - share) * sum(domain)
    try:
        taken = assign_replayed_rows(domain, general, share)
    except UserError:  # no row at all
        assert owed < general[0] / 2
        return
    assert len(taken) == len(domain)
    tokens = sum(general[index] for rows in taken for index in rows)
    assert tokens > 0
    assert abs(tokens - owed) <= max(general)
    order = [index for rows in taken for index in rows]
    assert order == [number % len(general) for number in range(len(order))]


# LoRA


@pytest.mark.parametrize(
    "adapter",
    [
        Lora(rank=4, alpha=8),
        Lora(rank=4, alpha=8, rslora=True),
        Lora(rank=4, alpha=8, dora=True),
        Oft(block_size=8),
        Oft(block_size=8, cayley_neumann=True),
    ],
    ids=["lora", "rslora", "dora", "oft", "oft-series"],
)
def test_a_merged_adapter_gives_the_logits_of_the_adapted_model(adapter):
    base = toy()
    start = copy.deepcopy(base.state_dict())
    adapted = adapter.wrap(base, "some/base")
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                assert "lora_" in name or "oft_R" in name
                parameter += 0.1 * torch.randn_like(parameter)
    before = adapted(ids).logits
    assert adapted.peft_config["default"].base_model_name_or_path == "some/base"
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, before, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == start.keys()
    assert not torch.equal(
        merged.state_dict()["model.layers.0.mlp.up_proj.weight"],
        start["model.layers.0.mlp.up_proj.weight"],
    )


def test_merged_weights_follow_the_formula_of_each_adapter():
    """Written anew in float64, of one matrix W: LoRA, rsLoRA, DoRA and OFT."""
    name, rank, alpha, block = "model.layers.1.mlp.down_proj", 4, 6.0, 8
    before = toy().get_submodule(name).weight.detach().double()  # [16, 32]

    def merged(adapter):
        model = adapter.wrap(toy(), "some/base")
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
        module = model.get_submodule(f"base_model.model.{name}")
        parts = {key: one.detach().double() for key, one in module.named_parameters()}
        return parts, model.merge_and_unload().get_submodule(name).weight.detach().double()

    for options, scale in (({}, alpha / rank), ({"rslora": True}, alpha / rank**0.5)):
        parts, after = merged(Lora(rank=rank, alpha=alpha, **options))
        change = parts["lora_B.default.weight"] @ parts["lora_A.default.weight"]
        torch.testing.assert_close(after, before + scale * change, rtol=1e-5, atol=1e-6)
    parts, after = merged(Lora(rank=rank, alpha=alpha, dora=True))
    moved = before + alpha / rank * (
        parts["lora_B.default.weight"] @ parts["lora_A.default.weight"]
    )
    lengths = parts["lora_magnitude_vector.default.weight"]
    expected = lengths[:, None] * moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
    parts, after = merged(Oft(block_size=block))
    rotations = []
    for numbers in parts["oft_R.default.weight"]:
        skew = torch.zeros(block, block, dtype=torch.float64)
        skew[tuple(torch.triu_indices(block, block, 1))] = numbers
        skew = skew - skew.T
        eye = torch.eye(block, dtype=torch.float64)
        rotations.append((eye - skew) @ torch.linalg.inv(eye + skew))
    rotation = torch.block_diag(*rotations)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(32, dtype=torch.float64))
    torch.testing.assert_close(after, before @ rotation.T, rtol=1e-5, atol=1e-6)
