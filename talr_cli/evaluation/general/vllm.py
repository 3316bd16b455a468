"""Generation tasks by vLLM, in a process of its own: within one, vLLM gives no memory back.

The parent's side; the child is vllm_worker.py, known here by its name only. Not exercised by the
tests: it needs a GPU and `pip install 'talr[vllm]'`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.general.score_cache import read_record

WORKER = "talr_cli.evaluation.general.vllm_worker"


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
        "suite": {**asdict(suite), "tasks": list(tasks)},
        "checkpoint": str(checkpoint),
        "template_arguments": template_arguments,
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", WORKER, folder]
        done = subprocess.run(command, input=json.dumps(order), text=True, stdout=sys.stderr)
        if done.returncode:
            raise RuntimeError(f"the vLLM process ended with code {done.returncode}; see above")
        for task in tasks:
            record = read_record(Path(folder) / task)
            if record is None:
                raise RuntimeError(f"the vLLM process left no record of {task}")
            yield task, record
