"""Turns Hydra's errors into one line that names the mistake and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from hydra.errors import MissingConfigException
from omegaconf.errors import OmegaConfBaseException


def one_line(error: Exception, command: str, known: Callable[[], Sequence[str]]) -> str:
    """What an error of Hydra or OmegaConf says to the user.

    Args:
        known: Gives all keys of the command's config.
    """
    see = f"see `talr {command} --help`"
    text = " ".join(str(error).split())
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        guess, choices = nearest(name, error.options), ", ".join(error.options)
        return f"{group}={name} does not exist{guess}; the choices are {choices}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown(match[1], known(), see)
    if match := re.search(r"Key '([^']+)' (?:is )?not in '?\w+'?.*?full_key: (\S+)", text):
        return _unknown(match[2], known(), see)
    if isinstance(cause, OmegaConfBaseException):
        text = " ".join(str(cause).split())
    # omegaconf: what is wrong, then full_key and object_type.
    if match := re.search(r"^(.*?) full_key: (\S+)", text):
        return f"{match[2]}: {match[1]}; {see}"
    return f"{text.rstrip('.')}; {see}"


def nearest(name: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)` with the most similar known name; empty if none is similar.

    Of a nested key the last part counts most: `leraning_rate` is no `trainer.validate`.
    """
    parent, _, own = name.rpartition(".")
    beside = [key for key in known if key.rpartition(".")[0] == parent]
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    near = (
        difflib.get_close_matches(name, beside, n=1, cutoff=0.6)
        or [last[one] for one in difflib.get_close_matches(own, list(last), n=1, cutoff=0.75)]
        or difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    )
    return f" (did you mean {near[0]}?)" if near else ""


def _unknown(key: str, known: Sequence[str], see: str) -> str:
    # A name that other programs have for it, such as learning_rate.
    others = difflib.get_close_matches(key.rpartition(".")[2], _OTHER_NAMES, n=1, cutoff=0.85)
    if others and _OTHER_NAMES[others[0]] != key:
        return f"{key} is not a config value (did you mean {_OTHER_NAMES[others[0]]}?); {see}"
    return f"{key} is not a config value{nearest(key, known)}; {see}"


_OTHER_NAMES = {
    "learning_rate": "lr",
    "schedule": "schedule",
    "warmup_share": "schedule.warmup_share",
    "lr_scheduler_type": "schedule",
    "num_train_epochs": "trainer.epochs",
    "per_device_train_batch_size": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.micro_batch_size",
    "max_seq_length": "trainer.max_length",
    "output_dir": "runs_dir",
    "model_name_or_path": "model.path",
}
