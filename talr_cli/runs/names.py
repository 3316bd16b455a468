"""The names of run directories."""

from __future__ import annotations

import re

from talr_cli.printable import rate_text

_IDENTITY = re.compile(r"-([0-9a-f]{8})$")
_RATE = re.compile(r"-lr(\d[\d.]*(?:e[+-]?\d+)?)(?=-|$)")


def run_name(method: str, lr: float | None, seed: int | None, at: float, identity: str) -> str:
    """The name of a run's directory; `at` is the share of the training steps."""
    parts = [safe_name(method)]
    if lr is not None:
        parts.append(f"lr{rate_text(lr)}")
    if seed is not None:
        parts.append(f"s{seed}")
    if at < 1:
        parts.append(f"at{at:.3g}")
    return "-".join([*parts, identity[:8]])


def begins_with(name: str, typed: str) -> bool:
    """Whether a run's name begins with what was typed, in any notation of the rate."""
    return name.startswith(typed) or _with_written_rate(name).startswith(_with_written_rate(typed))


def matches_without_identity(name: str, typed: str) -> bool:
    """Whether what was typed is a run's full name without the identity at its end."""
    own = without_identity(name)
    return own != name and _with_written_rate(own) == _with_written_rate(typed)


def without_identity(name: str) -> str:
    """A run's name without the identity at its end; a folder that was renamed may have none."""
    return _IDENTITY.sub("", name)


def wrong_identity(name: str, identity: str) -> str | None:
    """Why a file with this identity does not belong into a directory of this name, or None.

    A directory whose name does not end with an identity may hold any run.
    """
    own, found = _IDENTITY.search(name), identity[:8]
    if own is None or own[1] == found:
        return None
    return (
        f"belongs to run {found}, but its directory is named after run {own[1]}: if the directory "
        f"was copied, let its name end with -{found} or without an identity; if the file was "
        "swapped, restore the original"
    )


def _with_written_rate(name: str) -> str:
    """A run's name with its rate as `run_name` writes it."""
    return _RATE.sub(lambda match: f"-lr{rate_text(float(match[1]))}", name)


def safe_name(name: str) -> str:
    """The name with characters replaced that file systems or shells may not accept."""
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip(".-")
