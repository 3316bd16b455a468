"""`talr train`: a run, from config to results; several with points along it or with a merge."""

import logging
from collections.abc import Sequence

from talr_cli import progress, ranks
from talr_cli.config import composition
from talr_cli.config.composition import Composed
from talr_cli.data.encoding import digest
from talr_cli.report.show import show
from talr_cli.run.config import TrainConfig
from talr_cli.run.execute import is_done, lacks_weights, run_to_end
from talr_cli.run.make import follow_training, make_by_averaging, make_by_training
from talr_cli.run.prepare import Run, prepare, prepare_variant
from talr_cli.run.variants import is_merged, points_along, warn_of_unused, with_alpha, without_merge
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.sweep.grid import base_command

log = logging.getLogger(__name__)

_ROWS = "their rows or the order of these (sort what comes from a set, shuffle with a seed)"


def main(arguments: Sequence[str]) -> None:
    composition.run("train", train, arguments)


def train(composed: Composed[TrainConfig]) -> None:
    """Train a run, resume it or find it done; evaluate it unless `eval=false`."""
    directories = make_runs(composed)
    if directories:
        show(directories, lambda: base_command(composed.overrides, composed.config_dir))


def make_runs(composed: Composed[TrainConfig]) -> list[RunDirectory]:
    """Make the runs of the config, or find them done; returns their directories.

    Empty on all ranks but the first, and if other processes were started as ranks.
    """
    directories: list[RunDirectory] = []
    config, trainer = composed.config, composed.config.trainer
    missing = ranks.missing_ranks(config.distributed, config.device)
    if missing:
        # refuses a batch that cannot be divided
        ranks.per_rank(trainer.batch_size, trainer.rows_at_once, missing)
        ranks.start_ranks("train", composed.arguments, missing)
        return directories
    ranks.connect(config.device)
    with ranks.exit_with_others(), progress.work("talr train"):
        warn_of_unused(config)
        tuned = points_along(without_merge(config) if is_merged(config) else config)
        with ranks.one_per_node_first():
            run = prepare(tuned[-1], composed.arguments)
        ranks.require_agreement(run.identity, "what they train")
        if ranks.world_size() > 1:
            ranks.require_agreement(digest(run.rows, run.general, run.validation), _ROWS)
        runs = [*(prepare_variant(run, point) for point in tuned[:-1]), run]
        if ranks.is_main():
            directories = _finish_runs(runs, points_along(config))
        else:
            follow_training(runs)
    ranks.disconnect()
    return directories


def _finish_runs(runs: Sequence[Run], configs: Sequence[TrainConfig]) -> list[RunDirectory]:
    """Finish the runs along a training, and the averages of each that its config asks for."""
    to_train = [one for one in runs if lacks_weights(one.config, one.directory)]
    if to_train:
        if runs[-1] not in to_train:
            log.info(
                "weights along the training were not kept: training again up to %g of the steps",
                to_train[-1].config.at,
            )
        run_to_end(to_train[-1], make_by_training(to_train[:-1]), to_train[:-1])
    directories = []
    for run, config in zip(runs, configs, strict=True):
        if any(run is one for one in to_train) and is_done(run.config, run.directory):
            tuned = run.directory  # made just now
        else:
            tuned = run_to_end(run, make_by_training())
        if config.merge is None or not is_merged(config):
            directories.append(tuned)
            continue
        for alpha in config.merge.alphas:
            averaged = prepare_variant(run, with_alpha(config, alpha))
            directories.append(run_to_end(averaged, make_by_averaging(tuned, alpha)))
    return directories
