"""Makes the parts that a config names by class, such as a dataset or an objective.

Each part is a dataclass, whose values are checked first. Overrides and YAML files of the user may
name any class; the files of a run may name only talr's own classes (`TRUSTED`).
"""

import dataclasses
import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from talr_cli.config.mistakes import nearest, wrong_type
from talr_cli.data.base import Dataset
from talr_cli.errors import UserError, failure_of, reason_of
from talr_cli.fields import expand_home, problems
from talr_cli.methods.base import Adapter, Merge, Objective, Regulariser
from talr_cli.methods.checks import check_merge
from talr_cli.methods.optimizers import Optimizer
from talr_cli.methods.replay import ReplayedRows
from talr_cli.methods.schedules import Schedule
from talr_cli.scorers.user import UserScorer, found_at, import_current

# The protocol or base class of each part, by its key.
KINDS: dict[str, type] = {
    "dataset": Dataset,
    "objective": Objective,
    "adapter": Adapter,
    "regulariser": Regulariser,
    "merge": Merge,
    "replay": ReplayedRows,
    "schedule": Schedule,
    "optimizer": Optimizer,
}
# The packages whose classes a stored config may name. Making one of them has no side effects.
TRUSTED = dict.fromkeys(KINDS, "talr_cli.methods.") | {"dataset": "talr_cli.data."}
# The methods that a subclass has to define.
_NEEDED = {"Objective": ("weights",), "Regulariser": ("start",), "Schedule": ("share",)}


def make(key: str, values: Mapping[str, Any], is_stored: bool) -> tuple[Any, list[str]]:
    """(the part of a config under `key`, problems of its values); one of the two is empty.

    Args:
        values: Contain the class as `_target_`; empty if there is no part.
        is_stored: Whether they were read from a run's files, not typed by the user.
    """
    if not values:
        return None, []
    try:
        kind = _class(key, values.get("_target_"), is_stored)
        given = {k: v for k, v in values.items() if k != "_target_"}
        if is_stored:
            _refuse_objects(key, given)
        return _made(key, kind, given)
    except UserError as error:
        return None, [str(error)]


def _made(key: str, kind: type, given: Mapping[str, Any]) -> tuple[Any, list[str]]:
    names = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in names:
            raise UserError(f"{key}.{name} is not a value of {kind.__name__}{nearest(name, names)}")
    objects = {name: one for name, one in given.items() if _names_a_class(one)}
    try:
        # OmegaConf converts values to the types of the fields, or refuses them.
        typed = OmegaConf.structured(kind)
        OmegaConf.set_struct(typed, True)
        for name, value in given.items():
            if name not in objects:
                typed[name] = value
    except OmegaConfBaseException as error:
        reason = reason_of(error).partition(" full_key:")[0]
        name = getattr(error, "key", None) or kind.__name__
        raise UserError(wrong_type(f"{key}.{name}", reason)) from error
    container: Any = OmegaConf.to_container(typed)
    found = list(problems(kind, container, f"{key}."))
    if found:
        return None, found
    for name, one in objects.items():
        container[name] = _user_object(f"{key}.{name}", one)
    try:
        part = kind(**expand_home(kind, container))
        lines = _missing_lines(part, KINDS[key])
        if key == "merge" and not lines:
            check_merge(part)
    except UserError:
        raise
    except Exception as error:  # a user's class may raise anything
        raise UserError(
            f"{key}: {kind.__module__}.{kind.__name__} cannot be made ({failure_of(error)})"
        ) from error
    if lines:
        raise UserError(
            f"{key}: {kind.__module__}.{kind.__name__} is no {KINDS[key].__name__.lower()}: it "
            f"lacks {' and '.join(f'`{one}`' for one in lines)}; docs/extending.md has an example"
        )
    return part, []


def _missing_lines(part: Any, wanted: type) -> list[str]:
    """The first lines of the members that the class of a part lacks to be a `wanted`."""
    kind = type(part)
    if not getattr(wanted, "_is_protocol", False):
        if not isinstance(part, wanted):
            return [f"class {kind.__name__}({wanted.__name__}):"]
        lacks = {name for name, own in vars(wanted).items() if getattr(kind, name, own) is own}
        lines = [_line(wanted, name) for name in _NEEDED.get(wanted.__name__, ()) if name in lacks]
        if wanted is Regulariser and not lines and {"loss", "add_gradient"} <= lacks:
            lines = [f"{_line(wanted, 'add_gradient')}` or `{_line(wanted, 'loss')}"]
        return lines
    names = [*getattr(wanted, "__annotations__", {}), *vars(wanted)]
    public = (name for name in names if not name.startswith("_"))
    return [_line(wanted, name) for name in public if not hasattr(part, name)]


def _line(wanted: type, name: str) -> str:
    """The first line of a member of a protocol or a base class."""
    if name in wanted.__annotations__:
        return f"{name}: {wanted.__annotations__[name]}"
    member = vars(wanted)[name]
    is_property = isinstance(member, property)
    function: Any = member.fget if is_property else member
    signature = str(inspect.signature(function)).replace("'", "")
    return f"{'@property ' if is_property else ''}def {name}{signature}:"


def _class(key: str, target: Any, is_stored: bool) -> type:
    if not isinstance(target, str):
        raise UserError(f"{key} names no class: its file needs a line `_target_: module.Class`")
    if is_stored and not target.startswith(TRUSTED[key]):
        raise UserError(
            f"{key}: the run's stored config names {target}, but only talr's own classes are "
            f"loaded from a file: type {key}=CHOICE to use it anyway"
        )
    found = found_at(f"{key}._target_", target)
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise UserError(f"{key}: {target} is not a dataclass: decorate the class with @dataclass")
    return found


def _refuse_objects(key: str, given: Mapping[str, Any]) -> None:
    """Refuse values of a stored config that name a class; a scorer that does was typed by now."""
    for name, value in given.items():
        if name != "scorer" and _names_a_class(value):
            raise UserError(
                f"{key}.{name}: the run's stored config names {value['_target_']}, but nothing "
                "that a file names is run: its config.yaml is damaged"
            )


def _names_a_class(value: Any) -> bool:
    return isinstance(value, Mapping | DictConfig) and "_target_" in value


def _user_object(key: str, values: Any) -> UserScorer:
    """The only object that a part may contain: a scorer with settings."""
    target = values["_target_"]
    try:
        with suppress(ModuleNotFoundError):  # for a method of a class; else `instantiate` raises
            import_current(str(target).rpartition(".")[0])
        judge = instantiate(values)
    except Exception as error:  # a user's module may raise anything
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        reason = reason_of(error.__cause__ or error)
        raise UserError(f"{key}: {target} cannot be made ({reason})") from error
    if not callable(judge):
        raise UserError(f"{key}: {target} is not callable: it is called with (output, reference)")
    return UserScorer(judge, target, {k: v for k, v in values.items() if k != "_target_"})
