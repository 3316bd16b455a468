"""Error messages about the command line: one line with the mistake and the nearest valid name."""

import difflib
import logging
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
from talr_cli.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

_TYPES = {"Float": "a number", "Integer": "a whole number", "bool": "true or false"}
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
        # A path is quoted for the user if there is something at it (quoting.py).
        path = str(error.override).partition("=")[2]
        missing = f"there is no file {path}, and " if Path(path).suffix or "/" in path else ""
        return f"{error.override!r} cannot be read ({reason}): {missing}{quotes}; {see}"
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
        return f"{wrong_type(match[2], match[1])}; {see}"
    return f"{text.rstrip('.')}; {see}"


def wrong_type(key: str, reason: str) -> str:
    """OmegaConf's reason why a value has the wrong type, in terms that users know."""
    match = re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", reason)
    match = match or re.match(r"Value '(.*)' is not a valid (bool)", reason)
    if match and match[2] in _TYPES:
        value = match[1]
        are_several = re.search(r"[\s,;\[]|\d\.\.\d|\d-\d", value)
        counted = f" or {key}=range(a,b)" if match[2] == "Integer" else ""
        grid = f"; for several values, `talr sweep` takes {key}=a,b{counted}" if are_several else ""
        return f"{key}={value} is not {_TYPES[match[2]]}{grid}"
    if "is not Optional" in reason:
        return f"{key} cannot be null"
    if match := re.match(r"Cannot convert '\w+' to string: '(.*)'$", reason):
        return f"{key}={match[1]} is not a text"
    if re.match(r"Cannot assign \w+ to Dict", reason):
        return f"{key} is a mapping: add to it by +{key}.NAME=VALUE"
    if "is not a ListConfig" in reason:
        return f"{key} is a list: write it in brackets, {key}=[VALUE]"
    return f"{key}: {reason}"


def check_choices(overrides: Iterable[Override], config_dir: Path | None) -> None:
    """Refuse a value of a group that is not the name of one of its choices, or is added to it.

    Hydra itself fails on a number or null, and merges several names into one config, which only an
    experiment may be. Of `+experiment=demo` it says what to write into a file.

    Raises:
        UserError: Names the choices.
    """
    for one in overrides:
        group, is_one = one.key_or_group, not (one.is_sweep_override() or one.is_delete())
        line = one.input_line or ""
        if (one.is_add() or one.is_force_add()) and (conf_dir() / group).is_dir():
            raise UserError(f"{line}: {group} has a value already: type {line.lstrip('+')}")
        value = one.value() if is_one else ""
        several = isinstance(value, list) and group != "experiment"
        if several or value is None or isinstance(value, int | float):
            choices = choices_of(group, config_dir)
            if choices:
                raise UserError(
                    f"{line}: {group} takes one of its choices: {', '.join(choices)}"
                    f"{'; a sweep takes several without brackets' if several else ''}"
                )


def warn_of_repeated(command: str, overrides: Iterable[str]) -> None:
    """Warn of keys that are typed twice with different values, of which Hydra takes the last."""
    last: dict[str, str] = {}
    for key, equals, value in (one.partition("=") for one in overrides):
        if equals and last.get(key, value) != value:
            both = f"; for both, type {key}={last[key]},{value}" if command in OF_GRIDS else ""
            log.warning(
                "%s=%s counts, as it is typed after %s=%s%s", key, value, key, last[key], both
            )
        last[key] = value


