"""A scorer that the user wrote: a function named in the config by its dotted path, or an object.

Knows how to find and to check it; what it calls right is its own affair.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.scorers.base import Verdict

_SHAPE = "give a function (output: str, reference: Mapping) -> bool or Verdict"


class UserScorer:
    """Calls `judge(output, reference)`, which answers with a bool or a Verdict.

    `name` is the dotted path of the function or of the object's class: by it the scores of two are
    told apart.

    Raises:
        UserError: The answer is of another kind.
    """

    def __init__(
        self,
        judge: Callable[[str, Mapping[str, Any]], Any],
        name: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`settings` are those that an object was made with."""
        self.name = name
        self._judge = judge
        self._settings = settings or {}

    def as_config(self) -> dict[str, Any]:
        """What a config names it by."""
        return {"_target_": self.name, **self._settings}

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        judged = self._judge(output, reference)
        if isinstance(judged, Verdict):
            return judged
        if isinstance(judged, bool):
            return Verdict(judged, None)
        raise UserError(
            f"dataset.scorer={self.name} answered with {judged!r} of type "
            f"{type(judged).__name__}: {_SHAPE}"
        )


def scorer_at(path: str) -> UserScorer:
    """The scorer of a function; its module may be installed or lie in the current folder.

    Raises:
        UserError: The path names nothing that can be called.
    """
    module_name, _, function_name = path.rpartition(".")
    look_in_current_folder()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(
            f"dataset.scorer={path}: the module {module_name} cannot be imported ({reason}); "
            "install it, or run talr in the folder that it lies in"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "is not a function" if hasattr(module, function_name) else "is not there"
        where = getattr(module, "__file__", None) or module_name
        raise UserError(f"dataset.scorer={path}: {function_name} {found} in {where}: {_SHAPE}")
    return UserScorer(function, path)


def source_file(path: str) -> Path | None:
    """The file that holds the function of a dotted path; None where there is no such file."""
    module_name = path.rpartition(".")[0]
    if not module_name:
        return None
    look_in_current_folder()
    try:
        spec = importlib.util.find_spec(module_name)
    except ImportError:
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def look_in_current_folder() -> None:
    """Let modules in the current folder be imported by the names that a config gives them."""
    # Last, so that a file of the user's never stands in for an installed package.
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
