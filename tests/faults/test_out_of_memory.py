"""Memory that runs out in the training loop: one line, and the run goes on with what it names."""

import multiprocessing
import os
import re
import signal
from dataclasses import replace

import pytest
import torch
from bad_inputs import EVAL, TINY
from command_line import same, weights
from conftest import config
from in_process import talr_here
from transformers import LlamaModel

from talr_cli.evaluation import evaluate
from talr_cli.fields import identity_of
from talr_cli.interruption import Stop
from talr_cli.run import during
from talr_cli.run.out_of_memory import explain_out_of_memory
from talr_cli.run.prepare import Run
from talr_cli.runs.run_directory import RunDirectory

HUNGRY = """
from dataclasses import dataclass
import torch
from talr_cli.methods.objectives import Sft

made = 0  # batches of this process

@dataclass
class Hungry(Sft):
    def weights(self, tokens, tau):
        global made
        if len(tokens.log_probs) == 5:  # the made-up targets of the check
            return super().weights(tokens, tau)
        made += 1
        if made > 2 and len(tokens.sequence.unique()) > 1:
            torch.empty(2**50)
        return super().weights(tokens, tau)
"""
TRAIN = (
    *("train", *TINY, "dataset.train_rows=8", "trainer.max_steps=null", "trainer.epochs=2"),
    *("trainer.batch_size=4", "eval=false", "lr=1e-3"),
)


def path_of(said, cwd):
    return cwd / said.rpartition("run directory: ")[2].strip()


def test_the_run_goes_on_from_its_checkpoint_with_what_the_line_names(tmp_path):
    (tmp_path / "hungry_a.py").write_text(HUNGRY)
    objectives = tmp_path / "mine" / "objective"
    objectives.mkdir(parents=True)
    (objectives / "hungry.yaml").write_text("_target_: hungry_a.Hungry\n")
    command = (*TRAIN, "--config-dir", "mine", "objective=hungry", "study=a")

    code, said = talr_here(*command, cwd=tmp_path)
    assert code == 2, said
    line = said.splitlines()[-1]
    assert re.search(
        r"ran out of this machine's memory: there was no room for 4194304\.00 GiB", line
    )
    assert "GiB were taken at most: go on with trainer.micro_batch_size=1 or" in line
    assert "trainer.gradient_checkpointing=true, which change no result" in line
    assert "theta0" not in line
    assert "Traceback" not in said
    (run,) = tmp_path.glob("runs/a/*/*")
    assert (run / "checkpoints" / "checkpoint-2").is_dir()

    more = ("trainer.micro_batch_size=1", "trainer.gradient_checkpointing=true")
    code, said = talr_here(*command, *more, cwd=tmp_path)
    assert code == 0, said
    assert "going on from step 2" in said
    assert path_of(said, tmp_path) == run

    # The same rows in the same order, cut up as the line said from the first step on.
    code, said = talr_here(*TRAIN, "study=b", cwd=tmp_path)
    assert code == 0, said
    whole, cut = weights(path_of(said, tmp_path)), weights(run)
    base = {name: torch.zeros_like(one) for name, one in whole.items()}
    assert not same(whole, base)
    for name, one in whole.items():
        torch.testing.assert_close(cut[name], one, rtol=0, atol=2e-5, msg=name)


def test_a_killed_process_that_scores_a_point_is_said_to_be(tmp_path, monkeypatch, caplog):
    point = Run(config("train", "model=tiny"), *[None] * 8, device="cpu")
    forks = multiprocessing.get_context("fork")  # in which `_score` is the one below
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: forks)
    monkeypatch.setattr(during, "_score", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    during.score_in_own_process(replace(point, directory=RunDirectory(tmp_path)), Stop())
    assert "after it; why: it was killed by SIGKILL, as the system does when" in caplog.text


def test_scoring_says_what_needs_less_memory(tmp_path, monkeypatch):
    reached, short, forward = [], [], LlamaModel.forward

    def reaches(part, work):
        return lambda *given: (reached.append(part), work(*given))[1]

    for name in ("evaluate_general", "evaluate_domain", "_measure_drift"):
        monkeypatch.setattr(evaluate, name, reaches(name, getattr(evaluate, name)))

    def short_of_memory(*given, **named):
        if reached[-1:] == short:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")
        return forward(*given, **named)

    monkeypatch.setattr(LlamaModel, "forward", short_of_memory)
    command = ("eval", *(one for one in EVAL if one != "suite.drift=false"), "domain.batch_size=2")
    for part, said_of_it in (
        ("evaluate_general", "scoring mini_knowledge with one row at once ran out of this"),
        ("evaluate_domain", "a domain.max_new_tokens below 3, or test rows with shorter prompts"),
        ("_measure_drift", "suite.drift=false, which changes no score"),
    ):
        short[:] = [part]
        code, said = talr_here(*command, cwd=tmp_path)
        assert code == 2, said
        assert "no room for 2.50 GiB more" in said
        assert said_of_it in said
        assert "Traceback" not in said


def advice(error, *overrides):
    run = Run(config("train", "model=tiny", *overrides), *[None] * 8, device="cpu")
    try:
        with explain_out_of_memory(run):
            raise error
    except Exception as found:
        return found


@pytest.mark.parametrize(
    ("overrides", "named", "unnamed"),
    [
        (("trainer.batch_size=16", "trainer.micro_batch_size=8"), "micro_batch_size=4", "theta0"),
        (("trainer.batch_size=9", "trainer.micro_batch_size=9"), "micro_batch_size=3", "theta0"),
        (("trainer.micro_batch_size=1",), "gradient_checkpointing=true", "micro_batch_size"),
        (("trainer.gradient_checkpointing=true",), "adapter=lora", "gradient_checkpointing"),
        (("method=talr", "objective.tau_scope=microbatch"), "checkpointing=true", "micro_batch"),
        (("method=lora",), "trainer.max_length", "adapter=lora"),
        (("method=l2",), "regulariser.theta0_device=cpu", "adapter=lora"),
        (("method=l2", "regulariser.theta0_device=cpu"), "max_length", "theta0_device"),
    ],
)
def test_the_advice_names_only_what_helps(overrides, named, unnamed):
    error = advice(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."), *overrides
    )
    assert type(error).__name__ == "UserError"
    assert "no room for 2.50 GiB more" in str(error)
    assert named in str(error)
    assert unnamed not in str(error)


def test_out_of_memory_errors_of_every_device_are_recognised():
    of_cpu = (
        "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"
    )
    assert "no room for 1.00 GiB" in str(
        advice(RuntimeError(f"{of_cpu} to allocate {2**30} bytes."))
    )
    assert "there was no room more" in str(advice(MemoryError()))
    of_apple = "MPS backend out of memory (MPS allocated: 9.00 GB). Tried to allocate 2.50 GiB on"
    assert "no room for 2.50 GiB" in str(advice(RuntimeError(of_apple)))
    assert type(advice(RuntimeError("shapes differ"))) is RuntimeError


def test_options_that_save_memory_do_not_count_for_the_identity():
    one = identity_of(config("train", "method=l2"))
    changes = (
        *("trainer.micro_batch_size=1", "trainer.gradient_checkpointing=true"),
        "regulariser.theta0_device=cpu",
    )
    assert identity_of(config("train", "method=l2", *changes)) == one
