"""Generates greedy answers by vLLM, in a process and a Python environment of its own.

vLLM pins its own versions of torch and transformers, and does not free memory within a process. So
it is installed separately, and vllm_worker.py answers there: requests go out as token ids in a
file, answers come back in another. Knows that process, its environment and its files; does not know
what the requests are for.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError, in_checkout
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.data_parallel import free_other_ranks
from talr_cli.evaluation.decoding import Request
from talr_cli.evaluation.memory import moved_to_cpu
from talr_cli.models.device_memory import own_share
from talr_cli.models.saving import end_tokens
from talr_cli.runs.atomic import NEW_COPY, read_json_object

log = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("vllm_worker.py")
PYTHON = "TALR_VLLM_PYTHON"
# The only environment variables of ours that vLLM's process gets. RANK and MASTER_ADDR would make
# it part of our process group, and PYTHONPATH would show it our packages.
PASSED_ON = {
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"),
    *("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
    *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "TRITON_CACHE_DIR",
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
}
PASSED_ON_PREFIXES = ("VLLM_", "NCCL_", "LC_")
DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the same batches in every process
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}  # the model is a local folder
LEFT_FREE = 2**30  # bytes of the GPU's memory that are left for vLLM's own CUDA context
MOST_OF_A_GPU = 0.9  # the share of a GPU's memory for vLLM, which does not plan for everything
_CAUSE = re.compile(r"\b(\w+(?:Error|Exception): \S.*)")
_OVERCOME = re.compile(r"\b(?:DEBUG|INFO|WARNING) ")  # lines about errors that vLLM survived
_PROBE = "import importlib.metadata as m; print(m.version(m.packages_distributions()['vllm'][0]))"


@dataclass(frozen=True)
class Installation:
    """A Python interpreter that has vLLM."""

    python: Path
    version: str


def find_vllm(suite: SuiteConfig) -> Installation:
    """The interpreter that suite.vllm_python, else $TALR_VLLM_PYTHON, else .venv-vllm names.

    Raises:
        UserError: It does not exist, does not run, or has no vLLM.
    """
    beside = _default_environment() / "bin" / "python"
    return _installation(str(suite.vllm_python or os.environ.get(PYTHON) or beside))


def _default_environment() -> Path:
    return Path(sys.prefix).parent / ".venv-vllm"


def _remedy() -> str:
    folder = shlex.quote(str(_default_environment()))
    made = f"python -m venv {folder} && {folder}/bin/pip install vllm"
    return (
        f"`{'make vllm' if in_checkout() else made}` makes .venv-vllm with vLLM in it, "
        "suite.vllm_python=PATH names another"
    )


@functools.cache
def _installation(python: str) -> Installation:
    if not Path(python).is_file():
        raise UserError(f"suite.backend=vllm: there is no interpreter {python}: {_remedy()}")
    command, environment = [python, "-I", "-c", _PROBE], worker_environment(os.environ)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        if "KeyError: 'vllm'" in done.stderr:
            raise UserError(f"suite.backend=vllm: {python} has no vllm: {_remedy()}")
        if done.returncode or not done.stdout.strip():
            raise OSError((done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"suite.backend=vllm: {python} does not run as a Python interpreter ({error}): "
            f"{_remedy()}"
        ) from error
    return Installation(Path(python), done.stdout.strip())


def worker_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of vLLM's process; `ours` are those of this process."""
    passed_on = {
        name: value
        for name, value in ours.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }
    return {**DEFAULTS, **passed_on, **OFFLINE}


