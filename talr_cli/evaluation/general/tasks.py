"""Loads the suite's tasks by lm-evaluation-harness, with all that they need, before any model.

Knows where definitions, data and resources come from, and whether programs may be run; does not
know models or scores.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import random
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets.exceptions import DatasetGenerationError
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from talr_cli.errors import UserError
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.evaluation.general.groups import Index, is_known, members_of, unreadable_task_files
from talr_cli.evaluation.general.local_data import (
    MissingDataError,
    files_below,
    find_split_file,
    format_of,
    require_punkt,
    task_folder,
)
from talr_cli.evaluation.general.metrics import require_metric, require_shots
from talr_cli.evaluation.sandbox.code_eval import sandboxed_code_eval
from talr_cli.evaluation.sandbox.outside import require_sandbox
from talr_cli.evaluation.vllm import find_vllm
from talr_cli.runs.identity import run_identity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tasks:
    """The loaded tasks of a suite.

    Attributes:
        loaded: {name: task}, in the suite's order, those of a group one after the other.
        missing: {name in suite.tasks that is left out: what it lacks}.
        members: {any other name in suite.tasks: the tasks that it stands for}.
        plain: The tasks without the chat template.
    """

    loaded: dict[str, Task]
    missing: dict[str, str]
    members: dict[str, list[str]]
    plain: frozenset[str]

    def settings_of(self, task: str, suite: SuiteConfig) -> SuiteConfig:
        """The suite's settings as they apply to this task."""
        return replace(suite, chat_template=suite.chat_template and task not in self.plain)


