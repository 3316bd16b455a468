"""Training on a simulated CUDA device: it runs, and computes what it computes on a CPU.

Every method makes its first step on both, from `make_trainer` on. What the device itself refuses
is in its module.
"""

import json
import tempfile
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from optimizer_step import relative, rows, stub_tokenizer, toy
from safetensors.torch import load_file
from simulated_gpu import in_process, simulated_gpu

from talr_cli.commands.train import main as train_command
from talr_cli.config import composition
from talr_cli.config.commands import conf_dir
from talr_cli.data.rendering import Rendered
from talr_cli.models.sources import ModelSource
from talr_cli.run.make import setting_of
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training.loop import TrainingData, make_trainer
from talr_cli.training.trainer import MethodTrainer

METHODS = sorted(file.stem for file in (conf_dir() / "method").glob("*.yaml"))
# What they do beside a training is done before or after it.
AS_SFT = {"averaging", "lines", "self-sft", "self-replay"}
STRONG = {
    "l2": ("regulariser.strength=100",),
    "kl": ("regulariser.beta=5",),
    "stm": ("objective.threshold=60",),
}


@cache
def composed(*typed):
    """In its parts nothing of a training is left."""
    common = ["model=tiny", "logger=none", "trainer.batch_size=8", "optimizer=sgd", "lr=0.05"]
    return composition.load("train", [*common, "trainer.checkpoint_every_epoch=false", *typed])


def step(device, *typed, steps=1, scale=1.0, counting=None):
    """(the change of all weights, the last step's metrics, its waits) of a training of 8 rows.

    The weights are those of the toy times `scale`; `counting` is the device that counts waits.
    """
    config = composed(f"trainer.max_steps={steps}", *typed)

    def model(dtype=None):
        made = toy()
        made.set_attn_implementation("sdpa")
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(scale)
        return made.to(dtype or torch.float32).to(device)

    given = [Rendered(row["input_ids"], row["labels"]) for row in rows(11)]
    folder = Path(tempfile.mkdtemp())
    trainer = make_trainer(
        setting_of(config, device),
        model(),
        stub_tokenizer(),
        config.parts,
        TrainingData(given[:8], [], given[8:]),
        RunDirectory(folder),
        ModelSource(folder, str(folder), f"random {device} {typed}"),
        model,
        str(folder),
    )
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    before = {name: one.detach().cpu().clone() for name, one in trained.items()}
    seen = []
    log = trainer.log
    trainer.log = lambda logs, *rest: (log(logs, *rest), seen.append(dict(logs)))[0]
    after, end_step = {}, trainer._maybe_log_save_evaluate

    def count(*args, **kwargs):
        end_step(*args, **kwargs)
        waits = Counter() if counting is None else counting.waits.copy()
        after.setdefault(trainer.state.global_step, waits)

    trainer._maybe_log_save_evaluate = count
    trainer.train()
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    moved = torch.cat([(trained[n].detach().cpu() - before[n]).flatten() for n in before])
    numbers = {
        name: value
        for name, value in seen[steps - 1].items()
        if isinstance(value, int | float) and name != "tokens_per_second"
    }
    return moved, numbers, dict(after[steps] - after.get(steps - 1, Counter()))


def refused():
    """The first words of what the device says to each of these, or what it gave."""
    with simulated_gpu() as device:
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        late = there.to("cpu", non_blocking=True)
        before = late.tolist()
        torch.cuda.synchronize()
        pinned = here.pin_memory()
        pinned.to("cuda", non_blocking=True)
        cases = {
            "two devices": lambda: there + here,
            "indices of the other device": lambda: there.index_select(0, torch.tensor([0])),
            "written to the other device": lambda: here.add_(there),
            "numpy": there.numpy,
            "a generator of the other device": lambda: torch.randn(
                3, device="cuda", generator=torch.Generator()
            ),
            "pinned memory written to": lambda: (pinned.add_(1), torch.cuda.synchronize()),
        }
        said = {}
        for name, work in cases.items():
            try:
                said[name] = work()
            except (RuntimeError, TypeError, AssertionError) as error:
                said[name] = " ".join(str(error).split()[:4])
        device.sent.clear()
        scalar, indexed = there + torch.tensor(2.0), there[torch.tensor([0, 1])]
        device.waits.clear()
        with torch.autocast("cuda", torch.bfloat16):
            product = there[None] @ there[:, None]
        numbers = [*scalar.tolist(), *indexed.tolist(), float(product), there.sum().item()]
        waits = sum(device.waits.values())
        return said, numbers, waits, product.dtype, before, late.tolist()


