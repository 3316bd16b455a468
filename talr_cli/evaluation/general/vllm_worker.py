"""The process in which vLLM answers: an order comes in, a record a task goes out.

    python -m talr_cli.evaluation.general.vllm_worker FOLDER

Knows nothing of the process that started it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.general.harness import longest_sequence, run_task
from talr_cli.evaluation.general.score_cache import write_record
from talr_cli.evaluation.general.tasks import load_tasks


def main(folder: Path) -> None:
    from lm_eval.models.vllm_causallms import VLLM
    from transformers import AutoConfig

    order = json.load(sys.stdin)
    suite = SuiteConfig(**order["suite"])
    model_config = AutoConfig.from_pretrained(order["checkpoint"], trust_remote_code=False)
    harness_model = VLLM(
        pretrained=order["checkpoint"],
        tensor_parallel_size=suite.tensor_parallel,
        max_model_len=longest_sequence(suite, model_config),
        chat_template_args=order["template_arguments"],
    )
    for name, task in load_tasks(suite).loaded.items():
        write_record(folder / name, {**run_task(harness_model, task, suite), "batch_size": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
