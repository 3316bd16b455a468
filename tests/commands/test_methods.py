"""Every method through the real command line on the tiny model: what it does to the weights."""

import json

import pytest
import torch
from command_line import SMALL, rows, same, talr, train, weights
from safetensors.torch import load_file

from talr_cli.models import loading, sources

FAST = ("eval=false", "lr=1e-3")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def sft(study):
    return train("method=sft", *FAST, cwd=study)


@pytest.fixture(scope="module")
def base(tiny_source):
    return load_file(tiny_source.directory / "model.safetensors")


def distance(one, other):
    return sum(float((one[k] - other[k]).square().sum()) for k in one) ** 0.5


def test_l2_ends_nearer_to_the_base_the_more_it_pulls(study, sft, base):
    strong = train(
        "method=l2", "regulariser.strength=10", "regulariser.reduction=sum", *FAST, cwd=study
    )
    assert distance(weights(strong), base) < 0.7 * distance(weights(sft), base)
    assert rows(strong)[-1]["penalty"] > 0
    written = json.loads((sft / "training.json").read_text())["weights"]["distance"]
    assert written == pytest.approx(distance(weights(sft), base), rel=1e-4)


def test_l2_without_strength_is_sft_bitwise(study, sft):
    assert same(
        weights(train("method=l2", "regulariser.strength=0", *FAST, cwd=study)), weights(sft)
    )


def test_kl_ends_with_predictions_nearer_to_the_base(study, sft):
    held = train("method=kl", "regulariser.beta=50", *FAST, cwd=study)
    assert rows(held)[-1]["loss"] > rows(sft)[-1]["loss"]


def test_talr_moves_easy_tokens_first(study, sft):
    """The tokens that it makes likely are those that it weighs: few, and early."""
    run = train("method=talr", *FAST, cwd=study)
    assert rows(run)[0]["weight_p10"] < rows(run)[0]["weight_p90"]
    assert rows(run)[-1]["hard_token_share"] >= rows(sft)[-1]["hard_token_share"]


def test_talr_at_infinite_temperature_is_sft_bitwise(study, sft):
    assert same(weights(train("method=talr", "objective.tau=inf", *FAST, cwd=study)), weights(sft))


@pytest.mark.parametrize(
    "typed",
    ["lora adapter.rank=4", pytest.param("oft adapter.block_size=16", marks=pytest.mark.slow)],
)
def test_an_adapter_changes_only_what_has_one(typed, study, base, tiny_config):
    run = train(*f"method={typed}".split(), *FAST, cwd=study)
    trained = weights(run)
    for name, tensor in base.items():
        adapted = name.endswith("proj.weight")
        assert torch.equal(trained[name], tensor) != adapted, name
    adapter = sources.directory_source(run / "adapter")
    merged = loading.load_model(adapter, tiny_config, "auto", "cpu").state_dict()
    for name, tensor in trained.items():
        torch.testing.assert_close(merged[name], tensor)


def test_averaging_takes_the_run_that_is_there_and_makes_one_of_each_alpha(study, sft, base):
    before = (sft / "model/model.safetensors").stat().st_mtime_ns
    done = talr("train", *SMALL, *FAST, "method=averaging", "merge.alpha=[0,0.25,1]", cwd=study)
    assert done.returncode == 0, done.stderr
    assert "found this run done" in done.stderr
    assert (sft / "model/model.safetensors").stat().st_mtime_ns == before
    lines = [line for line in done.stdout.splitlines() if line.startswith("run directory: ")]
    zero, quarter, one = (weights(study / line.removeprefix("run directory: ")) for line in lines)
    assert same(zero, base)
    assert same(one, weights(sft))
    for name, tensor in quarter.items():
        torch.testing.assert_close(tensor, 0.75 * base[name] + 0.25 * weights(sft)[name])


def test_lines_takes_the_run_that_is_there_and_keeps_more_of_the_deeper_layers(study, sft, base):
    done = talr("train", *SMALL, *FAST, "method=lines", "merge.alpha=[0,1]", cwd=study)
    assert done.returncode == 0, done.stderr
    assert "found this run done" in done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("run directory: ")]
    zero, one = (weights(study / line.removeprefix("run directory: ")) for line in lines)
    assert same(one, weights(sft))
    for name, tensor in weights(sft).items():
        is_last = name.startswith("model.layers.1.")  # of two
        assert torch.equal(zero[name], tensor if is_last else base[name]), name


def test_replay_trains_on_its_share_of_general_tokens(study, sft):
    run = train("method=replay", "replay.share=0.25", *FAST, cwd=study)
    counts = [
        json.loads((one / "training.json").read_text())["training"]["target_tokens"]
        for one in (sft, run)
    ]
    assert 1 - counts[0] / counts[1] == pytest.approx(0.25, abs=0.03)


def test_stm_says_how_much_it_masks_and_trains_on_the_rest(study, sft):
    run = train("method=stm", "objective.threshold=5e4", *FAST, cwd=study)
    training = [json.loads((one / "training.json").read_text())["training"] for one in (run, sft)]
    share = training[0]["masked_share"]
    assert 0 < share < 1
    assert training[0]["target_tokens"] == round((1 - share) * training[1]["target_tokens"])


@pytest.mark.slow
def test_the_controls_of_talr_begin_where_it_does(study):
    """At the base's weights the base's probabilities are the current ones."""
    talr, of_base, shuffled = (
        rows(train(f"method={name}", "trainer.precision=fp32", *FAST, cwd=study))
        for name in ("talr", "talr-base", "talr-shuffled")
    )
    for name in ("loss", "tau", "weight_mean", "weight_p10", "weight_p50", "weight_p90"):
        assert of_base[0][name] == pytest.approx(talr[0][name], rel=1e-4), name
        assert shuffled[0][name] == pytest.approx(talr[0][name], rel=1e-6), name
    assert of_base[-1]["weight_mean"] != pytest.approx(talr[-1]["weight_mean"], rel=1e-3)
    assert shuffled[0]["grad_norm"] != pytest.approx(talr[0]["grad_norm"], rel=1e-3)


def test_flow_measures_the_base_once_for_every_rate(study):
    overrides = ("method=flow", "dataset.data_seed=7", "eval=false")
    first = talr("train", *SMALL, *overrides, "lr=1e-3", cwd=study)
    again = talr("train", *SMALL, *overrides, "lr=1e-4", "seed=3", cwd=study)
    assert first.returncode == again.returncode == 0
    assert "base losses: found those of 24 rows" in again.stderr


def test_an_objective_from_outside_the_package(study):
    """As the README shows it: one file of maths, one YAML."""
    (study / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from talr_cli.methods.base import Objective\n\n"
        "@dataclass\n"
        "class Focal(Objective):\n"
        "    gamma: float = 2.0\n\n"
        "    def weights(self, tokens, tau):\n"
        "        return (1 - tokens.log_probs.detach().exp()) ** self.gamma\n"
    )
    folder = study / "conf" / "objective"
    folder.mkdir(parents=True)
    (folder / "focal.yaml").write_text("_target_: mine.Focal\ngamma: 1.0\n")
    done = talr("train", "--config-dir", "conf", "objective=focal", *SMALL, *FAST, cwd=study)
    assert done.returncode == 0, done.stderr
    run = study / done.stdout.rpartition("run directory: ")[2].strip()
    assert run.name.startswith("focal-")
    first = rows(run)[0]
    assert 0 < first["weighted_loss"] < first["loss"]
