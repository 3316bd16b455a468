"""The checkpoints from which a training can resume: which exist, and which are intact.

Each is a folder `checkpoint-STEP` whose manifest is written last; does not know what else is in it.
"""

import logging
import re
import shutil
from pathlib import Path

from talr_cli.errors import UserError, reason_of
from talr_cli.runs.atomic import write_text
from talr_cli.runs.disk import make_folder
from talr_cli.runs.manifest import MANIFEST, find_damage
from talr_cli.runs.reading import read_text

MAX_KEPT = 2  # the second is for when the newest is damaged
ROWS = "rows.sha256"  # the file beside them with the digest of the training rows
_DIGEST = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"checkpoint-(\d+)$")
log = logging.getLogger(__name__)


def finished(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the completely written checkpoints, newest first."""
    found = [
        (int(name[1]), path.parent)
        for path in folder.glob(f"checkpoint-*/{MANIFEST}")
        if (name := _NAME.match(path.parent.name))
    ]
    return sorted(found, reverse=True)


def remove_unusable(folder: Path) -> None:
    """Remove unfinished checkpoints, and damaged ones newer than the newest intact one.

    Each is logged, with what is used instead.
    """
    candidates = finished(folder)
    unfinished = set(folder.glob("checkpoint-*")) - {path for _, path in candidates}
    if folder.is_symlink():  # they may be those of another program, and are never used
        unfinished.clear()
    unusable = dict.fromkeys(unfinished, "is incomplete")
    fallback = "there is no other, so the training starts from the beginning"
    for step, path in candidates:
        damage = find_damage(path)
        if damage is None:
            fallback = f"going on from step {step}"
            break
        unusable[path] = f"is damaged: {damage}"
    for path, reason in unusable.items():
        log.warning("%s %s; %s", path, reason, fallback)
        shutil.rmtree(path, ignore_errors=True)


def remove_old(folder: Path) -> None:
    """Remove all finished checkpoints except the newest MAX_KEPT."""
    for _, path in finished(folder)[MAX_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def check_same_rows(folder: Path, digest: str) -> None:
    """Refuse to resume with rows other than those that the checkpoints were trained on.

    A hub dataset may have changed since, and a user's own dataset may shuffle its rows.
    """
    if not finished(folder):
        make_folder(folder)
        write_text(folder / ROWS, digest)
    elif (folder / ROWS).exists() and _stored_digest(folder / ROWS) != digest:
        raise UserError(
            f"{folder} was trained on other rows, or in another order: restore those rows, or "
            "delete it to train from the beginning"
        )


def _stored_digest(file: Path) -> str:
    try:
        stored = read_text(file)
        if not _DIGEST.fullmatch(stored):
            raise ValueError("not a digest")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is damaged ({reason_of(error)}): delete it if the rows are as before, "
            f"or {file.parent} to train from the beginning"
        ) from error
    return stored
