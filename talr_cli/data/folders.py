"""Refuses a folder whose files are not the rows of one split.

Knows how splits and the files of other programs are named; does not read a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from talr_cli.errors import UserError

# How files or folders of splits begin, as the hub's library reads them.
_SPLIT = re.compile(r"(?:(train)|(test)|(?:validation|valid|val|dev|eval))(?![a-z])", re.IGNORECASE)


def check_folder(folder: str, files: Sequence[Path], tables: Sequence[Path]) -> None:
    """Check what a folder holds.

    Args:
        files: All files in it.
        tables: Those that would be read.

    Raises:
        UserError: They are of several splits, or were written by `save_to_disk`.
    """
    if any(one.suffix == ".arrow" and one.parent / "state.json" in files for one in files):
        raise UserError(
            f"{folder} was written by save_to_disk: write a split of it as Parquet, "
            "load_from_disk(FOLDER).to_parquet(FILE)"
        )
    top = Path(folder).expanduser()
    splits: dict[int | None, Path] = {}
    for table in tables:
        found = filter(None, map(_SPLIT.match, table.relative_to(top).parts))
        for split in [one.lastindex for one in found][:1]:
            splits.setdefault(split, table)
    if len(splits) > 1:
        raise UserError(
            f"{folder} holds files of several splits ({', '.join(map(str, splits.values()))}), "
            "which would be read as one: name those of one split by a pattern or a list, or read "
            f"them as splits by dataset.hub_id={folder}"
        )
