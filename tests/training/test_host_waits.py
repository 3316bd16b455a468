"""How often the host would wait for a GPU in an optimizer step: counted on a CPU.

Counted is what needs a number of the device's on the host (`item`, `tolist`, `bool`, a copy to the
CPU), a shape that depends on numbers (`nonzero`, a boolean index), and a tensor that is made of
Python's numbers where it is needed. What the collator does is done before, on the host.
"""

import functools
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from optimizer_step import OBJECTIVES, rows, sft_config, stub_tokenizer, toy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from varlen_kernel import kernel

from talr_cli.methods.objectives import Talr
from talr_cli.methods.regularisers import L2, Kl
from talr_cli.methods.schedules import Linear
from talr_cli.training import varlen
from talr_cli.training.trainer import MethodTrainer

STEPS = 2
OF_NUMBERS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")
OF_NUMBERS += ("aten::unique_consecutive", "aten::_unique2", "aten::unique_dim", "aten::bincount")
METHODS = {
    **{name: (objective, None) for name, (objective, _) in OBJECTIVES.items()},
    "talr lagged": (Talr(), None),
    "l2": (OBJECTIVES["sft"][0], L2),
    "kl": (OBJECTIVES["sft"][0], Kl),
}


class Waits:
    """What would wait, and in which file; nothing is counted while `paused`."""

    def __init__(self):
        self.found, self.paused = Counter(), 0

    def add(self, what):
        if not self.paused:
            frame = sys._getframe(2)
            while frame.f_code.co_filename == __file__ or "/torch/" in frame.f_code.co_filename:
                frame = frame.f_back
            self.found[f"{what} in {Path(frame.f_code.co_filename).name}"] += 1

    def without(self, work):
        """A function whose waits do not count."""

        def paused(*args, **kwargs):
            self.paused += 1
            try:
                return work(*args, **kwargs)
            finally:
                self.paused -= 1

        return paused


class Operations(TorchDispatchMode):
    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        indices = args[1] if name in ("aten::index", "aten::index_put_") else ()
        masked = any(one is not None and one.dtype == torch.bool for one in indices)
        if name in OF_NUMBERS or masked:
            self.waits.add(name)
        return function(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """What leaves no trace among the operations where all tensors are on the CPU."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, given = getattr(function, "__name__", ""), (*args[1:], *(kwargs or {}).values())
        to_cpu = any(type(one) is str and one == "cpu" for one in given)
        made = name == "tensor" or (name == "as_tensor" and not torch.is_tensor(args[0]))
        if made or name in ("tolist", "numpy", "cpu") or (name == "to" and to_cpu):
            self.waits.add(name)
        if name == "quantile":  # which does not look at its q on a GPU
            function = self.waits.without(function)
        return function(*args, **(kwargs or {}))


def waits(monkeypatch, folder, method, micro, layers=2, joined=True):
    """{what: how often} in an optimizer step of 4 rows, the last of two."""
    objective, regulariser = METHODS[method]
    counting, after = Waits(), []
    # As on a GPU: all rows of a pass in one call of a kernel.
    monkeypatch.setattr(varlen, "can_attend", lambda *args: True)
    monkeypatch.setattr(varlen, "find_kernel", lambda: by_all_rows)
    by_all_rows = functools.wraps(kernel)(counting.without(kernel))

    def model():
        made = toy(layers=layers)
        made.set_attn_implementation("sdpa")
        return made

    class Counting(MethodTrainer):
        def _maybe_log_save_evaluate(self, *args, **kwargs):
            super()._maybe_log_save_evaluate(*args, **kwargs)
            after.append(counting.found.copy())

        def get_batch_samples(self, batches, *args):
            # The loader and the collator: on the host, and ahead of the device.
            taken = iter(counting.without(batches.__next__), None)
            return super().get_batch_samples(taken, *args)

    trainer = Counting(
        model=model(),
        args=sft_config(
            folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=4 // micro,
            max_steps=STEPS,
            activation_checkpointing=layers > 2,
            padding_free=joined,
            logging_steps=1,
            logging_nan_inf_filter=False,
            optim="adamw_torch_fused",
        ),
        objective=objective,
        regulariser=regulariser and regulariser(),
        schedule=Linear(warmup_share=0.0),
        load_base=model,
        processing_class=stub_tokenizer(),
        train_dataset=Dataset.from_list(rows(4 * STEPS)),
    )
    with Operations(counting), Calls(counting):
        trainer.train()
    return after[STEPS - 1] - after[STEPS - 2]


# transformers reads the loss, we read all else in one copy.
READ = {"aten::_local_scalar_dense in trainer.py": 1, "tolist in step_statistics.py": 1}


@pytest.mark.parametrize("method", METHODS)
def test_the_host_waits_twice_in_a_step_however_the_batch_is_split(method, tmp_path, monkeypatch):
    assert waits(monkeypatch, tmp_path, method, micro=1, layers=3) == READ


def test_padded_rows_wait_once_a_pass_for_the_mask(tmp_path, monkeypatch):
    found = waits(monkeypatch, tmp_path, "sft", micro=2, joined=False)
    assert found == {**READ, "aten::_local_scalar_dense in masking_utils.py": 2}
