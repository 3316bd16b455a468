"""One run as two processes on a CPU (gloo), through the real command line."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from command_line import LONG_ROWS, SMALL, TIMEOUT, in_two_ranks, rows, sealed, talr, train, weights
from conftest import config
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from talr_cli import ranks
from talr_cli.errors import UserError
from talr_cli.run.identity import identity
from talr_cli.runs.run_directory import RunDirectory

# 22 rows in batches of 4: the last batch of an epoch is half a batch. Without clipping, because
# the norm that torch computes in fp32 depends on how the weights are cut up.
COMMON = (
    *("dataset.train_rows=22", "lr=1e-3", "eval=false", "trainer.precision=fp32"),
    *("trainer.max_grad_norm=1e9", "trainer.save_dtype=float32"),
)
DDP, FSDP2 = (
    (f"distributed={name}", "distributed.processes=2", f"study={name}") for name in ("ddp", "fsdp2")
)
L2 = ("method=l2", "regulariser.reduction=sum", "regulariser.strength=1")
CASES = {
    "sft": ("method=sft",),
    "talr": ("method=talr",),
    "talr in micro-batches": (
        *("method=talr", "objective.tau_estimator=exact", "trainer.micro_batch_size=1"),
    ),
    "l2": L2,
    "l2 mean": ("method=l2", "regulariser.strength=1e5"),
    "kl": ("method=kl",),
    "eaft": ("method=eaft",),
    "flow": ("method=flow",),
    "lora": ("method=lora",),
    "oft": ("method=oft",),
    "finch with ema": ("method=finch", "merge=ema", "merge.decay=0.8"),
    "replay": ("method=replay",),
    "tailsft": ("method=tailsft", "objective.schedule=static", "trainer.micro_batch_size=1"),
    "talr shuffled": ("method=talr-shuffled", "replay=general"),
    "talr-base": ("method=talr-base", "trainer.micro_batch_size=1"),
    "stm": ("method=stm", "objective.threshold=5e4"),
    "bf16": ("trainer.precision=bf16",),
    "recomputed": ("trainer.gradient_checkpointing=true",),
}


def assert_same_run(one, other, tolerance=1e-5):
    """The same steps, and weights that differ by rounding only, measured by how far they moved."""
    ours, theirs = rows(one), rows(other)
    for key in ("loss", "weighted_loss", "target_tokens", "penalty", "tau", "lr"):
        values = [[row[key] for row in run if key in row] for run in (ours, theirs)]
        np.testing.assert_allclose(*values, rtol=tolerance, err_msg=key)
    expected, actual = weights(one), weights(other)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert float((actual[name] - tensor).norm() / tensor.norm()) < 10 * tolerance, name
    counts = [json.loads((run / "training.json").read_text())["training"] for run in (one, other)]
    assert counts[0]["target_tokens"] == counts[1]["target_tokens"]
    assert [count["processes"] for count in counts] == [1, 2]
    assert one.name == other.name  # the identity


@pytest.mark.parametrize(
    "case", ["l2", *(pytest.param(one, marks=pytest.mark.slow) for one in CASES if one != "l2")]
)
def test_two_processes_follow_the_trajectory_of_one(case, tmp_path):
    # A KL of a thousandth is the difference of numbers that are nearly equal.
    tolerance = {"bf16": 2e-3, "kl": 3e-5}.get(case, 1e-5)
    one = train(*COMMON, *CASES[case], cwd=tmp_path)
    for strategy in (DDP, FSDP2):
        other = train(*COMMON, *CASES[case], *strategy, cwd=tmp_path)
        assert_same_run(one, other, tolerance)


@pytest.mark.slow
def test_ranks_started_by_torchrun_are_one_run_that_is_scored_once(tmp_path):
    run = ("torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "talr_cli.cli")
    command = [sys.executable, "-m", *run, "train", *SMALL, "method=averaging", "logger=none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run directory:") == 1
    (results,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*/results.json"))
    assert [results[part]["processes"] for part in ("training", "general", "domain")] == [2, 2, 2]
    assert results["domain"]["n"] == 6
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("found this run done") == 2  # what is averaged, and the average


def wait_with_a_group_for_gpus(folder):
    """What ranks say to each other, where the group of the gradients takes CUDA's tensors alone."""
    torch.distributed.init_process_group("cuda:gloo")
    ranks.connect("auto")
    (device,) = torch.distributed.group.WORLD._device_types
    assert device.type == "cuda"
    waits = ranks._waiting._get_backend(torch.device("cpu")).options._timeout
    own = ranks.rank()
    with ranks.one_per_node_first():
        firsts = sorted(path.name for path in folder.iterdir())
        (folder / str(own)).touch()
    ranks.wait_for_all()
    said = ranks.broadcast(own), ranks.gather([own, -own]), firsts
    stops = [ranks.any_of(flag) for flag in (own == 1, False)]
    if own:
        assert list(ranks.orders()) == []
    ranks.disconnect()
    (folder / f"{own}.json").write_text(json.dumps([*said, stops, waits.days]))


