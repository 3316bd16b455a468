"""`talr train`: one run, from config to results; with a merge, one for each alpha."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from talr_cli import ranks
from talr_cli.config import composition
from talr_cli.config.commands import check
from talr_cli.methods.method import Method
from talr_cli.report.show import show
from talr_cli.run.pipeline import Run, average, follow, merged, prepare, run_to_end, train_and_save
from talr_cli.sweep.search import trial


def main(arguments: Sequence[str]) -> int:
    is_search = any(one.startswith("hydra/sweeper=") for one in arguments)
    if {"-m", "--multirun"} & set(arguments) and not is_search:
        from talr_cli.commands import sweep

        return sweep.main(arguments)
    composition.run("train", train, arguments)
    return 0


def train(config: DictConfig) -> float | None:
    """Train one run, or go on with it, or find it done; evaluate it unless `eval=false`.

    Under a sweeper of Hydra: in a process of its own, and how good it is.
    """
    check(config)
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return trial(config, composition.command_line())
    _train(config)
    return None


def _train(config: DictConfig) -> None:
    missing = ranks.missing_ranks(config)
    if missing:
        ranks.per_rank(config, missing)  # refuses a batch that cannot be cut up
        ranks.start("train", composition.command_line(), missing)
        return
    wanted = config
    if Method.of(config).merge is not None:
        # The same run without the merge has what is to be merged, whatever was scored of it.
        config = _with(config, merge={}, eval=False)
    ranks.connect(config.device)
    with ranks.ended_by_main():
        with ranks.one_per_node_first():
            run = prepare(config)
        ranks.agree(run.identity, "what is to be trained")
        if ranks.is_main():
            _run(run, wanted)
        else:
            follow(run)
    ranks.leave()


def _run(run: Run, wanted: DictConfig) -> None:
    """A run to its end, and the averages that `wanted` asks for."""
    tuned = run_to_end(run, train_and_save)
    merge = Method.of(wanted).merge
    if merge is None:
        show(tuned)
        return
    for alpha in merge.alphas:
        averaged = merged(run, _with(wanted, **{"merge.alpha": alpha}))
        show(run_to_end(averaged, average(tuned, alpha)))


def _with(config: DictConfig, **values: object) -> DictConfig:
    changed = config.copy()
    for key, value in values.items():
        OmegaConf.update(changed, key, value, merge=False)
    return changed
