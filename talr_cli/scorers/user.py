"""A scorer that the user wrote: a function named in the config by its dotted path, or an object.

Knows how to find and to check it; what it calls right is its own affair.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from talr_cli.errors import UserError, kind_and_reason
from talr_cli.runs.identity import code_digest, file_digest
from talr_cli.scorers.base import Scorer, Verdict

_SHAPE = (
    "give a function (output: str, reference: Mapping) -> bool, a number from 0 to 1, or Verdict"
)
_LONGEST = 200  # characters of an exception or of an answer in an error
_IMPORTED: dict[str, str] = {}  # {module: digest of the file that it was made of}


class UserScorer:
    """Calls `judge(output, reference)`, which answers with a bool, a number in [0, 1] or a Verdict.

    `name` is the dotted path of the function or of the object's class: by it the scores of two are
    told apart. Numbers of NumPy and of PyTorch are numbers here.

    Raises:
        UserError: The answer is of another kind or out of range, or `judge` raised an exception or
            wanted to end the program.
    """

    metric = "score"  # seldom, and not for every model, all 0 or 1: no accuracy

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

    @property
    def definition(self) -> str | None:
        """FILE or FILE-SETTINGS, hashes of what it is made of; None where it stands in no file."""
        file = file_hash(self.name)
        if file is None or not self._settings:
            return file
        made_with = json.dumps(self._settings, sort_keys=True, default=str).encode()
        return f"{file}-{hashlib.sha256(made_with).hexdigest()[:8]}"

    def as_config(self) -> dict[str, Any]:
        """What a config names it by."""
        return {"_target_": self.name, **self._settings}

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        try:
            judged = self._judge(output, reference)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise UserError(
                f"dataset.scorer={self.name} failed with "
                f"{kind_and_reason(error, _LONGEST)}{self._place(error)}"
            ) from error
        if not isinstance(judged, Verdict):
            return Verdict(self._checked(judged, judged), None)
        parsed = None if judged.parsed is None else str(judged.parsed)
        return Verdict(self._checked(judged.correct, judged), parsed)

    def _checked(self, score: Any, answer: Any) -> bool | float:
        if getattr(score, "ndim", None) == 0:  # a number of NumPy's or PyTorch's
            score = score.item()
        if isinstance(score, bool):
            return score
        if isinstance(score, int | float) and 0 <= score <= 1:  # and so not NaN
            return float(score)
        raise UserError(
            f"dataset.scorer={self.name} answered with {_one_line(repr(answer))} of type "
            f"{type(answer).__name__}: {_SHAPE}"
        )

    def _place(self, error: BaseException) -> str:
        """` at FILE:LINE`: the innermost line of the file that `judge` stands in."""
        frames = traceback.extract_tb(error.__traceback__)[1:]
        if not frames:  # it was never entered
            return f", called as {self.name}(output, reference)"
        own = [frame for frame in frames if frame.filename == frames[0].filename]
        return f" at {own[-1].filename}:{own[-1].lineno}"


def scorer_at(path: str) -> UserScorer:
    """The scorer of a function; its module may be installed or lie in the current folder.

    Raises:
        UserError: The path names nothing that can be called.
    """
    if path.endswith(".py") or "/" in path:
        name = f"{Path(path).name.partition('.')[0]}.FUNCTION"
        raise UserError(
            f"dataset.scorer={path} names a file: type {name}, in the folder that it lies in"
        )
    module_name, _, function_name = path.rpartition(".")
    try:
        module = module_as_it_is(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise UserError(
            f"dataset.scorer={path}: the module {module_name} cannot be imported "
            f"({kind_and_reason(error, _LONGEST)}); install it, or run talr in the folder that "
            "it lies in"
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
    except (ImportError, ValueError):  # __main__ has no place that is known
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def file_hash(path: str) -> str | None:
    """Of the file that holds the function of a dotted path now; None where there is no such."""
    file = source_file(path)
    return None if file is None else file_digest(file)[:8]


def module_as_it_is(name: str) -> ModuleType:
    """Import a module of the user's, anew where its file was edited: a notebook goes on for days.

    What is computed is then what the file says, whose content counts for identities.
    """
    look_in_current_folder()
    module = importlib.import_module(name)
    digest = code_digest(module)
    if digest is not None and _IMPORTED.setdefault(name, digest) != digest:
        module = importlib.reload(module)
        _IMPORTED[name] = digest
    return module


def definition_of(scorer: Scorer) -> str | None:
    """By what two versions of a scorer are told apart; None for one of talr's own."""
    if isinstance(scorer, UserScorer):
        return scorer.definition
    code = code_digest(scorer)
    return None if code is None else code[:8]


def look_in_current_folder() -> None:
    """Let modules in the current folder be imported by the names that a config gives them."""
    # Last, so that a file of the user's never stands in for an installed package.
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
