"""The checkpoints that a training can go on from: which are there, and which of them are whole.

Knows that each is a folder `checkpoint-STEP` with a manifest, which is written last; not what else
is in it.
"""

import logging
import re
import shutil
from pathlib import Path

from talr_cli.runs.manifest import MANIFEST, damage

KEPT = 2  # should the newest be damaged, there is one more
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
