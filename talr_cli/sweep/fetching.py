"""Downloads what the runs of a grid need: models, datasets and the tasks of a suite.

Each is loaded by the function that a run calls, so that the run finds exactly that in the cache.
This happens in a worker process; a second one, without network, then checks that all is found.
"""

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

# `datasets` would warn about each request that it skips.
NO_NETWORK = {"HF_HUB_OFFLINE": "1", "DATASETS_VERBOSITY": "error"}


@dataclass(frozen=True)
class Resource:
    """Something that runs need. `kind`: model, dataset (its rows) or suite (its tasks)."""

    kind: str
    name: str
    config: ModelConfig | Dataset | SuiteConfig


def resources_of(points: Sequence[Point]) -> list[Resource]:
    """The resources that the runs of a grid need, each once."""
    found: dict[str, Resource] = {}
    for point in points:
        config = point.config
        dataset: Any = config.dataset
        wanted = [
            Resource("model", config.model.path, config.model),
            Resource("dataset", getattr(dataset, "hub_id", None) or dataset.name, dataset),
        ]
        if config.eval:
            wanted.append(Resource("suite", config.suite.name, config.suite))
        for need in wanted:
            found.setdefault(json.dumps([need.kind, plain(need.config)], sort_keys=True), need)
    return list(found.values())


def cache_variables(folder: Path) -> dict[str, str]:
    """The environment variables that put all caches into a folder."""
    folder = folder.absolute()
    return {
        "HF_HOME": str(folder / "huggingface"),
        "TALR_CACHE": str(folder / "talr"),
        "NLTK_DATA": str(folder / "nltk"),
    }


@contextmanager
def environment_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set these environment variables within this context, also for processes started in it."""
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


def fetch(need: Resource) -> tuple[str, int]:
    """Download a resource if needed; UserError if that fails.

    Returns:
        (where it came from in words, the bytes by which the caches have grown).
    """
    before = _cache_bytes()
    words = _load(need)
    return words, max(0, _cache_bytes() - before)


def find_missing(needs: Sequence[Resource]) -> list[str]:
    """One line for each resource that cannot be found."""
    found = []
    for need in needs:
        try:
            _load(need)
        except UserError as error:
            found.append(str(error))
    return found


def size_on_hub(need: Resource) -> int | None:
    """The resource's bytes on the hub; None if unknown, or if it does not come from the hub."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    config: Any = need.config
    is_local = getattr(config, "path", None) is not None and (
        need.kind == "dataset" or Path(config.path).expanduser().is_dir()
    )
    if is_local or need.kind == "suite" or "/" not in need.name:
        return None
    ask = HfApi().model_info if need.kind == "model" else HfApi().dataset_info
    wanted = WANTED if need.kind == "model" else ("*",)
    try:
        info = ask(need.name, revision=config.revision, files_metadata=True)
    except Exception:  # the client raises many kinds; fetching will report what is wrong
        return None
    return sum(
        one.size or 0
        for one in info.siblings or ()
        if any(fnmatch(one.rfilename, pattern) for pattern in wanted)
    )


def _load(need: Resource) -> str:
    config = need.config
    if isinstance(config, ModelConfig):
        return resolve_model(config).origin
    if isinstance(config, SuiteConfig):
        return _load_suite(config)
    splits = load(config)
    return f"{len(splits.train)} training rows, {len(splits.test)} test rows"


def _load_suite(suite: SuiteConfig) -> str:
    import nltk

    from talr_cli.evaluation.general.tasks import load_tasks

    if folder := os.environ.get("NLTK_DATA"):
        make_folder(Path(folder))  # nltk ignores a folder that does not exist
        if folder not in nltk.data.path:
            nltk.data.path.insert(0, folder)
    tasks = load_tasks(suite)
    if tasks.missing:
        raise UserError("; ".join(tasks.missing.values()))
    return f"{len(tasks.loaded)} tasks"


def _cache_bytes() -> int:
    from huggingface_hub import constants

    places = {Path(constants.HF_HOME), Path(constants.HF_HUB_CACHE), cache_dir()}
    outer = [one for one in places if not any(one != o and one.is_relative_to(o) for o in places)]
    return sum(size_on_disk(place) for place in outer)
