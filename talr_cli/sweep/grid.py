"""Expands overrides with lists into the configs of a sweep's runs, with Hydra's grammar.

Hydra takes a tenth of a second to compose a config. So each combination of groups is composed only
once; values such as a learning rate or a seed are then set in copies, by Hydra's own function.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from omegaconf import DictConfig, ListConfig, OmegaConf

from talr_cli.config import composition
from talr_cli.config.mistakes import check_choices
from talr_cli.config.quoting import with_quoted_texts
from talr_cli.config.typed import machine_values, typed_config
from talr_cli.data.base import scored_values
from talr_cli.errors import UserError
from talr_cli.fields import plain
from talr_cli.printable import command_line
from talr_cli.run.config import EvalConfig, TrainConfig

MAX_RUNS = 1000  # planning takes ten seconds

# The keys that `talr eval` and `talr train` have in common.
_EVAL_KEYS = (
    *("study", "runs_dir", "limit", "device", "model", "dataset", "suite", "domain"),
    *("distributed", "logger"),
)
_EVAL_GROUPS = ("model", "dataset", "suite", "distributed", "logger")


@dataclass(frozen=True)
class Point:
    """A point of the grid: its overrides, its `train` config, and the choice of each group.

    `composed` is the config as Hydra composed it, before it became a `TrainConfig`.
    """

    overrides: tuple[str, ...]
    config: TrainConfig
    choices: Mapping[str, str]
    composed: DictConfig


def expand_grid(overrides: Sequence[str], config_dir: Path | None) -> list[Point]:
    """The points of the grid: one for each combination of the values in the overrides' lists.

    An experiment may have lists as well, in `hydra.sweeper.params`; typed overrides replace them.

    Raises:
        UserError: A value is wrong, a list is empty, or there are more than MOST_RUNS runs.
    """
    with composition.composing("train", config_dir) as extra:
        loader = GlobalHydra.instance().config_loader()
        parse = OverridesParser.create(config_loader=loader).parse_overrides
        typed = parse(with_quoted_texts("train", overrides))
        fixed = [one for one in typed if not one.is_sweep_override()]
        if any(one.key_or_group == "experiment" and one not in fixed for one in typed):
            raise UserError("experiment takes one value in a sweep, as it may have its own grid")
        params: dict[str, str] = {}
        if any(one.key_or_group == "experiment" for one in typed):
            check_choices(fixed, config_dir)
            groups = [one.input_line or "" for one in fixed if _needs_composing(one, loader)]
            params = _compose([*extra, *groups], hydra_key="sweeper.params")[1] or {}
        # Later overrides replace earlier ones of the same key.
        merged = [*parse([f"{key}={value}" for key, value in params.items()]), *typed]
        _check_size(merged)
        (combinations,) = BasicSweeper.split_arguments(merged, None)
        parsed = {line: parse([line])[0] for line in {line for c in combinations for line in c}}
        check_choices(parsed.values(), config_dir)
        keys = {one.key_or_group: one for one in parsed.values()}  # a lookup takes 50 ms
        composing = {key for key, one in keys.items() if _needs_composing(one, loader)}
        to_compose = {line for line, one in parsed.items() if one.key_or_group in composing}
        composed: dict[tuple[str, ...], tuple[DictConfig, Any]] = {}
        points = []
        for lines in combinations:
            key = tuple(line for line in lines if line in to_compose)
            if key not in composed:
                composed[key] = _compose([*extra, *key], hydra_key="runtime.choices")
            config, choices = composed[key]
            config = config.copy()
            values = [parsed[line] for line in lines if line not in to_compose]
            ConfigLoaderImpl._apply_overrides_to_config(values, config)
            run = typed_config("train", config, lines, extra)
            points.append(Point(tuple(lines), run, choices, config))
    return points


def _check_size(overrides: Sequence[Override]) -> None:
    """Raise UserError for an interval, an empty list, or more than MAX_RUNS combinations."""
    counts: dict[str, int] = {}
    for one in overrides:
        if one.is_interval_sweep():
            key = one.get_key_element()
            raise UserError(
                f"{one.input_line}: a sweep takes values, {key}=a,b; `talr search` takes intervals"
            )
        if one.is_discrete_sweep():
            values = islice(one.sweep_string_iterator(), MAX_RUNS + 1)
            counts[one.get_key_element()] = count = sum(1 for _ in values)
            if not count:
                raise UserError(f"{one.input_line} matches no value and no choice")
    total = math.prod(counts.values())
    if total > MAX_RUNS:
        product = " x ".join(f"{key}: {count}" for key, count in counts.items())
        raise UserError(
            f"the lists make {total} runs ({product}), and a sweep may have {MAX_RUNS}: make "
            "several sweeps of the same study"
        )


def _compose(overrides: Sequence[str], hydra_key: str) -> tuple[DictConfig, Any]:
    """(the `train` config without Hydra's own, the value of `hydra_key` in Hydra's config)."""
    config = compose("train", list(overrides), return_hydra_config=True)
    value = OmegaConf.select(config.hydra, hydra_key)
    if value is not None:
        value = OmegaConf.to_container(value)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    return config, value


def scoring_key(point: Point) -> str:
    """A key that is equal for runs that are compared with the same scores of the base model."""
    values = {key: plain(getattr(point.config, key)) for key in _EVAL_KEYS}
    values["dataset"] = scored_values(point.config.dataset, values["dataset"])
    return json.dumps(values)


def base_overrides(
    point: Point, config_dir: Path | None, for_points: bool = False
) -> tuple[tuple[str, ...], EvalConfig]:
    """(overrides, config) of the `talr eval` that scores a run's base model like the run.

    Args:
        for_points: Score it like the points along the training: with `score_suite` and `apart`.
    """
    choices = {**point.choices, **({"suite": point.composed.score_suite} if for_points else {})}
    groups = [f"{group}={choices[group]}" for group in _EVAL_GROUPS]
    with composition.composing("eval", config_dir) as extra:
        base = compose("eval", [*extra, *groups])
    lines = list(groups)
    for key in _EVAL_KEYS:
        wanted = point.composed[key]
        if for_points and key == "suite":
            wanted = OmegaConf.merge(base.suite, machine_values(base.suite, wanted))
        lines += _differences(key, base[key], wanted)
        OmegaConf.update(base, key, wanted, merge=False)
    if for_points:
        base.apart = True
        lines.append("apart=true")
    return tuple(lines), typed_config("eval", base, point.overrides)


def base_command(overrides: Sequence[str], config_dir: Path | None) -> str:
    """The command that scores the base model of the run that `talr train OVERRIDES` makes."""
    if not any(one.startswith("experiment=") for one in overrides):
        keys = [re.split(r"[=.@]", one.lstrip("+~"))[0] for one in overrides]
        lines = [one for one, key in zip(overrides, keys, strict=True) if key in _EVAL_KEYS]
    else:  # it may set any of them
        lines = _overrides_as_composed(overrides, config_dir)
    folder = () if config_dir is None else ("--config-dir", str(config_dir))
    return command_line(["talr", "eval", *folder, *lines])


def _overrides_as_composed(overrides: Sequence[str], config_dir: Path | None) -> list[str]:
    with composition.composing("train", config_dir) as extra:  # without the experiment's grid
        config, choices = _compose([*extra, *overrides], hydra_key="runtime.choices")
        run = typed_config("train", config, overrides)
    lines, _ = base_overrides(Point(tuple(overrides), run, choices, config), config_dir)
    with composition.composing("eval", config_dir) as extra:
        defaults = compose("eval", list(extra), return_hydra_config=True).hydra.runtime.choices
    default_lines = {f"{group}={defaults[group]}" for group in defaults}
    return [line for line in lines if line not in default_lines]


def _differences(key: str, before: Any, after: Any) -> list[str]:
    """The overrides that change `before`, the value of `key`, into `after`."""
    if before == after:
        return []
    if not (isinstance(before, DictConfig) and isinstance(after, DictConfig) and after):
        return ["=".join((key, _as_override_value(after)))]
    lines = []
    for name, value in after.items():
        if name in before:
            lines += _differences(f"{key}.{name!s}", before[name], value)
        else:
            lines.append(f"+{key}.{name!s}={_as_override_value(value)}")
    return lines


def _as_override_value(value: Any) -> str:
    if isinstance(value, ListConfig | DictConfig):
        value = OmegaConf.to_container(value, resolve=True)
    return str(Override._get_value_element_as_str(_quoted(value)))


def _quoted(value: Any) -> Any:
    if isinstance(value, str):
        return QuotedString(text=value, quote=Quote.single)
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    return value


def _needs_composing(override: Override, loader: Any) -> bool:
    """Whether it chooses a group's file or is a value of Hydra's own; others can be set later."""
    key = override.key_or_group
    return key.startswith("hydra") or bool(loader.get_group_options(key))