def test_ranks_wait_without_their_gpus_and_without_end(tmp_path):
    in_two_ranks(wait_with_a_group_for_gpus, tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    same = (0, [0, 0, 1, -1]), ([True, False], 365)
    assert found == [[*same[0], firsts, *same[1]] for firsts in ([], ["0"])]


def test_a_network_by_which_ranks_do_not_meet_is_named(monkeypatch):
    def fail(**settings):
        raise RuntimeError("Gloo connectFullMesh failed\n with timeout")

    monkeypatch.setattr("torch.distributed.new_group", fail)
    with pytest.raises(UserError, match=r"failed with timeout.*GLOO_SOCKET_IFNAME"):
        ranks._connect_waiting()


def test_a_driver_with_which_cards_cannot_talk_is_one_line(monkeypatch):
    def refuse(**settings):  # as accelerate does for RTX 4090s
        raise NotImplementedError('Please set `NCCL_P2P_DISABLE="1"`')

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", refuse)
    with pytest.raises(UserError, match="Please set `NCCL_P2P_DISABLE"):
        ranks.connect("cuda")


@pytest.mark.parametrize("device", ["auto", "mps"])
def test_an_apple_gpu_takes_one_process(device, monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    typed = config("train", "distributed.processes=2").distributed
    with pytest.raises(UserError, match="one process"):
        ranks.missing_ranks(typed, device)
    assert ranks.missing_ranks(typed, "cpu") == 2


@pytest.mark.parametrize(
    "answer_by", ["likelihood", pytest.param("generation", marks=pytest.mark.slow)]
)
def test_a_checkpoint_is_scored_by_all_ranks_as_by_one(answer_by, tmp_path):
    """3 ranks for 4 rows of each: one has two, and of the second batch some have none."""
    scored = (
        *("model=tiny", "device=auto", "limit=4", f"domain.answer_by={answer_by}"),
        *("dataset=esci-mini", "dataset.target=label", "domain.batch_size=2"),
    )
    one, other = (
        tmp_path / talr("eval", *scored, *more, cwd=tmp_path).stdout.rpartition(": ")[2].strip()
        for more in ((), ("distributed=ddp", "distributed.processes=3", "study=shared"))
    )
    ours, theirs = (json.loads((run / "results.json").read_text()) for run in (one, other))
    assert [run["domain"]["processes"] for run in (ours, theirs)] == [1, 3]
    for name, task in ours["general"]["tasks"].items():
        assert theirs["general"]["tasks"][name]["items"] == task["items"]
    assert ours["drift"] == theirs["drift"]
    for file in sorted((one / "samples").iterdir()):
        lines = [path.read_text().splitlines() for path in (file, other / "samples" / file.name)]
        for expected, found in zip(*lines, strict=True):
            assert_near(json.loads(expected), json.loads(found))


def assert_near(expected, found):
    """Numbers are the same within rounding, all else is equal."""
    if isinstance(expected, dict):
        assert expected.keys() == found.keys()
        expected, found = list(expected.values()), list(found.values())
    if isinstance(expected, list):
        for one, other in zip(expected, found, strict=True):
            assert_near(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4)
    else:
        assert expected == found


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2], ids=["ddp", "fsdp2"])
def test_killed_ranks_go_on_and_end_with_the_same_weights(strategy, tmp_path):
    """L2 too pulls to the base, not to the checkpoint."""
    common = (*COMMON, *L2, LONG_ROWS)
    one = train(*common, cwd=tmp_path)
    command = [sys.executable, "-m", "talr_cli.cli", "train", *SMALL, *common, *strategy]
    process = subprocess.Popen(
        [*command, "logger=none"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    study = strategy[2].removeprefix("study=")
    deadline = time.monotonic() + TIMEOUT
    while not (marker := sealed(tmp_path, f"runs/{study}/*/*/checkpoints/*/talr.manifest")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    status = json.loads((marker[0].parents[2] / "status.json").read_text())
    os.kill(status["pid"], signal.SIGKILL)  # rank 0; the others are taken along
    process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    other = train(*common, *strategy, cwd=tmp_path)
    training = json.loads((other / "training.json").read_text())["training"]
    assert training["resumed_from_step"] == 6
    assert_same_run(one, other)


TWO = ("distributed=ddp", "distributed.processes=2")
# An objective that ends a rank in the midst of its training, until there is a file `spared`.
ENDS = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from talr_cli.fields import value
from talr_cli.methods.objectives import Sft
calls = []
@dataclass
class Ends(Sft):
    rank: int = value("whose", 0)
    kills: bool = value("or raises", True)
    def weights(self, tokens, tau):
        calls.append(tokens)
        if int(os.environ.get("RANK", -1)) == self.rank and len(calls) > 10:
            if self.kills and not Path("spared").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            if not self.kills:
                raise ValueError("this row is bad")
        return super().weights(tokens, tau)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "kills", "code", "said"),
    [
        (0, True, 2, "talr: rank 0 was killed by SIGKILL, as the system does when memory has"),
        (1, True, 2, "talr: rank 1 was killed by SIGKILL, as the system does when memory has"),
        (1, False, 1, "talr: rank 1: ValueError: this row is bad at "),
    ],
)
def test_a_rank_that_dies_is_reported_in_one_line(rank, kills, code, said, tmp_path):
    (tmp_path / "ends.py").write_text(ENDS)
    (tmp_path / "mine/objective").mkdir(parents=True)
    keys = f"_target_: ends.Ends\nrank: {rank}\nkills: {kills}\n"
    (tmp_path / "mine/objective/ends.yaml").write_text(keys)
    typed = (*COMMON, *TWO, "--config-dir", "mine", "objective=ends")
    done = talr("train", *SMALL, *typed, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert sum(line.startswith(said) for line in done.stderr.splitlines()) == 1, done.stderr
    assert "gloo" not in done.stderr
    assert "Traceback" not in done.stderr
    (status,) = tmp_path.glob("runs/*/*/*/status.json")
    assert RunDirectory(status.parent).read_status().state == "interrupted"
    if kills:
        (tmp_path / "spared").touch()
        run = train(*typed, cwd=tmp_path)
        assert json.loads((run / "training.json").read_text())["training"]["resumed_from_step"]


@pytest.mark.parametrize(
    ("codes", "error", "match"),
    [
        ({1: -signal.SIGKILL}, UserError, "rank 1 was killed by SIGKILL, .*: type the same"),
        # Rank 0 may be seen to have ended at the same time, as it lost the other.
        ({0: 2, 1: -signal.SIGSEGV}, UserError, "rank 1 was killed by SIGSEGV"),
        ({0: 2, 1: 1}, SystemExit, "1"),
        # Those that are left are told to end.
        ({0: -signal.SIGKILL, 1: 130}, UserError, "rank 0 was killed by SIGKILL"),
        ({0: 2, 1: -signal.SIGTERM}, SystemExit, "2"),
        ({0: 130, 1: 130}, SystemExit, "130"),
    ],
)
def test_the_run_ends_as_its_failed_rank_did(codes, error, match, monkeypatch, tmp_path):
    failures = {rank: ProcessFailure(rank, 1, code, "none") for rank, code in codes.items()}

    def fail(*command):
        raise ChildFailedError("talr", failures)

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *settings: fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(error, match=match):
        ranks.start_ranks("train", [], 2)
    assert not list(tmp_path.iterdir())  # torch has a folder there by default, and leaves it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train", *SMALL, "trainer.max_length=60"), "trainer.max_length=60"),
        (
            ("eval", "model=tiny", "device=cpu", "limit=1", "suite.metrics.mini_python=f1"),
            "suite.metrics: f1: mini_python has acc,none",
        ),
    ],
    ids=["train", "eval"],
)
def test_a_mistake_under_ddp_is_one_line(command, said, tmp_path):
    done = talr(*command, *TWO, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("talr:"))
    assert said in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_divergence_is_recorded(tmp_path):
    done = talr("train", *SMALL, *TWO, "lr=1e30", "trainer.max_grad_norm=1e30", cwd=tmp_path)
    assert done.returncode == 2
    (status,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*/status.json"))
    assert status["state"] == "diverged"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("trainer.batch_size=3",), "not a multiple of 2 processes"),
        (("trainer.batch_size=8", "trainer.micro_batch_size=3"), "micro_batch_size=3"),
        (("trainer.batch_size=4", "trainer.micro_batch_size=4"), "micro_batch_size=4"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(overrides, expected):
    with pytest.raises(UserError, match=expected):
        shared_out(overrides, 2)


def shared_out(overrides, processes):
    trainer = config("train", *overrides).trainer
    return ranks.per_rank(trainer.batch_size, trainer.rows_at_once, processes)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [((), (4, 1)), (("trainer.micro_batch_size=1",), (1, 4))],
)
def test_a_batch_is_shared_out(overrides, expected):
    assert shared_out(("trainer.batch_size=16", *overrides), 4) == expected


def test_one_process_never_spreads_over_the_gpus_it_sees(monkeypatch, tmp_path):
    """transformers would make it DataParallel, with a batch for each GPU."""
    from talr_cli.training import loop

    class EightGpus(loop.SFTConfig):
        def __post_init__(self):
            super().__post_init__()
            self._n_gpu = 8

    monkeypatch.setattr(loop, "SFTConfig", EightGpus)
    given = config("train")
    setting = loop.Setting(
        given.trainer,
        given.optimizer,
        given.schedule,
        given.lr,
        given.seed,
        given.distributed,
        "cpu",
    )
    arguments = loop.trainer_arguments(setting, RunDirectory(tmp_path))
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 4


def test_the_number_of_processes_does_not_count_for_the_identity():
    shared = ("experiment=demo", "method=talr")
    assert identity(config("train", *shared), "x") == identity(
        config("train", *shared, "distributed=fsdp2", "distributed.processes=8"), "x"
    )


def test_without_a_gpu_the_number_of_processes_must_be_given():
    with pytest.raises(UserError, match=r"distributed\.processes=N"):
        ranks.missing_ranks(config("train", "distributed=ddp").distributed, "cpu")
