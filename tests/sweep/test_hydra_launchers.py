"""SLURM's launcher with its local executor, Ray on a cluster of this machine, Optuna."""

import importlib.util
import json

import pytest
import yaml
from command_line import talr

from talr_cli.sweep.search import penalised

FEW = (
    *("model=tiny", "dataset.train_rows=8", "dataset.validation_rows=4", "dataset.test_rows=4"),
    *("suite.limit=1", "suite.drift=false", "domain.max_new_tokens=2", "device=cpu"),
)
ONE_STEP = ("trainer.max_steps=1", "trainer.batch_size=4")


def is_installed(module):
    return importlib.util.find_spec(module) is not None


def needs(module):
    return pytest.mark.skipif(not is_installed(module), reason=f"{module} is not installed")


def states(folder):
    return sorted(
        (path.parent.name.partition("-s0")[0], json.loads(path.read_text())["state"])
        for path in folder.glob("runs/*/*/*/status.json")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "settings"),
    [
        pytest.param("submitit", (), marks=needs("submitit")),
        pytest.param(
            "ray",
            ("hydra.launcher.ray.remote.num_gpus=0", "+hydra.launcher.ray.init.num_cpus=1"),
            marks=needs("ray"),
        ),
    ],
)
def test_a_job_that_fails_leaves_the_others_alone(launcher, settings, tmp_path):
    rates = "lr=1e-3,1e30"  # the second one diverges
    steps = ("trainer.max_steps=3", "trainer.batch_size=4", "trainer.max_grad_norm=1e30")
    sweep = ("sweep", *FEW, *steps, "eval=false", rates, f"launcher={launcher}", *settings)
    done = talr(*sweep, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert states(tmp_path) == [("sft-lr0.001", "trained"), ("sft-lr1e+30", "diverged")]
    again = talr(*sweep, cwd=tmp_path)
    assert "found done" in again.stdout + again.stderr


@needs("optuna")
@pytest.mark.slow
def test_a_search_is_of_runs_that_are_found_again(tmp_path):
    no_base = talr("train", "-m", *FEW, "hydra/sweeper=talr_optuna", "lr=1e-4,1e-3", cwd=tmp_path)
    assert "talr eval study=default" in no_base.stderr
    assert talr("eval", *FEW, cwd=tmp_path).returncode == 0
    search = (
        *("train", "-m", *FEW, *ONE_STEP, "hydra/sweeper=talr_optuna", "hydra.sweeper.n_trials=2"),
        "lr=tag(log,interval(1e-5,1e-2))",
    )
    done = talr(*search, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best = yaml.safe_load((tmp_path / "runs/default/optimization_results.yaml").read_text())
    results = [
        json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/sft-*/results.json")
    ]
    base = json.loads(next(tmp_path.glob("runs/*/*/base-*/results.json")).read_text())
    values = {r["run"]["lr"]: penalised(r, base["general"]["score"], 0.02) for r in results}
    assert len(values) == 2
    assert best["best_value"] == pytest.approx(max(values.values()))
    again = talr(*search, cwd=tmp_path)
    assert again.stderr.count("found this run done") == 2


def test_launchers_that_are_not_installed_say_what_to_install(tmp_path):
    for launcher, module in (("slurm", "submitit"), ("ray", "ray")):
        if not is_installed(module):
            done = talr("sweep", *FEW, "lr=1e-3", f"launcher={launcher}", cwd=tmp_path)
            assert done.returncode == 2
            assert f"pip install -e '.[{launcher}]'" in done.stderr


@pytest.mark.parametrize(
    ("general", "expected"), [(0.60, 0.5), (0.55, 0.5), (0.50, 0.5 - 10 * 0.05), (0.70, 0.5)]
)
def test_general_ability_below_the_bound_costs_ten_times_its_loss(general, expected):
    results = {"general": {"score": general}, "domain": {"score": 0.5}}
    assert penalised(results, base=0.60, max_general_loss=0.05) == pytest.approx(expected)
