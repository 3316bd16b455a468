"""Error messages about the command line: one line with the mistake and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_origin, get_type_hints

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from talr_cli.config.commands import COMMANDS, OF_GRIDS, conf_dir
from talr_cli.config.help import choices_of
from talr_cli.errors import UserError

# The options that are suggested for a mistyped one.
_OPTIONS = ("--help", "--cfg", "--config-dir", "--multirun")


def explain(error: Exception, command: str, known: Callable[[], Sequence[str]]) -> str:
    """An error of Hydra or OmegaConf in one line for the user.

    Args:
        known: Returns all keys of the command's config.
    """
    see = f"see `talr {command} --help`"
    text = " ".join(str(error).split())
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.options:
        return _no_choice(error.missing_cfg_file or "", error.options)
    if isinstance(error, OverrideParseException):
        reason = re.split(r" (?:expecting|See https?:) ?", text)[0].rstrip(".")
        quotes = "a text with special characters needs quotes inside quotes, \"key='...'\""
        return f"{error.override!r} cannot be read ({reason}): {quotes}; {see}"
    if match := re.search(r"Ambiguous value for argument '(.*?)' 1\.", text):
        sweep = "; `talr sweep` takes several values" if command == "train" else ""
        return (
            f"{match[1]} has a comma: write a list in [], and a decimal with a point{sweep}; {see}"
        )
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown(match[1], command, known(), see)
    if match := re.search(r"Key '([^']+)' (?:is )?not in '?\w+'?.*?full_key: (\S+)", text):
        return _unknown(match[2], command, known(), see)
    if isinstance(cause, OmegaConfBaseException):
        text = " ".join(str(cause).split())
    # OmegaConf's message: the problem, then full_key and object_type.
    if match := re.search(r"^(.*?) full_key: (\S+)", text):
        several = "; in a sweep, write a,b" if "of type 'list' could" in match[1] else ""
        return f"{match[2]}: {match[1]}{several}; {see}"
    return f"{text.rstrip('.')}; {see}"


def check_choices(overrides: Iterable[Override], config_dir: Path | None) -> None:
    """Refuse a value of a group that is not the name of one of its choices.

    Hydra itself fails on a number or null, and merges several names into one config, which only an
    experiment may be.

    Raises:
        UserError: Names the choices.
    """
    for one in overrides:
        group, is_one = one.key_or_group, not (one.is_sweep_override() or one.is_delete())
        value = one.value() if is_one else ""
        several = isinstance(value, list) and group != "experiment"
        if several or value is None or isinstance(value, int | float):
            choices = choices_of(group, config_dir)
            if choices:
                raise UserError(
                    f"{one.input_line}: {group} takes one of its choices: {', '.join(choices)}"
                    f"{'; a sweep takes several without brackets' if several else ''}"
                )


def nearest(name: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)` with the most similar known name; empty if none is similar.

    The last part of a nested key counts most.
    """
    name = name.lower()
    parent, _, own = name.rpartition(".")
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    alike = [key for key in known if ("." in key) == ("." in name)]
    near = (
        [beside[one] for one in difflib.get_close_matches(own, list(beside), n=1, cutoff=0.6)]
        or [last[one] for one in difflib.get_close_matches(own, list(last), n=1, cutoff=0.75)]
        or difflib.get_close_matches(name, alike, n=1, cutoff=0.75)
    )
    return f" (did you mean {near[0]}?)" if near else ""


