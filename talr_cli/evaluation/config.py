"""How a checkpoint is scored: the values of conf/suite, and of `domain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from talr_cli.errors import UserError
from talr_cli.fields import value


@dataclass(kw_only=True)
class SuiteConfig:
    """General ability: lm-evaluation-harness tasks, and the model's drift from the base."""

    name: str = value("in tables", may_be_empty=False)
    tasks: list[str] = value("lm-evaluation-harness tasks")
    metrics: dict[str, str] = value("the metric that counts for each task")
    formula: str = value(
        "how the general score is made of the tasks' scores, each counting once",
        "mean of tasks",
        choices=("mean of tasks",),
    )
    task_dir: str | None = value(
        "a folder of task YAMLs; `mini`: the embedded one; null: lm-eval's own only",
        None,
        is_path=True,
    )
    data_dir: str | None = value(
        "a folder with the tasks' data, in the place of the hub", None, is_path=True
    )
    data_files: dict[str, dict[str, str]] = value(
        "{task: {split: pattern of its file in data_dir}}; by default TASK_SPLIT and an ending",
        factory=dict,
    )
    limit: int | None = value("the first items of each task: a quick look", None, at_least=1)
    batch_size: Any = value(
        "sequences at once, halved when the GPU's memory runs out", "auto", at_least=1, or_auto=True
    )
    max_length: int | None = value(
        "tokens of prompt and answer; null: as many as the model takes", None, at_least=2
    )
    chat_template: bool = value("ask through the model's chat template", True)
    backend: str = value(
        "who generates; the other tasks are scored by hf", "hf", choices=("hf", "vllm")
    )
    tensor_parallel: int = value("GPUs of vllm", 1, at_least=1)
    allow_unsafe_code: bool = value(
        "run the model's programs where this machine has no sandbox for them", False
    )
    drift: bool = value("also measure how far the model is from its base, in nats per token", True)

    def __post_init__(self) -> None:
        without = [task for task in self.tasks if task not in self.metrics]
        if without:
            raise UserError(f"suite.metrics names no metric for {', '.join(without)}")


@dataclass(kw_only=True)
class DomainEvalConfig:
    """How the domain's test rows are answered."""

    answer_by: str = value(
        "generation, or the likeliest of a row's choices",
        "generation",
        choices=("generation", "likelihood"),
    )
    max_new_tokens: int | None = value(
        "of an answer; null: twice the longest reference answer of the test rows",
        None,
        at_least=1,
    )
    batch_size: Any = value("as suite.batch_size", "auto", at_least=1, or_auto=True)
    limit: int | None = value("test rows, an even share of each category", None, at_least=1)
