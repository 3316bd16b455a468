"""Downloads what the runs of a grid read and this machine lacks: models, rows, a suite's tasks.

Each is fetched by the function that a run calls, so that a run later finds exactly that. Called in
a process of its own; a second one, without the network, then checks that all of it is found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.data.base import Dataset
from talr_cli.data.loading import load
from talr_cli.errors import UserError
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.fields import plain
from talr_cli.models.config import ModelConfig
from talr_cli.models.sources import WANTED, cache_dir, resolve_model
from talr_cli.runs.disk import make_folder
from talr_cli.runs.listing import size_on_disk
from talr_cli.sweep.grid import Point

# `datasets` would warn of each request that it does not make.
NO_NETWORK = {"HF_HUB_OFFLINE": "1", "DATASETS_VERBOSITY": "error"}


@dataclass(frozen=True)
class Need:
    """Something that runs read. `kind`: model, dataset (its rows) or suite (its tasks)."""

    kind: str
    name: str
    config: ModelConfig | Dataset | SuiteConfig


def needs_of(points: Sequence[Point]) -> list[Need]:
    """What the runs of a grid read, each once."""
    found: dict[str, Need] = {}
    for point in points:
        config = point.config
        dataset: Any = config.dataset
        wanted = [
            Need("model", config.model.path, config.model),
            Need("dataset", getattr(dataset, "hub_id", None) or dataset.name, dataset),
        ]
        if config.eval:
            wanted.append(Need("suite", config.suite.name, config.suite))
        for need in wanted:
            found.setdefault(json.dumps([need.kind, plain(need.config)], sort_keys=True), need)
    return list(found.values())


def places(folder: Path) -> dict[str, str]:
    """The environment in which everything that is fetched lies below a folder."""
    at = folder.absolute()
    return {
        "HF_HOME": str(at / "huggingface"),
        "TALR_CACHE": str(at / "talr"),
        "NLTK_DATA": str(at / "nltk"),
    }


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Inside, this process and those that it starts have these environment variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def fetch(need: Need) -> tuple[str, int]:
    """Fetch it; (where it came from in words, the bytes by which the caches have grown).

    Raises:
        UserError: It cannot be fetched.
    """
    before = _cached()
    words = _get(need)
    return words, max(0, _cached() - before)


def check(needs: Sequence[Need]) -> list[str]:
    """What cannot be found: one line each."""
    found = []
    for need in needs:
        try:
            _get(need)
        except UserError as error:
            found.append(str(error))
    return found


def size_on_hub(need: Need) -> int | None:
    """Bytes on the hub; None if the hub does not say, or need not be asked."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    config: Any = need.config
    is_here = getattr(config, "path", None) is not None and (
        need.kind == "dataset" or Path(config.path).expanduser().is_dir()
    )
    if is_here or need.kind == "suite" or "/" not in need.name:
        return None
    ask = HfApi().model_info if need.kind == "model" else HfApi().dataset_info
    wanted = WANTED if need.kind == "model" else ("*",)
    try:
        info = ask(need.name, revision=config.revision, files_metadata=True)
    except Exception:  # the client has a dozen kinds; fetching it will say what is wrong
        return None
    return sum(
        one.size or 0
        for one in info.siblings or ()
        if any(fnmatch(one.rfilename, pattern) for pattern in wanted)
    )


def _get(need: Need) -> str:
    config = need.config
    if isinstance(config, ModelConfig):
        return resolve_model(config).origin
    if isinstance(config, SuiteConfig):
        return _tasks(config)
    splits = load(config)
    return f"{len(splits.train)} training rows, {len(splits.test)} test rows"


def _tasks(suite: SuiteConfig) -> str:
    import nltk

    from talr_cli.evaluation.general.tasks import load_tasks

    if folder := os.environ.get("NLTK_DATA"):
        make_folder(Path(folder))  # nltk takes no folder that is not there
        if folder not in nltk.data.path:
            nltk.data.path.insert(0, folder)
    tasks = load_tasks(suite)
    if tasks.missing:
        raise UserError("; ".join(tasks.missing.values()))
    return f"{len(tasks.loaded)} tasks"


def _cached() -> int:
    from huggingface_hub import constants

    places = {Path(constants.HF_HOME), Path(constants.HF_HUB_CACHE), cache_dir()}
    outer = [one for one in places if not any(one != o and one.is_relative_to(o) for o in places)]
    return sum(size_on_disk(place) for place in outer)
