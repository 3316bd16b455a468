"""The checkpoints that a training can go on from: which are there, and which of them are whole.

Knows that each is a folder `checkpoint-STEP` with a manifest, which is written last; not what else
is in it.
"""

import logging
import re
import shutil
from pathlib import Path

from talr_cli.errors import UserError, reason_of
from talr_cli.runs.atomic import write_text
from talr_cli.runs.disk import make_folder
from talr_cli.runs.manifest import MANIFEST, damage
from talr_cli.runs.reading import read_text

KEPT = 2  # should the newest be damaged, there is one more
ROWS = "rows.sha256"  # the file beside them with the digest of the rows they were trained on
_DIGEST = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"checkpoint-(\d+)$")
log = logging.getLogger(__name__)


def finished(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of those that were written to their end, the newest first."""
    found = [
        (int(name[1]), path.parent)
        for path in folder.glob(f"checkpoint-*/{MANIFEST}")
        if (name := _NAME.match(path.parent.name))
    ]
    return sorted(found, reverse=True)


def keep_whole(folder: Path) -> None:
    """Remove unfinished ones, and damaged ones that are newer than the newest whole one.

    They are named, with what is taken instead.
    """
    candidates = finished(folder)
    unfinished = set(folder.glob("checkpoint-*")) - {path for _, path in candidates}
    useless = dict.fromkeys(unfinished, "was not written to its end")
    instead = "no other is there, starting again"
    for step, path in candidates:
        found = damage(path)
        if found is None:
            instead = f"going on from step {step}"
            break
        useless[path] = f"is damaged: {found}"
    for path, why in useless.items():
        log.warning("%s %s; %s", path, why, instead)
        shutil.rmtree(path, ignore_errors=True)


def keep_newest(folder: Path) -> None:
    """Remove all finished ones but the newest KEPT."""
    for _, path in finished(folder)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def require_rows(folder: Path, digest: str) -> None:
    """Refuse to resume with other rows than those that the checkpoints were trained on.

    Rows of the hub may have changed since, and a data set of the user's own may draw its order.
    """
    if not finished(folder):
        make_folder(folder)
        write_text(folder / ROWS, digest)
    elif (folder / ROWS).exists() and _kept_digest(folder / ROWS) != digest:
        raise UserError(
            f"{folder} was trained on other rows, or in another order: bring those rows back, or "
            "delete it to train from the start"
        )


def _kept_digest(file: Path) -> str:
    try:
        kept = read_text(file)
        if not _DIGEST.fullmatch(kept):
            raise ValueError("it is no digest")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is damaged ({reason_of(error)}): delete it if the rows are as before, "
            f"or {file.parent} to train from the start"
        ) from error
    return kept
