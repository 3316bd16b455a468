"""What a run's directory is called, now and by versions before. Knows names only."""

from __future__ import annotations

import re

from talr_cli.printable import rate_text

_IDENTITY = re.compile(r"-([0-9a-f]{8})$")
_RATE = re.compile(r"-lr(\d[\d.]*(?:e[+-]?\d+)?)(?=-|$)")


def run_name(method: str, lr: float | None, seed: int | None, at: float, identity: str) -> str:
    """The name of a run's directory; `at` is the share of its training that was made."""
    return _name(method, None if lr is None else rate_text(lr), seed, at, identity)


def earlier_name(method: str, lr: float | None, seed: int | None, at: float, identity: str) -> str:
    """As `run_name`, where rates were `0.0002` and `2e-05`."""
    return _name(method, None if lr is None else f"{lr:g}", seed, at, identity)


def begins(name: str, typed: str) -> bool:
    """Whether a directory's name begins with what was typed, however either writes its rate."""
    return name.startswith(typed) or as_now(name).startswith(as_now(typed))


def is_but_for_identity(name: str, typed: str) -> bool:
    """Whether what was typed is all of a directory's name but for the identity at its end."""
    return re.fullmatch(re.escape(as_now(typed)) + "-[0-9a-f]{8}", as_now(name)) is not None


def of_another(name: str, identity: str) -> str | None:
    """Why what has this identity is not of the run that the directory is named after; None: it is.

    A name that ends with no identity is that of any run.
    """
    own, found = _IDENTITY.search(name), identity[:8]
    if own is None or own[1] == found:
        return None
    return (
        f"is of the run {found}, in a directory that is named after {own[1]}: a copied directory "
        f"needs a name that ends with -{found}, or without eight such digits; an exchanged file "
        "has to be put back"
    )


def as_now(name: str) -> str:
    """A directory's name with its rate as it is written today."""
    return _RATE.sub(lambda match: f"-lr{rate_text(float(match[1]))}", name)


def file_name(name: str) -> str:
    """The name with what a file system or a shell could stumble over replaced."""
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip(".-")


def _name(method: str, rate: str | None, seed: int | None, at: float, identity: str) -> str:
    parts = [file_name(method)]
    if rate is not None:
        parts.append(f"lr{rate}")
    if seed is not None:
        parts.append(f"s{seed}")
    if at < 1:
        parts.append(f"at{at:.3g}")
    return "-".join([*parts, identity[:8]])
