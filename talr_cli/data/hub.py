"""Reads data sets of the hub: JSON, CSV, Parquet and the like, by the library `datasets`.

It runs no code of a data set. Does not know what a row means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from talr_cli.data.files import drop_nulls
from talr_cli.data.rows import Row
from talr_cli.errors import UserError
from talr_cli.models.hub import remedy


def read_hub(
    hub_id: str, config: str | None, split: str, instead: str, revision: str | None = None
) -> Iterator[Row]:
    """Read the rows of a split of a dataset on the hub; their `file` is `hub_id/split`.

    Args:
        config: The dataset's configuration (subset), if it has several.
        instead: What the user can do if the dataset cannot be loaded, for the message.

    Raises:
        UserError: The dataset cannot be loaded, or not of this revision.
    """
    from datasets import load_dataset
    from huggingface_hub import constants

    try:
        commit = None if revision is None else _commit_of(hub_id, revision)
        loaded = load_dataset(hub_id, config, split=split, revision=commit)
    except Exception as error:  # the hub's client raises a dozen kinds
        reason = " ".join(str(error).split("\n")[:2]).strip()
        if config is None and "config" in reason:
            instead = f"set dataset.hub_config, or {instead}"
        if "is a gated dataset" in reason:
            page = f"{constants.ENDPOINT}/datasets/{hub_id}"
            instead = f"ask for access at {page}, then `hf auth login`; or {instead}"
        elif (advice := remedy(error)) is not None:
            instead = f"{advice}; or {instead}"
        raise UserError(f"{hub_id} cannot be loaded ({reason}): {instead}") from error
    if commit is not None and not _is_of(loaded, commit):
        raise UserError(
            f"{hub_id} cannot be reached, and what is cached of it last is not "
            f"dataset.revision={revision}: connect to the hub, or {instead}"
        )
    for line, values in enumerate(loaded, start=1):
        yield Row(Path(hub_id, split), line, drop_nulls(dict(values)))


def _commit_of(hub_id: str, revision: str) -> str:
    """The commit that a branch or tag means; without a network, when it was last asked for."""
    from huggingface_hub import snapshot_download

    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    # The hub's client remembers what a name meant, `datasets` does not.
    folder = snapshot_download(
        hub_id, repo_type="dataset", revision=revision, allow_patterns=["README.md"]
    )
    return Path(folder).name


def _is_of(loaded: Any, commit: str) -> bool:
    """Whether these are the commit's rows: without a network `datasets` takes the last it has."""
    return all(commit in Path(one["filename"]).parts for one in loaded.cache_files)
