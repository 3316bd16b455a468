"""Checks what this machine has, and what would stop runs on it.

No model is loaded and nothing is downloaded. The hub is asked once whether it answers.
"""

import os
import platform
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Literal

import yaml
from packaging.requirements import Requirement

from talr_cli import __version__
from talr_cli.config.commands import SweepConfig, conf_dir
from talr_cli.config.help import choices_of
from talr_cli.errors import UserError
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.models.device_memory import gib, machine_memory
from talr_cli.models.gpu_driver import has_driver, hidden_by, unusable_gpu
from talr_cli.models.sources import ModelSource, cache_dir
from talr_cli.run.config import TrainConfig
from talr_cli.runs.listing import format_size
from talr_cli.sweep.gpus import gpu_memory, gpu_names
from talr_cli.sweep.grid import Point, expand_grid
from talr_cli.sweep.local import cpu_cores
from talr_cli.sweep.needs import free_bytes
from talr_cli.sweep.plan import find_models, make_plan, model_key
from talr_cli.sweep.worker_process import worker_process
from talr_cli.tracking.wandb import is_logged_in

TIMEOUT = 5.0  # seconds for an answer of the hub
HELD = 2**30  # bytes of a GPU; a desktop takes less
LOW_DISK = 10 * 2**30  # bytes; a model with 3 billion weights takes 6 GB
# One run for each model and dataset of an experiment needs what all of its runs need.
_ONE_RUN = ("method=sft", "lr=1e-5", "seed=0")

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """What was checked, the result, and lines with details; a `problem` would stop a run."""

    name: str
    state: State
    detail: str


def machine_checks(runs_dir: Path) -> Iterator[Check]:
    """Check versions, GPU, memory, disk, hub, W&B, sandbox and optional packages."""
    yield Check("talr", "ok", f"{__version__}, Python {platform.python_version()}")
    yield from _check_packages()
    yield _check_gpu()
    yield Check("memory", "ok", f"{format_size(machine_memory())}, {cpu_cores()} cores")
    for name, folder in (("runs", runs_dir), ("cache", cache_dir()), ("hub cache", _hub_cache())):
        free = free_bytes(folder)
        state: State = "ok" if free > LOW_DISK else "note"
        yield Check(f"disk of {name}", state, f"{format_size(free)} free in {folder}")
    yield check_hub()
    yield _check_tracking()
    yield _check_sandbox()
    yield from _extra_checks()


def experiment_checks(reachable: bool) -> Iterator[Check]:
    """One check for each experiment that comes with talr: what would stop it.

    Args:
        reachable: Whether the hub answers.
    """
    for name in choices_of("experiment", None):
        found = dict.fromkeys(_experiment_problems(name, reachable))
        detail = "\n".join(found) or "nothing known in advance would stop it"
        yield Check(f"experiment={name}", "problem" if found else "ok", detail)


def find_obstacles(
    grid: Sequence[Point], models: Mapping[str, ModelSource | None], launcher: str
) -> tuple[list[str], list[str]]:
    """(what will stop runs of a grid, what else to know): downloads without a hub, missing GPUs.

    The hub is contacted only if something has to be downloaded.
    """
    downloads = dict.fromkeys(
        reason for point in grid for reason in _missing_downloads(point, models, False)
    )
    possible = dict.fromkeys(
        f"suite={suite.name}: the hub cannot be reached: its tasks are read from the cache, where "
        "`talr fetch` or an earlier run has put them"
        for suite in (point.config.suite for point in grid if point.config.eval)
        if suite.task_dir != "mini" and suite.data_dir is None
    )
    if (downloads or possible) and check_hub().state == "ok":
        downloads, possible = {}, {}
    certain, notes = [*downloads, *_unknown_tasks(grid)], list(possible)
    if launcher == "local":
        if any(one.config.device != "cpu" for one in grid):
            notes += [
                f"other processes hold {gib(taken)} of a GPU's {gib(memory)}"
                for memory, taken in gpu_memory()
                if taken > HELD
            ]
        certain += dict.fromkeys(reason for one in grid for reason in _missing_gpus(one.config))
        if any(one.config.device == "auto" for one in grid) and (why := unusable_gpu()) is not None:
            said = f"there is a GPU, but {why}; device=cpu does without"
            (certain if gpu_names() else notes).append(said)  # as `choose_device` will
    return certain, notes