def nearest(name: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)` with the most similar known name; empty if none is similar.

    The last part of a nested key counts most.
    """
    name = name.lower()
    parent, _, own = name.rpartition(".")
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    alike = [key for key in known if ("." in key) == ("." in name)]
    spelled = {key.replace(".", "_"): key for key in known}
    near = (
        [found for found in (last.get(own), spelled.get(name.replace(".", "_"))) if found]
        or [beside[one] for one in difflib.get_close_matches(own, list(beside), n=1, cutoff=0.6)]
        or [last[one] for one in difflib.get_close_matches(own, list(last), n=1, cutoff=0.75)]
        or difflib.get_close_matches(name, alike, n=1, cutoff=0.75)
        or [key for key in known if len(name) > 3 and key.startswith(name)]
    )
    return f" (did you mean {near[0]}?)" if near else ""


def guess_option(typed: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    """A guess at what an unknown option means, such as `--lr 1e-5`."""
    if typed == "--dry-run":
        return " (`talr sweep` has it)"
    if _is_dry_run(typed):
        return " (did you mean --dry-run, which `talr sweep` has?)"
    name, _, value = typed.lstrip("-").partition("=")
    key = _key_called(name.replace("-", "_"), known)
    if key is None:
        return did_you_mean(typed, _OPTIONS, cutoff=0.7)
    following = arguments[arguments.index(typed) + 1 :] if typed in arguments else ()
    value = value or next(iter(following), "VALUE")
    return f" (values have no dashes: {key}={value})"


def _is_dry_run(typed: str) -> bool:
    return re.sub(r"[-_]", "", typed.lower()) == "dryrun"


def guess_key(words: Sequence[str], at: int, known: Sequence[str]) -> str:
    """A guess at what `words[at]` means, which is not of the form key=value."""
    word, before, after = words[at], words[at - 1] if at else "", words[at + 1 :]
    key = _key_called(word, known)
    meant = None
    if after[:1] == ["="] and len(after) > 1:  # method = sft
        meant = f"{word}={after[1]}"
    elif after and after[0].startswith("="):
        meant = f"{word}{after[0]}"
    elif (colon := re.fullmatch(r"([\w.]+):(.+)", word)) and _key_called(colon[1], known):
        meant = f"{_key_called(colon[1], known)}={colon[2]}"  # lr:1e-6
    elif before.endswith(("=", ",")):
        meant = f"{before}{word}"
    elif Path(f"{before.partition('=')[2]} {word}").exists():  # a path with a space
        meant = f'"{before} {word}"'
    elif key is not None and after and "=" not in after[0]:
        meant = f"{key}={after[0]}"
    elif key is None and (named := next((one for one in ("run", "ckpt") if one in known), None)):
        meant = f"{named}={word}"
    elif key is None and "study" in known and "model" not in known and not before:
        meant = f"study={word}"
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
    if group == "model" and ("/" in name or Path(name).is_dir()):
        return f"model={name} does not exist: for a folder or a hub model, type model.path={name}"
    if group == "dataset" and Path(name).suffix:
        own = f"dataset=jsonl dataset.train={name} dataset.test=FILE"
        return f"dataset={name} does not exist: for your own rows, type {own}"
    if group == "dataset" and name.lower() in ("csv", "tsv", "json", "parquet"):
        own = "dataset=jsonl dataset.train=FILE dataset.test=FILE"
        return f"dataset={name} does not exist: for your own rows, type {own}; FILE may be {name}"
    if group == "dataset" and "/" in name:
        own = f"dataset=jsonl dataset.hub_id={name} dataset.test_split=test"
        return f"dataset={name} does not exist: for a data set on the hub, type {own}"
    folder = conf_dir() / group
    inner = [f"{file.parent.name}/{file.stem}" for file in sorted(folder.glob("*/*.yaml"))]
    options = [*options, *inner]
    other = _CHOICE_ALIASES.get((group, name.lower()))
    guess, choices = f" (that is {other})" if other else nearest(name, options), ", ".join(options)
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
    if _takes_any_key(key, kind):
        return f"{key} takes its keys one by one: type +{key}.NAME=VALUE; {see}"
    groups = {one.partition(".")[0] for one in known}
    of_choices = {
        one: choices
        for one, choices in _keys_of_choices().items()
        if one.partition(".")[0] in groups
    }
    if key in of_choices:
        choices = " or ".join(of_choices[key])
        return f"{key} is a value of {choices}, which is not chosen; {see}"
    if _is_dry_run(key):
        return f"{key} is not a config value: `talr sweep ... --dry-run` shows the plan; {see}"
    if key.replace("_", "-") == "config-dir":
        return f"{key} is not a config value but an option, --config-dir FOLDER; {see}"
    known = [*known, *of_choices]
    aliases = {name: meant for name, meant in _ALIASES.items() if meant in known}
    near = difflib.get_close_matches(key.rpartition(".")[2], aliases, n=1, cutoff=0.85)
    if near and aliases[near[0]] != key:
        return f"{key} is not a config value (did you mean {aliases[near[0]]}?); {see}"
    return f"{key} is not a config value{nearest(key, known)}; {see}"


_CHOICE_ALIASES = {  # choices as other programs name them
    ("adapter", "qlora"): "adapter=lora adapter.base_dtype=nf4",
    ("method", "qlora"): "method=lora adapter.base_dtype=nf4",
    ("adapter", "full"): "adapter=none",
    ("method", "full"): "method=sft",
    ("logger", "off"): "logger=none",
    ("logger", "false"): "logger=none",
}

_ALIASES = {  # keys as other programs name them
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
    "warmup": "schedule.warmup_share",
    "warmup_ratio": "schedule.warmup_share",
    "r": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "load_in_4bit": "adapter.base_dtype",
    "quantize": "adapter.base_dtype",
    "quantization": "adapter.base_dtype",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision",
    "report_to": "logger",
    "model_name_or_path": "model.path",
}
