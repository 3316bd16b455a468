"""`talr fetch`: download what `talr train` or `talr sweep` with these arguments reads."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import FetchConfig, SweepConfig
from talr_cli.errors import UserError
from talr_cli.printable import command_line, printable
from talr_cli.runs.listing import as_size
from talr_cli.sweep import fetching
from talr_cli.sweep.apart import apart
from talr_cli.sweep.fetching import Need
from talr_cli.sweep.grid import points
from talr_cli.sweep.needs import free_bytes


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if all is here and was found again without a network.

    Raises:
        UserError: Something cannot be fetched; what was fetched before it stays.
    """
    arguments = [one for one in arguments if one not in ("-m", "--multirun")]
    typed = composition.split_grid_arguments("fetch", FetchConfig, arguments)
    if typed is None:
        return 0
    options = typed.options
    of_runs = [one for one in typed.of_runs if not _is_of_sweep(one)]
    needs = fetching.needs_of(points(of_runs, typed.config_dir))
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise UserError("HF_HUB_OFFLINE=1 forbids what is to be done: unset HF_HUB_OFFLINE")
    places = {} if options.folder is None else fetching.places(Path(options.folder))
    with fetching.environment(places):
        _fetch(needs, Path(options.folder or "."))
    folder = () if typed.config_dir is None else (f"--config-dir={typed.config_dir}",)
    _say_how_to_go_on(places, [*folder, *typed.of_runs])
    return 0


def _fetch(needs: Sequence[Need], folder: Path) -> None:
    with apart() as ask:
        sizes = [ask(fetching.size_on_hub, need) for need in needs]
        known, free = sum(size or 0 for size in sizes), free_bytes(folder)
        if known > free:
            raise UserError(
                f"{as_size(known)} are to be fetched, {as_size(free)} are free in {folder}"
            )
        for number, (need, size) in enumerate(zip(needs, sizes, strict=True), start=1):
            on_hub = "" if size is None else f", {as_size(size)} on the hub"
            head = f"{number}/{len(needs)} {need.kind} {printable(need.name)}"
            print(f"{head}{on_hub} ...", flush=True)
            words, grown = ask(fetching.fetch, need)
            print(f"{head}: {printable(words)}, {as_size(grown)} fetched", flush=True)
    with fetching.environment(fetching.NO_NETWORK), apart() as ask:
        lacking = ask(fetching.check, needs)
    if lacking:
        raise UserError(f"fetched, but not found without a network: {'; '.join(lacking)}")


def _say_how_to_go_on(places: Mapping[str, str], typed: Sequence[str]) -> None:
    print("all is here, and was found again without a network. Where there is none:")
    values = {**places, "HF_HUB_OFFLINE": "1"}
    print("  export " + " ".join(f"{name}={shlex.quote(one)}" for name, one in values.items()))
    print(f"  {command_line(['talr', 'sweep', *typed])}")


def _is_of_sweep(override: str) -> bool:
    """Whether it is an option of the sweep, which does not change what runs read."""
    key = override.partition("=")[0].lstrip("+~")
    names = {field.name for field in fields(SweepConfig)}
    return key.partition(".")[0] in names or key.startswith("hydra.launcher.")