def guess_option(typed: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    """A guess at what an unknown option means, such as `--lr 1e-5`."""
    if typed == "--dry-run":
        return " (`talr sweep` has it)"
    name, _, value = typed.lstrip("-").partition("=")
    key = _key_called(name.replace("-", "_"), known)
    if key is None:
        near = difflib.get_close_matches(typed, _OPTIONS, n=1, cutoff=0.7)
        return f" (did you mean {near[0]}?)" if near else ""
    following = arguments[arguments.index(typed) + 1 :] if typed in arguments else ()
    value = value or next(iter(following), "VALUE")
    return f" (values have no dashes: {key}={value})"


def guess_key(words: Sequence[str], at: int, known: Sequence[str]) -> str:
    """A guess at what `words[at]` means, which is not of the form key=value."""
    word, before, after = words[at], words[at - 1] if at else "", words[at + 1 :]
    key = _key_called(word, known)
    meant = None
    if after[:1] == ["="] and len(after) > 1:  # method = sft
        meant = f"{word}={after[1]}"
    elif after and after[0].startswith("="):
        meant = f"{word}{after[0]}"
    elif before.endswith(("=", ",")):
        meant = f"{before}{word}"
    elif Path(f"{before.partition('=')[2]} {word}").exists():  # a path with a space
        meant = f'"{before} {word}"'
    elif key is not None and after and "=" not in after[0]:
        meant = f"{key}={after[0]}"
    elif key is None and (named := next((one for one in ("run", "ckpt") if one in known), None)):
        meant = f"{named}={word}"
    return f" (did you mean {meant}?)" if meant else ""


def _key_called(name: str, known: Sequence[str]) -> str | None:
    """The key with this name or alias, such as `learning_rate` or `epochs`; None without any."""
    name = name.lower()
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    return name if name in known else _ALIASES.get(name, last.get(name))


def _no_choice(path: str, options: Sequence[str]) -> str:
    """The message for a missing choice, which would be at `path`: GROUP/NAME."""
    group, _, name = path.partition("/")
    if group == "hydra":
        group, _, name = path.rpartition("/")
    if group == "model" and "/" in name:
        return f"model={name} does not exist: for a folder or a hub model, type model.path={name}"
    if group == "dataset" and Path(name).suffix:
        own = f"dataset=jsonl dataset.train={name} dataset.test=FILE"
        return f"dataset={name} does not exist: for your own rows, type {own}"
    if group == "dataset" and "/" in name:
        own = f"dataset=jsonl dataset.hub_id={name} dataset.test_split=test"
        return f"dataset={name} does not exist: for a data set on the hub, type {own}"
    folder = conf_dir() / group
    inner = [f"{file.parent.name}/{file.stem}" for file in sorted(folder.glob("*/*.yaml"))]
    options = [*options, *inner]
    guess, choices = nearest(name, options), ", ".join(options)
    return f"{group}={name} does not exist{guess}; the choices are {choices}"


def _keys_of_choices() -> dict[str, list[str]]:
    """{key: the choices that have it}, such as {dataset.train: [dataset=jsonl]}."""
    found: dict[str, list[str]] = {}
    for file in sorted(conf_dir().glob("*/*.yaml")):
        text = file.read_text(encoding="utf-8")
        if "# @package _global_" in text:  # a method, an experiment
            continue
        group = file.parent.name
        for name in yaml.safe_load(text) or {}:
            found.setdefault(f"{group}.{name}", []).append(f"{group}={file.stem}")
    return found


def _takes_any_key(place: str, kind: type) -> bool:
    """Whether the value at `place`, such as suite.metrics, is a mapping with free keys."""
    name, _, rest = place.partition(".")
    found = get_type_hints(kind).get(name)
    if rest:
        return isinstance(found, type) and _takes_any_key(rest, found)
    return get_origin(found) is dict


def _unknown(key: str, command: str, known: Sequence[str], see: str) -> str:
    kind = COMMANDS["train" if command in OF_GRIDS else command]
    if _takes_any_key(key.rpartition(".")[0], kind):
        return f"{key} does not exist yet: to add a key, type +{key}=VALUE; {see}"
    groups = {one.partition(".")[0] for one in known if "." in one}
    of_choices = {
        one: choices
        for one, choices in _keys_of_choices().items()
        if one.partition(".")[0] in groups
    }
    if key in of_choices:
        choices = " or ".join(of_choices[key])
        return f"{key} is a value of {choices}, which is not chosen; {see}"
    known = [*known, *of_choices]
    aliases = difflib.get_close_matches(key.rpartition(".")[2], _ALIASES, n=1, cutoff=0.85)
    if aliases and _ALIASES[aliases[0]] != key:
        return f"{key} is not a config value (did you mean {_ALIASES[aliases[0]]}?); {see}"
    return f"{key} is not a config value{nearest(key, known)}; {see}"


_ALIASES = {  # names of other programs
    "learning_rate": "lr",
    "schedule": "schedule",
    "warmup_share": "schedule.warmup_share",
    "lr_scheduler_type": "schedule",
    "num_train_epochs": "trainer.epochs",
    "per_device_train_batch_size": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.micro_batch_size",
    "max_seq_length": "trainer.max_length",
    "train_file": "dataset.train",
    "test_file": "dataset.test",
    "output_dir": "runs_dir",
    "model_name_or_path": "model.path",
}
