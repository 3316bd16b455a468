"""Generation tasks by vLLM, in a process of its own: within one, vLLM gives no memory back.

    python -m talr_cli.evaluation.general.vllm_backend FOLDER    order in, a record a task out

Not exercised by the tests: it needs a GPU and `pip install 'talr[vllm]'`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.general.score_cache import read_record, write_record


def require_vllm() -> None:
    """Raise UserError where vLLM is not installed."""
    if find_spec("vllm") is None:
        raise UserError("suite.backend=vllm: vllm is not installed: pip install 'talr[vllm]'")


def run_in_vllm(
    tasks: Sequence[str], suite: SuiteConfig, checkpoint: Path, template_arguments: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(task, record) of the suite's `tasks`, answered by the model in the folder `checkpoint`."""
    if (checkpoint / "adapter_config.json").exists():
        raise UserError(
            f"suite.backend=vllm scores whole models and {checkpoint} is an adapter: "
            "use suite.backend=hf"
        )
    order = {
        "tasks": list(tasks),
        "suite": asdict(suite),
        "checkpoint": str(checkpoint),
        "template_arguments": template_arguments,
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, folder]
        done = subprocess.run(command, input=json.dumps(order), text=True, stdout=sys.stderr)
        if done.returncode:
            raise RuntimeError(f"the vLLM process ended with code {done.returncode}; see above")
        for task in tasks:
            record = read_record(Path(folder) / task)
            assert record is not None
            yield task, record


def main(folder: Path) -> None:
    from lm_eval.models.vllm_causallms import VLLM
    from transformers import AutoConfig

    from talr_cli.evaluation.general.harness import longest_sequence, run_task
    from talr_cli.evaluation.general.tasks import load_tasks

    order = json.load(sys.stdin)
    suite = SuiteConfig(**{**order["suite"], "tasks": order["tasks"]})
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