def load_tasks(suite: SuiteConfig) -> Tasks:
    """Load every task with its data; a task that lacks something is left out with a warning.

    Raises:
        UserError: A name or a metric is unknown, there is no sandbox for programs, lower values of
            a metric are better, or no task is left.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is done on purpose here
    if suite.backend == "vllm":
        find_vllm(suite)
    if suite.data_dir is not None and not Path(suite.data_dir).expanduser().is_dir():
        raise UserError(f"suite.data_dir={suite.data_dir} is not a directory")
    managers, index, members = _find_names(suite)
    group_of = {task: name for name, tasks in members.items() for task in tasks}
    files = {task: Path(str(index[task].yaml_path)) for task in group_of}
    settings = {task: load_yaml(file, resolve_func=False) for task, file in files.items()}
    for task, file in files.items():
        if group_of[task] in suite.shots:
            settings[task]["num_fewshot"] = suite.shots[group_of[task]]
        if settings[task].get("unsafe_code"):
            _require_sandbox(task, file, suite.allow_unsafe_code)
    digests = _files_digest(suite.task_dir, files)
    loaded: dict[str, Task] = {}
    missing: dict[str, str] = {}
    with preserve_rng_state(), sandboxed_code_eval(suite.allow_unsafe_code):
        for name, tasks in members.items():
            try:
                for task in tasks:
                    manager = next(one for one in managers if task in one.task_index)
                    loaded[task] = _load_task(manager, task, name, settings[task], suite)
                    require_metric(loaded[task], suite.metrics[name])
                    require_shots(loaded[task])
            except MissingDataError as error:  # a group that lacks one of its tasks is left out
                missing[name] = str(error) if name in tasks else f"{name}: {error}"
                continue
            for task in digests.keys() & {*tasks}:
                described = {**(loaded[task].get_config("metadata") or {}), "files": digests[task]}
                loaded[task].set_config(key="metadata", value=described)
    if len(missing) == len(members):
        raise UserError(f"suite={suite.name} has no task left: {'; '.join(missing.values())}")
    for reason in missing.values():
        log.warning("left out of the general score: %s", reason)
    complete = {name: tasks for name, tasks in members.items() if name not in missing}
    return Tasks(
        {task: loaded[task] for tasks in complete.values() for task in tasks},
        missing,
        complete,
        frozenset(task for task, name in group_of.items() if name in suite.plain_text),
    )


def wrong_names(suite: SuiteConfig) -> str | None:
    """Why load_tasks would refuse the names of this suite; None if it would not."""
    try:
        _find_names(suite)
    except UserError as error:
        return str(error)
    return None


def _find_names(suite: SuiteConfig) -> tuple[list[TaskManager], Index, dict[str, list[str]]]:
    managers = _task_managers(suite.task_dir, tuple(suite.tasks))
    index = ChainMap(*(manager.task_index for manager in managers))
    return managers, index, _members(suite, index)


def _members(suite: SuiteConfig, index: Index) -> dict[str, list[str]]:
    """{name in suite.tasks: the tasks that it stands for}.

    Raises:
        UserError: A name is unknown, another option names a task that is not in suite.tasks, or
            suite.tasks names a task twice.
    """
    unknown = [task for task in suite.tasks if task not in index]
    if unknown:
        known = "`lm-eval ls tasks` lists them, suite.task_dir=DIRECTORY adds yours"
        passed = (
            [] if suite.task_dir is None else unreadable_task_files(task_folder(suite.task_dir))
        )
        told = "; ".join([*passed, known])
        raise UserError(f"suite.tasks: lm-eval knows no {', '.join(unknown)}: {told}")
    strangers = [task for task in (*suite.shots, *suite.plain_text) if task not in suite.tasks]
    if strangers:
        raise UserError(f"suite.shots, suite.plain_text: {strangers[0]} is not in suite.tasks")
    members = {name: members_of(index, name) for name in suite.tasks}
    tasks = [task for own in members.values() for task in own]
    if len(set(tasks)) < len(tasks):
        raise UserError("suite.tasks names a group and one of its tasks: leave one of them out")
    return members


def definition_hash(task: Task, limit: int | None) -> str:
    """A hash of a task's settings and items and of the harness's version."""
    settings = task.dump_config()
    for key in ("dataset_path", "dataset_name", "dataset_kwargs"):
        settings.pop(key, None)  # the items themselves count, not where they are stored
    settings["metadata"] = {**(settings.get("metadata") or {}), "config_source": None}
    shots = list(task.fewshot_docs()) if settings.get("num_fewshot") else []
    parts = [settings, list(task.eval_docs)[:limit], shots, limit, metadata.version("lm-eval")]
    text = json.dumps(parts, sort_keys=True, default=_as_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the random generators afterwards, since the harness seeds them."""
    random_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(random_state)
        np.random.set_state(numpy_state)


@functools.cache
def _task_managers(task_dir: str | None, names: tuple[str, ...]) -> list[TaskManager]:
    """The managers that know the names: the folder's, then the harness's own if it is needed."""
    if task_dir is None:
        return [_built_in()]
    folder = task_folder(task_dir)
    if not folder.is_dir():
        raise UserError(f"suite.task_dir={task_dir} is not a directory")
    alone = TaskManager(include_path=folder, include_defaults=False)
    if all(is_known(alone.task_index, name) for name in names):
        return [alone]
    return [alone, _built_in()]


@functools.cache
def _built_in() -> TaskManager:
    return TaskManager()  # reads thousands of files


def _files_digest(task_dir: str | None, files: Mapping[str, Path]) -> dict[str, str]:
    """{task in the folder task_dir: hash of all files there}, since its functions may use any."""
    if task_dir is None:
        return {}
    folder = task_folder(task_dir).resolve()
    digest = run_identity({}, files_below(folder))[:16]
    return {task: digest for task, file in files.items() if file.resolve().is_relative_to(folder)}


def _require_sandbox(task: str, file: Path, allow_unsafe: bool) -> None:
    """Refuse a task whose programs would run without a sandbox, unless the user allows that."""
    by_metric = any(b"code_eval" in module.read_bytes() for module in file.parent.glob("*.py"))
    if by_metric:
        require_sandbox(task, allow_unsafe)
    elif not allow_unsafe:
        raise UserError(
            f"{task} runs programs that the model wrote in a way of its own, outside of the "
            "sandbox: leave it out, or set suite.allow_unsafe_code=true to run them unprotected"
        )


