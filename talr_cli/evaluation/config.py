"""The config values of an evaluation: what a model is asked, and how it answers.

Scoring changes no weights: the configs of runs declare these parts with `identity=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from talr_cli.errors import UserError, did_you_mean
from talr_cli.fields import value

_ROWS_AT_ONCE: dict[str, Any] = {
    "doc": "initial number of rows per batch; halved if the GPU runs out of memory",
    "default": "auto",
    "or_auto": True,
    "at_least": 1,
}


@dataclass
class SuiteConfig:
    """General ability: lm-evaluation-harness tasks, and the model's drift from the base."""

    name: str = value("the suite's name in tables", may_be_empty=False)
    tasks: list[str] = value(
        "names of lm-evaluation-harness tasks; `lm-eval ls subtasks` lists them. A group "
        "whose score is the mean of all its items, such as mmlu, counts as one task"
    )
    metrics: dict[str, str] = value(
        "the metric of each task: {task: metric} or {task: 'metric,filter'}"
    )
    formula: str = value(
        "how the tasks' scores make the general score: their unweighted mean",
        "mean of tasks",
        choices=("mean of tasks",),
    )
    task_dir: str | None = value(
        "a folder of task YAMLs; `mini` and `ours` come with talr; null: lm-eval's own tasks only",
        None,
        is_path=True,
    )
    data_dir: str | None = value(
        "a folder with the tasks' data, read instead of the hub", None, is_path=True
    )
    data_files: dict[str, dict[str, str]] = value(
        "{task: {split: pattern of its file in data_dir}}, for files not called TASK_SPLIT with an "
        "ending; an entry for a group applies to each of its tasks",
        factory=dict,
    )
    shots: dict[str, int] = value(
        "{task: number of solved examples before each question}, instead of the task's own number",
        factory=dict,
    )
    limit: int | None = value(
        "score only the first N items of each task: a quick look, noted in the results and "
        "never compared with full scores",
        None,
        at_least=1,
    )
    batch_size: Any = value(**_ROWS_AT_ONCE)
    max_length: int | None = value(
        "maximum number of tokens of a prompt and its answer together; null: that of the model",
        None,
        at_least=2,
    )
    chat_template: bool = value("whether prompts go through the model's chat template", True)
    plain_text: list[str] = value("tasks that never use the chat template", factory=list)
    backend: str = value(
        "what generates the answers: transformers (hf) or vLLM; likelihoods are always "
        "computed by hf",
        "hf",
        choices=("hf", "vllm"),
    )
    vllm_python: str | None = value(
        "the Python interpreter that has vLLM; null: $TALR_VLLM_PYTHON, or .venv-vllm beside "
        "the environment of talr",
        None,
        is_path=True,
    )
    tensor_parallel: int = value("how many GPUs vLLM spreads the model over", 1, at_least=1)
    allow_unsafe_code: bool = value(
        "run programs that the model wrote even where this machine has no sandbox for them", False
    )
    drift: bool = value(
        "also measure drift from the base model, in nats per token: the cross-entropy on a "
        "fixed text, and the KL on the suite's prompts and along the base's answers to the "
        "domain's prompts",
        True,
    )

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError("suite.tasks is empty: name the tasks that count, or leave it out")
        twice = sorted({task for task in self.tasks if self.tasks.count(task) > 1})
        if twice:
            raise UserError(f"suite.tasks names {', '.join(twice)} twice")
        without = [task for task in self.tasks if task not in self.metrics]
        if without:
            guess = did_you_mean(without[0], self.metrics, cutoff=0.8)
            typed = " ".join(f"+suite.metrics.{name}=METRIC" for name in without)
            names = ", ".join(without)
            raise UserError(f"suite.metrics names no metric for {names}{guess}: type {typed}")
        wrong = {task: number for task, number in self.shots.items() if number < 0}
        if wrong:
            raise UserError(f"suite.shots={wrong}: a number of shots is 0 or more")


@dataclass
class DomainEvalConfig:
    """How the domain's test rows are answered."""

    answer_by: str = value(
        "`generation`: greedy decoding; `likelihood`: the likeliest of a row's choices",
        "generation",
        choices=("generation", "likelihood"),
    )
    max_new_tokens: int | None = value(
        "maximum number of tokens of a generated answer; null: twice the longest reference, at "
        "least 128",
        None,
        at_least=1,
    )
    batch_size: Any = value(**_ROWS_AT_ONCE)
    limit: int | None = value(
        "score only N test rows, over all categories: a quick look, noted in the results and "
        "never compared with full scores",
        None,
        at_least=1,
    )
    self_score: str = value(
        "what to do before training if a test row's own completion would score 0",
        "stop",
        choices=("stop", "warn"),
    )
