"""Training on a simulated CUDA device: it runs, and computes what it computes on a CPU.

Every method makes its first step on both, from `make_trainer` on. What the device itself refuses
is in its module.
"""

import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from optimizer_step import relative, rows, stub_tokenizer, toy
from simulated_gpu import in_process, simulated_gpu

from talr_cli.config import composition
from talr_cli.config.commands import conf_dir
from talr_cli.data.rendering import Rendered
from talr_cli.models.sources import ModelSource
from talr_cli.run.make import setting_of
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training.loop import TrainingData, make_trainer

METHODS = sorted(file.stem for file in (conf_dir() / "method").glob("*.yaml"))
# What they do beside a training is done before or after it.
AS_SFT = {"averaging", "lines", "self-sft", "self-replay"}
STRONG = {
    "l2": ("regulariser.strength=100",),
    "kl": ("regulariser.beta=5",),
    "stm": ("objective.threshold=60",),
}
HALF = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@cache
def composed(*typed):
    """In its parts nothing of a training is left."""
    common = ["model=tiny", "logger=none", "trainer.batch_size=8", "optimizer=sgd", "lr=0.05"]
    return composition.load("train", [*common, "trainer.checkpoint_every_epoch=false", *typed])


def step(device, *typed, steps=1):
    """(the change of all weights, the last step's metrics, the trainer) of a training of 8 rows."""
    config = composed(f"trainer.max_steps={steps}", *typed)

    def model(dtype=None):
        made = toy()
        made.set_attn_implementation("sdpa")
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
    trainer.train()
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    moved = torch.cat([(trained[n].detach().cpu() - before[n]).flatten() for n in before])
    numbers = {
        name: value
        for name, value in seen[steps - 1].items()
        if isinstance(value, int | float) and name != "tokens_per_second"
    }
    return moved, numbers, trainer


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


def test_what_cuda_refuses_the_device_refuses():
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


def on_both(cases):
    """{case: ((change, metrics) on the device, the same on a CPU)}."""
    with simulated_gpu():
        there = {case: step("cuda", *case)[:2] for case in cases}
    return {case: (there[case], step("cpu", *case)[:2]) for case in cases}


def assert_alike(found, bound):
    for case, ((moved, numbers), (expected, wanted)) in found.items():
        assert relative(moved, expected) < bound, case
        assert numbers.keys() == wanted.keys(), case
        assert numbers == pytest.approx(wanted, rel=bound, abs=1e-6), case


def cases(precision, methods=METHODS, *typed):
    return [
        (f"method={one}", f"trainer.precision={precision}", *STRONG.get(one, ()), *typed)
        for one in methods
        if one not in AS_SFT
    ]


def test_every_method_makes_the_step_that_it_makes_on_a_cpu():
    assert_alike(in_process(on_both, cases("fp32")), 1e-4)