def test_the_simulated_device_refuses_what_cuda_refuses():
    said, numbers, waits, dtype, before, late = in_process(refused)
    assert said == {
        "two devices": "Expected all tensors to",
        "indices of the other device": "Expected all tensors to",
        "written to the other device": "Expected all tensors to",
        "numpy": "can't convert cuda:0 device",
        "a generator of the other device": "Expected a 'cuda' device",
        "pinned memory written to": "pinned memory was written",
    }
    assert numbers == [3.0, 3.0, 3.0, 1.0, 1.0, 3.0, 3.0]
    assert waits == 4
    assert dtype == torch.bfloat16
    assert before != late == [1.0, 1.0, 1.0]


# Beside a method: how it is trained.
TWICE = "trainer.micro_batch_size=4"
WAYS = [
    ("method=sft", "trainer.precision=fp32", "optimizer=adamw"),
    ("method=sft", "trainer.precision=fp32", "optimizer=adafactor"),
    ("method=sft", "trainer.precision=fp32", "optimizer=muon"),
    ("method=sft", "trainer.precision=fp32", "schedule=cosine"),
    ("method=sft", "trainer.precision=fp32", TWICE, "trainer.padding_free=true"),
    ("method=talr", "trainer.precision=fp32", TWICE, "objective.tau_estimator=exact"),
    ("method=talr-shuffled", "trainer.precision=fp32", TWICE),
    ("method=tailsft", "trainer.precision=fp32", TWICE),
    ("method=l2", "trainer.precision=fp32", "regulariser.theta0_device=cpu", *STRONG["l2"]),
    ("method=kl", "trainer.precision=fp32", TWICE, "regulariser.direction=reverse", *STRONG["kl"]),
    ("method=kl", "trainer.precision=fp32", "trainer.gradient_checkpointing=true", *STRONG["kl"]),
    ("method=lora", "trainer.precision=fp32", "regulariser=kl", TWICE),
    ("method=ema", "trainer.precision=fp32", "merge.decay=0.5"),
]
JOINED = [
    ("method=talr", "trainer.precision=bf16", TWICE),
    ("method=talr-shuffled", "trainer.precision=bf16", TWICE),
    ("method=l2", "trainer.precision=bf16", "regulariser.theta0_device=cpu", *STRONG["l2"]),
    ("method=lora", "trainer.precision=bf16", "regulariser=kl", TWICE),
]


def on_both(cases, steps=1, **given):
    """{case: ((change, metrics, waits) on the device, the same on a CPU)}."""
    with simulated_gpu(**given) as device:
        there = {case: step("cuda", *case, steps=steps, counting=device) for case in cases}
    return {case: (there[case], step("cpu", *case, steps=steps)) for case in cases}


def assert_alike(found, bound):
    for case, ((moved, numbers, _), (expected, wanted, _)) in found.items():
        assert relative(moved, expected) < bound, case
        assert numbers.keys() == wanted.keys(), case
        assert numbers == pytest.approx(wanted, rel=bound, abs=bound / 100), case


def cases(precision, *typed):
    return [
        (f"method={one}", f"trainer.precision={precision}", *STRONG.get(one, ()), *typed)
        for one in METHODS
        if one not in AS_SFT
    ]


def test_every_method_makes_the_step_that_it_makes_on_a_cpu():
    assert_alike(in_process(on_both, cases("fp32")), 1e-4)


# transformers reads the loss, we read all else in one copy.
READ = {"_local_scalar_dense in trainer.py": 1, "copy to the CPU in step_statistics.py": 1}


def test_joined_rows_are_trained_as_on_a_cpu_and_a_step_waits_twice():
    found = in_process(on_both, JOINED, 2)
    assert_alike(found, 3e-2)
    for case, (there, _) in found.items():
        assert there[2] == READ, case


@pytest.mark.slow
def test_every_way_to_train_makes_the_step_that_it_makes_on_a_cpu():
    assert_alike(in_process(on_both, WAYS), 1e-4)