def _unknown_tasks(grid: Sequence[Point]) -> list[str]:
    """One line for each suite that names tasks that are neither the harness's nor its folder's."""
    tasks: dict[str | None, set[str]] = {}  # of the suites that come with talr, by folder
    for name in choices_of("suite", None):
        shipped = yaml.safe_load((conf_dir() / f"suite/{name}.yaml").read_text(encoding="utf-8"))
        tasks.setdefault(shipped["task_dir"], set()).update(shipped["tasks"])
    suites = [point.config.suite for point in grid if point.config.eval]
    typed = [one for one in suites if not tasks.get(one.task_dir, set()).issuperset(one.tasks)]
    if not typed:
        return []
    with worker_process() as call:  # the harness imports torch
        found = {(one.task_dir, *one.tasks): one for one in typed}
        return list(filter(None, (call(_wrong_names, one) for one in found.values())))


def _wrong_names(suite: SuiteConfig) -> str | None:
    from talr_cli.evaluation.general.tasks import wrong_names

    return wrong_names(suite)


def _missing_downloads(
    point: Point, models: Mapping[str, ModelSource | None], reachable: bool
) -> Iterator[str]:
    """The model and the rows of a run, if they have to be downloaded and cannot be."""
    config = point.config
    if models[model_key(config)] is None and not reachable and not _is_packaged(point):
        yield (
            f"{config.model.path} is not in the cache, and the hub cannot be reached: run "
            "`talr fetch` where there is a network, or give model.path=FOLDER"
        )
    yield from _missing_data(config, reachable)


def _missing_gpus(config: TrainConfig) -> Iterator[str]:
    """Which GPUs a run asks for that this machine does not have."""
    gpus, wanted = len(gpu_names()), config.distributed.processes
    if config.device == "cuda" and not gpus and not has_driver():
        yield "device=cuda, and nvidia-smi shows no GPU, nor rocm-smi: type device=auto"
    if config.device == "cuda" and (why := unusable_gpu()) is not None:
        yield f"device=cuda, but {why}"
    if wanted is not None and config.device != "cpu" and wanted > gpus > 0:
        yield f"distributed.processes={wanted}, but {gpus} GPUs are visible"