def _load_task(
    manager: TaskManager, task: str, group: str, settings: dict[str, Any], suite: SuiteConfig
) -> Task:
    """Load a task; `group` is the name in suite.tasks that it belongs to, perhaps its own.

    Raises:
        MissingDataError: Its data or a package is missing or cannot be read.
    """
    if "ifeval" in task:
        require_punkt(task, suite.data_dir)
    source = settings.get("dataset_path")
    is_local = suite.data_dir is not None and _comes_from_the_hub(settings)
    changed = _local_dataset(suite, task, group, settings) if is_local else {}
    if group in suite.shots:
        changed["num_fewshot"] = suite.shots[group]
    # This is how the harness lets one change a task's settings: as a member of a group.
    spec: Any = {"group": f"local {task}", "task": [{"task": task, **changed}]}
    try:
        loaded = manager.load(spec)["tasks"][task]
    except ImportError as error:
        raise MissingDataError(
            f"{task}: a package that it needs is not installed ({error}): install it"
        ) from error
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a template that does not fit the data may raise anything
        said = (isinstance(error, DatasetGenerationError) and error.__cause__) or error
        reason = f"{type(said).__name__}: {str(said).strip().partition(chr(10))[0]}"
        if is_local:
            files = ", ".join(changed["dataset_kwargs"]["data_files"].values())
            told = f"{files} cannot be read as the columns of {source} ({reason})"
        elif _comes_from_the_hub(settings):
            told = (
                f"its data {source} cannot be had from the hub ({reason}): "
                "connect, or name a folder with suite.data_dir=DIRECTORY"
            )
        else:
            told = f"it cannot be loaded ({reason})"
        raise MissingDataError(f"{task}: {told}") from error
    if "ifeval" in task:
        import langdetect

        langdetect.DetectorFactory.seed = 0  # without a seed its results vary
    if loaded.get_config("num_fewshot") is None:
        loaded.set_config(key="num_fewshot", value=0)
    return loaded


def _comes_from_the_hub(settings: dict[str, Any]) -> bool:
    source = settings.get("dataset_path")
    if source is None or "custom_dataset" in settings:
        return False
    return source not in ("json", "csv", "parquet", "text", "arrow") and not Path(source).exists()


def _local_dataset(
    suite: SuiteConfig, task: str, group: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """The changes to a task's settings that make it read local files, and only needed splits."""
    scored: str | None = settings.get("test_split") or settings.get("validation_split")
    if scored is None:
        raise MissingDataError(f"{task}: its definition has no test_split and no validation_split")
    needed = {scored}
    own_shots = "samples" in (settings.get("fewshot_config") or {})
    if settings.get("num_fewshot") and not own_shots:
        needed.add(settings.get("fewshot_split") or settings.get("training_split") or scored)
    try:
        files = {split: find_split_file(suite, task, split, group) for split in sorted(needed)}
    except MissingDataError as error:
        name = settings.get("dataset_name")
        source = settings["dataset_path"] + (f" ({name})" if name else "")
        raise MissingDataError(
            f"{error}: save that split of {source} there as .jsonl, .csv or .parquet"
        ) from error
    formats = {format_of(file) for file in files.values()}
    if len(formats) > 1:
        raise MissingDataError(
            f"{task}: {', '.join(map(str, files.values()))} are of different formats: "
            "save them in one"
        )
    unread = {
        key: None
        for key in ("training_split", "validation_split", "fewshot_split")
        if settings.get(key) not in files
    }
    return {
        **unread,
        "dataset_path": formats.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(file) for split, file in files.items()}},
    }


def _as_text(value: Any) -> str:
    """Text for a value that JSON does not know, the same in every process (without addresses)."""
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)