@pytest.mark.slow
def test_every_method_trains_joined_rows_as_on_a_cpu_and_a_step_waits_twice():
    found = in_process(on_both, cases("bf16", TWICE), 2)
    assert_alike(found, 3e-2)
    for case, (there, _) in found.items():
        # FINCH's next learning rate follows from the loss: another wait, in our trainer.py. OFT
        # solves equations for each of 14 matrices in each of 2 passes, and torch looks at how.
        more = {
            "method=finch": {"_local_scalar_dense in trainer.py": 2},
            "method=oft": {"_linalg_check_errors in layer.py": 28},
        }.get(case[0], {})
        assert there[2] == {**READ, **more}, case


def in_fp16():
    """Of two T4s one is trained on: in fp16, with padded rows, as nothing else was asked for."""
    usual = [("method=sft",), ("method=l2", *STRONG["l2"]), ("method=lora", "regulariser=kl")]
    usual += [("method=ema", "optimizer=adamw"), ("method=sft", "optimizer=muon")]
    with simulated_gpu(capability=(7, 5), count=2):
        half = {case: step("cuda", *case) for case in usual}
        too_large = step("cuda", "method=l2", "optimizer=adamw", *STRONG["l2"], scale=8.0)
    whole = {case: step("cpu", *case, "trainer.precision=fp32") for case in usual}
    return half, whole, too_large


@pytest.mark.slow
def test_fp16_makes_the_step_of_fp32_and_leaves_out_one_with_too_large_a_gradient():
    half, whole, (moved, numbers, _) = in_process(in_fp16)
    for case, (change, metrics, _) in half.items():
        assert metrics.pop("loss_scale") == 2.0**16
        assert metrics == pytest.approx(whole[case][1], rel=2e-2, abs=1e-3), case
        if case[0] != "method=ema":  # Adam's first step is of the same size for any gradient
            assert relative(change, whole[case][0]) < 2e-2, case
    assert not moved.any()
    assert numbers["loss_scale"] == 2.0**15
    assert "grad_norm" not in numbers


# The command itself: with a look at the validation rows, a checkpoint, scores and drift.
COMMAND = ["model=tiny", "dataset=medcalc-mini", "logger=none", "method=talr", "merge=ema",
           "dataset.train_rows=8", "dataset.validation_rows=4", "dataset.test_rows=4",
           "trainer.batch_size=4", "trainer.micro_batch_size=2", "trainer.epochs=2", "lr=1e-3",
           "suite.limit=2", "domain.max_new_tokens=4", "trainer.validate=true",
           "trainer.precision=fp32", "trainer.save_dtype=float32"]  # fmt: skip


def commands(folder):
    """{what: (the model's weights, results.json)} of the device, of one cut short, of a CPU."""

    def run(name, device):
        train_command([*COMMAND, f"runs_dir={folder / name}", f"device={device}"])
        weights = next((folder / name).rglob("model/model.safetensors"))
        results = next((folder / name).rglob("results.json"))
        return load_file(weights), json.loads(results.read_text(encoding="utf-8"))

    def cut_short(trainer, *args):
        save(trainer, *args)
        raise KeyboardInterrupt

    save = MethodTrainer._save_checkpoint
    with simulated_gpu():
        found = {"device": run("device", "cuda")}
        with (
            patch.object(MethodTrainer, "_save_checkpoint", cut_short),
            suppress(KeyboardInterrupt),
        ):
            run("cut", "cuda")
        found["cut"] = run("cut", "cuda")
    return found | {"cpu": run("cpu", "cpu")}


@pytest.mark.slow
def test_a_whole_run_on_the_device_is_that_on_a_cpu_and_goes_on_to_the_same_bits(tmp_path):
    found = in_process(commands, tmp_path)
    (device, there), (cut, gone_on), (cpu, here) = (found[n] for n in ("device", "cut", "cpu"))
    assert gone_on["training"]["resumed_from_step"] == 2
    assert all(torch.equal(device[name], cut[name]) for name in device)
    for name, weight in cpu.items():
        torch.testing.assert_close(device[name], weight, rtol=0, atol=1e-3)
    for kind in ("cross_entropy", "kl_from_base", "domain_kl_from_base"):
        value = here["drift"][kind]["score"]
        assert there["drift"][kind]["score"] == pytest.approx(value, rel=1e-2), kind
    for part in ("general", "domain"):
        assert there[part]["score"] == here[part]["score"]