def check_hub() -> Check:
    """Whether the hub can be reached, and whether the user is logged in."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return Check("hub", "note", "offline, as HF_HUB_OFFLINE is set: only its cache is used")
    try:  # without the token, which is for the hub's own client
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            pass
    except urllib.error.HTTPError:
        pass  # it has answered
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return Check("hub", "problem", f"{constants.ENDPOINT} cannot be reached ({reason})")
    login = "logged in" if get_token() else "not logged in: gated models need `hf auth login`"
    return Check("hub", "ok", f"{constants.ENDPOINT} answers, {login}")


def _check_packages() -> Iterator[Check]:
    """Check that the packages that talr needs are installed."""
    wrong = [reason for one in _requirements(None) if (reason := _package_problem(one))]
    torch = _version("torch") or "none"
    detail = f"all installed; torch {torch}, transformers {_version('transformers')}"
    yield Check("packages", "problem" if wrong else "ok", ", ".join(wrong) or detail)


def _extra_checks() -> Iterator[Check]:
    for extra in _extra_names():
        lacks = [reason for one in _requirements(extra) if (reason := _package_problem(one))]
        detail = ", ".join(lacks) if lacks else "installed"
        yield Check(f"optional: {extra}", "note" if lacks else "ok", detail)


def _extra_names() -> list[str]:
    try:
        extras = metadata.metadata("talr").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:  # run from its folder
        return []
    return sorted(set(extras) - {"dev"})


def _requirements(extra: str | None) -> list[Requirement]:
    """The packages that talr needs, or those that `extra` adds."""
    try:
        found = [Requirement(one) for one in metadata.requires("talr") or []]
    except metadata.PackageNotFoundError:
        return []
    plain = [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    if extra is None:
        return plain
    return [one for one in found if one not in plain and _is_of(one, extra)]


def _is_of(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _package_problem(requirement: Requirement) -> str | None:
    version = _version(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, talr needs {requirement.specifier}"
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _check_gpu() -> Check:
    if not gpu_names() and not has_driver():
        return _check_apple_gpu()
    if (hidden := hidden_by()) is not None:
        return Check("GPU", "note", f"{hidden} hides it: runs use the CPU")
    memory = ", ".join(format_size(one) for one, _ in gpu_memory()) or "memory unknown"
    import torch  # takes seconds, so only if there is a GPU

    why = unusable_gpu()
    if why is not None or not torch.cuda.is_available():
        why = why or f"torch {torch.__version__} cannot use it"
        return Check("GPU", "problem", f"{memory}: the driver is there, but {why}")
    return Check("GPU", "ok", f"{torch.cuda.get_device_name(0)}: {memory}")


def _check_apple_gpu() -> Check:
    if platform.system() == "Darwin":
        import torch

        if torch.backends.mps.is_available():
            return Check("GPU", "ok", "Apple's (mps), which shares the machine's memory")
    return Check("GPU", "note", "no driver of one: runs use the CPU")


def _check_tracking() -> Check:
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return Check("W&B", "ok", f"WANDB_MODE={mode}")
    if is_logged_in():
        return Check("W&B", "ok", "logged in")
    return Check("W&B", "note", "not logged in (`wandb login`): runs are logged offline")


def _check_sandbox() -> Check:
    from talr_cli.evaluation.sandbox.outside import available_sandbox

    found = available_sandbox()
    if found is None:
        return Check(
            "sandbox", "note", "none: HumanEval's programs are not run; install bubblewrap"
        )
    return Check("sandbox", "ok", f"{found}, for programs that a model wrote")


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _experiment_problems(experiment: str, reachable: bool) -> Iterator[str]:
    """The reasons why a sweep of the experiment would not start, or would fail."""
    try:
        grid = expand_grid([f"experiment={experiment}", *_ONE_RUN], None)
        models = find_models(grid, fetch=False)
    except UserError as error:
        yield str(error)
        return
    yield from make_plan(grid, models, None, SweepConfig()).missing
    for point in grid:
        config = point.config
        yield from _missing_downloads(point, models, reachable)
        yield from _suite_problems(config.suite, reachable)


def _is_packaged(point: Point) -> bool:
    package = point.config.model.package
    return package is not None and _version(package) is not None


def _missing_data(config: TrainConfig, reachable: bool) -> Iterator[str]:
    hub_id, files = getattr(config.dataset, "hub_id", None), getattr(config.dataset, "path", None)
    if hub_id is None or files is not None or reachable:
        return
    if not (_hub_cache() / f"datasets--{hub_id.replace('/', '--')}").exists():
        yield (
            f"{hub_id} is not in the cache, and the hub cannot be reached: give dataset.path and "
            "dataset.test_path"
        )


def _suite_problems(suite: SuiteConfig, reachable: bool) -> Iterator[str]:
    if suite.task_dir == "mini":
        return
    if not reachable and suite.data_dir is None:
        yield f"suite={suite.name}: the hub cannot be reached for its tasks: give suite.data_dir"
    from talr_cli.evaluation.sandbox.outside import available_sandbox

    runs_programs = any(task.startswith(("humaneval", "mbpp")) for task in suite.tasks)
    if runs_programs and not suite.allow_unsafe_code and available_sandbox() is None:
        yield f"suite={suite.name}: its programs need a sandbox: install bubblewrap"
