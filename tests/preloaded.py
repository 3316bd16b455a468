"""What a forked command finds done: imports, and what a library makes once for a process.

Imported by the process that commands are forked from, before the first of them.
"""
# ruff: noqa: E402, F401

import gc
import os


def _of_hub():
    return {name: text for name, text in os.environ.items() if name.startswith("HF_")}


# The hub's client and `datasets` read these when they are imported.
OF_HUB = _of_hub()

import lm_eval.evaluator
import torch.distributed.launcher.api
import transformers.models.llama.modeling_llama
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import talr_cli.commands.train
import talr_cli.evaluation.evaluate
import talr_cli.evaluation.general.tasks
import talr_cli.report.study_report
import talr_cli.sweep.jobs
import talr_cli.training.loop

# What sets one more belongs into conftest.py: every command would import all this anew.
assert _of_hub() == OF_HUB

get_checkpoint_conversion_mapping("llama")  # compiles a thousand patterns, of all models
# What is here stays: no command looks through it again, and they share its memory.
gc.collect()
gc.freeze()
