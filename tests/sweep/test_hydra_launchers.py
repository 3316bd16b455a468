"""SLURM's launcher with its local executor, Ray on a cluster of this machine."""

import importlib.util
import json

import pytest
from command_line import talr

FEW = (
    *("model=tiny", "dataset.train_rows=8", "dataset.validation_rows=4", "dataset.test_rows=4"),
    *("suite.limit=1", "suite.drift=false", "domain.max_new_tokens=2", "device=cpu"),
)


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
    assert states(tmp_path) == [("sft-lr1e+30", "diverged"), ("sft-lr1e-3", "trained")]
    again = talr(*sweep, cwd=tmp_path)
    assert "found done" in again.stdout + again.stderr


@pytest.mark.parametrize(("launcher", "module"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_says_what_to_install(launcher, module, tmp_path):
    if is_installed(module):
        pytest.skip(f"{module} is installed")
    done = talr("sweep", *FEW, "lr=1e-3", f"launcher={launcher}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"pip install -e '.[{launcher}]'" in done.stderr
