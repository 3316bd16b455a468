"""Runs that must follow one trajectory, through the real command line, for every objective."""

import numpy as np
import pytest
from command_line import rows, train

SAME = {
    "cut into micro-batches": "trainer.micro_batch_size=1",
    "padded": "trainer.padding_free=false",
    "recomputed": "trainer.gradient_checkpointing=true",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        *("sft", "talr", "flow", "dft", "eaft", "infosft", "deft", "l2", "kl", "lora"),
        *("stm", "tailsft", "talr-base", "talr-shuffled", "finch", "ema", "dora", "rslora", "oft"),
    ],
)
def test_options_that_save_memory_change_no_step(method, tmp_path):
    common = (f"method={method}", "eval=false", "lr=1e-3", "trainer.precision=fp32")
    if method.startswith("talr"):
        common += ("objective.tau_estimator=exact",)
    if method == "stm":  # random weights expect nothing: about half of the targets are masked so
        common += ("objective.threshold=49000",)
    recorded = rows(train(*common, "study=recorded", cwd=tmp_path))
    for name, override in SAME.items():
        (tmp_path / name).mkdir()
        other = rows(train(*common, override, "study=other", cwd=tmp_path / name))
        for key in ("loss", "weighted_loss", "grad_norm", "hard_token_share", "lr"):
            ours, theirs = ([row[key] for row in run] for run in (recorded, other))
            residual = np.abs(np.subtract(ours, theirs)).mean() / np.abs(ours).mean()
            assert residual < 1e-4, (name, key, residual)