class Vllm:
    """Generates the answers of one checkpoint.

    As loading it takes minutes, requests are announced first and then answered all at once.
    """

    def __init__(
        self, model: Any, renderer: Renderer, suite: SuiteConfig, checkpoint: Path, log_file: Path
    ) -> None:
        """vLLM answers with the dtype, the device and the end tokens of `model`.

        Args:
            model: The checkpoint's model, in this process.
            log_file: Gets the output of vLLM's process.

        Raises:
            UserError: vLLM is not installed, or cannot answer with this model.
        """
        if (checkpoint / "adapter_config.json").exists():
            raise UserError(
                f"suite.backend=vllm scores whole models and {checkpoint} is an adapter: "
                "use suite.backend=hf"
            )
        stored = read_json_object(checkpoint / "config.json", NEW_COPY)
        says = stored.get("tie_word_embeddings")
        if says and getattr(model.config, "tie_word_embeddings", says) != says:
            raise UserError(
                f"suite.backend=vllm takes the embedding of {checkpoint} for its head, as its "
                "config.json says, but its files hold another head: set tie_word_embeddings to "
                "false there, or use suite.backend=hf"
            )
        gpus, wanted = torch.cuda.device_count(), suite.tensor_parallel
        if model.device.type == "cuda" and wanted > gpus:
            raise UserError(f"suite.tensor_parallel={wanted}, but {gpus} GPUs are visible")
        self.installation = find_vllm(suite)
        self._model = model
        self._ends = end_tokens(model, renderer.end_of_turn)
        self._log_file = log_file
        self._engine = {
            "model": str(checkpoint),
            "dtype": str(model.dtype).removeprefix("torch."),
            "tensor_parallel_size": wanted,
            "generation_config": "vllm",  # instead of the model's, see generation.py
            "seed": 0,
            # On a CPU compilation takes longer than it saves.
            "enforce_eager": model.device.type == "cpu",
        }
        self._wanted: dict[Request, None] = {}
        self._answers: dict[Request, tuple[list[int], bool]] = {}

    def announce(self, requests: Iterable[Request]) -> None:
        """Announce requests; all of them are answered together with the first one in a call."""
        self._wanted.update(dict.fromkeys(requests))

    def __call__(self, requests: Sequence[Request]) -> list[tuple[list[int], bool]]:
        """For each request (the new tokens without the end token, whether they were cut off).

        Raises:
            UserError: vLLM's process failed; the message names its log.
        """
        if not self._answers.keys() >= {*requests}:
            self.announce(requests)
            asked = [one for one in self._wanted if one not in self._answers]
            self._answers.update(zip(asked, self._ask(asked), strict=True))
        return [self._answers[request] for request in requests]

    def _ask(self, requests: Sequence[Request]) -> list[tuple[list[int], bool]]:
        device = self._model.device.type
        engine = {
            **self._engine,
            "max_model_len": max(len(one.prompt) + one.max_new_tokens for one in requests),
            "skip_tokenizer_init": not any(one.stop for one in requests),
        }
        log.info(
            "vLLM %s answers %d prompts; its log is %s",
            *(self.installation.version, len(requests), self._log_file),
        )
        free_other_ranks()
        with tempfile.TemporaryDirectory() as name, moved_to_cpu(self._model):
            folder = Path(name)
            if device == "cuda":
                engine["gpu_memory_utilization"] = round(_share_of_gpu(), 3)
            order = {"device": device, "engine": engine, "ends": self._ends}
            (folder / "order.json").write_text(json.dumps(order))
            lines = (json.dumps(asdict(one)) + "\n" for one in requests)
            (folder / "requests.jsonl").write_text("".join(lines))
            code = self._run(folder)
            answers = _read_answers(folder / "answers.jsonl", self._ends)
        if code:
            how = signal.strsignal(-code) if code < 0 else f"code {code}"
            raise UserError(self._failure(f"ended with {how}{self._cause()}"))
        if len(answers) != len(requests):
            left = f"{len(answers)} of {len(requests)} answers"
            raise UserError(self._failure(f"left {left}{self._cause()}"))
        return answers

    def _run(self, folder: Path) -> int:
        """Run vLLM's process, end whatever it has started, and return its exit code."""
        command = [str(self.installation.python), "-I", str(WORKER), str(folder)]
        with (
            self._log_file.open("ab" if self._answers else "wb") as written,
            subprocess.Popen(
                command,
                env=worker_environment(os.environ),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                return process.wait()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _failure(self, how: str) -> str:
        return (
            f"vLLM {how}; its log is {self._log_file}. Mend what it says there and type the same "
            "command again, or use suite.backend=hf"
        )

    def _cause(self) -> str:
        """The first error in the log, as later ones follow from it; else the log's last line."""
        lines = self._log_file.read_text(errors="replace").strip().splitlines()
        errors = (_CAUSE.search(line) for line in lines if not _OVERCOME.search(line))
        first = next((found[1] for found in errors if found), None)
        shown = lines[-1:] if first is None else [first]
        return "".join(f" ({' '.join(line.split())[:200]})" for line in shown)


def _share_of_gpu() -> float:
    """The share of a GPU's memory for vLLM, also where several runs of a sweep share the GPU."""
    free, total = torch.cuda.mem_get_info()
    return min(MOST_OF_A_GPU * own_share(total), free - LEFT_FREE) / total


def _read_answers(file: Path, ends: Collection[int]) -> list[tuple[list[int], bool]]:
    """The answers without end tokens, up to the first line that is not an answer."""
    answers: list[tuple[list[int], bool]] = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            answer = json.loads(line)
            tokens, cut = [int(token) for token in answer["tokens"]], bool(answer["cut"])
        except (ValueError, TypeError, KeyError):
            break
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        answers.append((tokens[:end], cut and end is None))
    return answers
