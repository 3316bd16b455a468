"""Scorers that the user wrote: a function that the config names by its dotted path, or an object.

Knows how to find, call and check it; does not know how it judges.
"""

import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from talr_cli.errors import UserError, did_you_mean, failure_of, location_in_user_code
from talr_cli.fields import is_own, target_of
from talr_cli.runs.identity import code_digest, file_digest
from talr_cli.scorers.base import Scorer, Verdict

_SHAPE = (
    "give a function (output: str, reference: Mapping) -> bool, a number from 0 to 1, or Verdict"
)
_LONGEST = 200  # the most characters of a returned value in an error
_IMPORTED: dict[str, str] = {}  # {module: digest of the file that it was imported from}


class UserScorer:
    """Calls `judge(output, reference)`, which returns a bool, a number in [0, 1] or a Verdict.

    The scores of two scorers are distinguished by `name`, the dotted path of the function or of the
    object's class. Numbers may also be NumPy's or PyTorch's.
    `option` is how the user chose the scorer.

    Raises:
        UserError: `judge` returned something else, raised an exception, or called sys.exit.
    """

    metric = "score"  # not "accuracy", as the values need not be 0 or 1

    def __init__(
        self,
        judge: Callable[[str, Mapping[str, Any]], Any],
        name: str,
        settings: Mapping[str, Any] | None = None,
        option: str = "dataset.scorer=",
    ) -> None:
        """`settings` are the arguments that an object was created with."""
        self.name = name
        self._said = f"{option}{name}"
        self._judge = judge
        self._settings = settings or {}

    @property
    def definition(self) -> str | None:
        """Hashes of its file and settings, as FILE or FILE-SETTINGS; None if it is in no file."""
        file = file_hash(self.name)
        if file is None or not self._settings:
            return file
        made_with = json.dumps(self._settings, sort_keys=True, default=str).encode()
        return f"{file}-{hashlib.sha256(made_with).hexdigest()[:8]}"

    def as_config(self) -> dict[str, Any]:
        """The config values that name it."""
        return {"_target_": self.name, **self._settings}

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        try:
            judged = self._judge(output, reference)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            called = (
                ""
                if location_in_user_code(error)
                else f", called as {self.name}(output, reference)"
            )
            raise UserError(f"{self._said} failed with {failure_of(error)}{called}") from error
        if not isinstance(judged, Verdict):
            return Verdict(self._check_score(judged, judged), None)
        parsed = None if judged.parsed is None else str(judged.parsed)
        return Verdict(
            self._check_score(judged.correct, judged), parsed, self._to_json(judged.detail)
        )

    def _check_score(self, score: Any, answer: Any) -> bool | float:
        if getattr(score, "ndim", None) == 0:  # a number of NumPy's or PyTorch's
            score = score.item()
        if isinstance(score, bool):
            return score
        if isinstance(score, int | float) and 0 <= score <= 1:  # and so not NaN
            return float(score)
        raise UserError(
            f"{self._said} answered with {_one_line(repr(answer))} of type "
            f"{type(answer).__name__}: {_SHAPE}"
        )

    def _to_json(self, detail: Any) -> Mapping[str, Any]:
        try:
            kept = json.loads(json.dumps(dict(detail)))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self._said} gave a detail that JSON cannot hold: {_one_line(str(error))}"
            ) from error
        return dict(kept)


def judged(scorer: Scorer, output: str, reference: Mapping[str, Any]) -> Verdict:
    """What a scorer says of an output; of one that is not talr's own it is checked.

    Raises:
        UserError: As `UserScorer`.
    """
    named: Any = scorer if hasattr(scorer, "__qualname__") else type(scorer)  # a function has it
    if is_own(named):
        scorer = UserScorer(scorer, target_of(named), option="the scorer ")
    return scorer(output, reference)


def scorer_at(path: str) -> UserScorer:
    """The scorer for a function, whose module may be installed or in the current folder.

    Args:
        path: The dotted path of the function.

    Raises:
        UserError: The path does not name anything that can be called.
    """
    if path.endswith(".py") or "/" in path:
        name = f"{Path(path).name.partition('.')[0]}.FUNCTION"
        raise UserError(
            f"dataset.scorer={path} names a file: type {name}, in the folder that it lies in"
        )
    module_name, _, function_name = path.rpartition(".")
    function = found_at("dataset.scorer", path)
    if not callable(function):
        where = getattr(sys.modules[module_name], "__file__", None) or module_name
        raise UserError(
            f"dataset.scorer={path}: {function_name} is not a function in {where}: {_SHAPE}"
        )
    return UserScorer(function, path)


def found_at(option: str, path: str) -> Any:
    """What a dotted path names, in a module that is installed or lies in the current folder.

    Raises:
        UserError: The module cannot be imported, or has no such name.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = import_current(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        advice = ""
        if isinstance(error, ModuleNotFoundError) and _is_within(module_name, error.name):
            advice = "; install it, or run talr in the folder that it lies in"
        elif isinstance(error, ImportError) and "relative import" in str(error):
            advice = "; write `import NAME` for a file beside it"
        raise UserError(
            f"{option}={path}: the module {module_name} cannot be imported "
            f"({failure_of(error)}){advice}{_other_file(module_name)}"
        ) from error
    if not hasattr(module, name):
        guess = did_you_mean(name, vars(module))
        where = getattr(module, "__file__", None) or module_name
        raise UserError(
            f"{option}={path}: {name} is not there in {where}{guess}{_other_file(module_name)}"
        )
    return getattr(module, name)


def _is_within(module: str, missing: str | None) -> bool:
    """Whether what was missing is the module itself or a package that it is in."""
    return missing is not None and f"{module}.".startswith(f"{missing}.")


def _other_file(module: str) -> str:
    """What to do where a file of the current folder has the name of another module."""
    top = module.partition(".")[0]
    own = next((one for one in (Path(f"{top}.py"), Path(top)) if one.exists()), None)
    origin = getattr(sys.modules.get(top), "__file__", None)
    if own is None or origin is None or Path(origin).is_relative_to(own.absolute()):
        return ""
    return f"; {own} is not looked at, as another module has its name: give it a name of its own"


def source_file(path: str) -> Path | None:
    """The file of the function with a dotted path; None if there is no such file."""
    module_name = path.rpartition(".")[0]
    if not module_name:
        return None
    look_in_current_folder()
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):  # as for __main__
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def file_hash(path: str) -> str | None:
    """A hash of the current content of that file; None if there is no such file."""
    file = source_file(path)
    return None if file is None else file_digest(file)[:8]


def import_current(name: str) -> ModuleType:
    """Import a module of the user's, again if its file was edited, as a notebook may run for days.

    So the code that runs is always that of the file, whose content counts for identities.
    """
    look_in_current_folder()
    module = importlib.import_module(name)
    digest = code_digest(module)
    if digest is not None and _IMPORTED.setdefault(name, digest) != digest:
        module = importlib.reload(module)
        _IMPORTED[name] = digest
    return module


def definition_of(scorer: Scorer) -> str | None:
    """What distinguishes two versions of a scorer; None for one of talr's own."""
    if isinstance(scorer, UserScorer):
        return scorer.definition
    code = code_digest(scorer)
    return None if code is None else code[:8]


def look_in_current_folder() -> None:
    """Let modules in the current folder be imported."""
    # Last, so that a file of the user's never replaces an installed package.
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."
