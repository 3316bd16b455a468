"""`talr fetch`: download what `talr train` or `talr sweep` with these arguments needs."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import FetchConfig, SweepConfig
from talr_cli.errors import UserError
from talr_cli.printable import command_line, printable
from talr_cli.runs.listing import format_size
from talr_cli.sweep import fetching
from talr_cli.sweep.fetching import Resource
from talr_cli.sweep.grid import expand_grid
from talr_cli.sweep.needs import free_bytes
from talr_cli.sweep.worker_process import worker_process


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if everything is cached and was found without network access.

    Raises:
        UserError: Something cannot be downloaded; what was downloaded before stays.
    """
    arguments = [one for one in arguments if one not in ("-m", "--multirun")]
    typed = composition.split_grid_arguments("fetch", FetchConfig, arguments)
    if typed is None:
        return 0
    options = typed.options
    run_overrides = [one for one in typed.of_runs if not _is_sweep_option(one)]
    resources = fetching.resources_of(expand_grid(run_overrides, typed.config_dir))
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise UserError("HF_HUB_OFFLINE=1 forbids downloads: unset HF_HUB_OFFLINE")
    variables = {} if options.folder is None else fetching.cache_variables(Path(options.folder))
    with fetching.environment_variables(variables):
        _fetch(resources, Path(options.folder or "."))
    folder = () if typed.config_dir is None else (f"--config-dir={typed.config_dir}",)
    print("everything is cached, and was found without network access. To run without a network:")
    variables["HF_HUB_OFFLINE"] = "1"
    print("  export " + " ".join(f"{name}={shlex.quote(one)}" for name, one in variables.items()))
    print(f"  {command_line(['talr', 'sweep', *folder, *typed.of_runs])}")
    return 0


def _fetch(resources: Sequence[Resource], folder: Path) -> None:
    with worker_process() as call:
        sizes = [call(fetching.size_on_hub, resource) for resource in resources]
        known, free = sum(size or 0 for size in sizes), free_bytes(folder)
        if known > free:
            raise UserError(
                f"{format_size(known)} have to be downloaded, and {format_size(free)} are free in "
                f"{folder}"
            )
        for number, (resource, size) in enumerate(zip(resources, sizes, strict=True), start=1):
            on_hub = "" if size is None else f", {format_size(size)} on the hub"
            head = f"{number}/{len(resources)} {resource.kind} {printable(resource.name)}"
            print(f"{head}{on_hub} ...", flush=True)
            origin, grown = call(fetching.fetch, resource)
            print(f"{head}: {printable(origin)}, {format_size(grown)} fetched", flush=True)
    with fetching.environment_variables(fetching.NO_NETWORK), worker_process() as call:
        missing = call(fetching.find_missing, resources)
    if missing:
        raise UserError(f"fetched, but not found without a network: {'; '.join(missing)}")


def _is_sweep_option(override: str) -> bool:
    """Whether it is an option of the sweep, which does not change what runs need."""
    key = override.partition("=")[0].lstrip("+~")
    names = {field.name for field in fields(SweepConfig)}
    return key.partition(".")[0] in names or key.startswith("hydra.launcher.")
