"""`talr train`: one run, from config to results; with a merge, one for each alpha."""

from __future__ import annotations

from collections.abc import Sequence

from talr_cli import ranks
from talr_cli.config import composition
from talr_cli.config.composition import Composed
from talr_cli.report.show import show
from talr_cli.run.config import TrainConfig
from talr_cli.run.make import average, follow, train_and_save
from talr_cli.run.merging import of_alpha, without_merge
from talr_cli.run.prepare import Run, merged, prepare
from talr_cli.run.whole import run_to_end
from talr_cli.sweep.search import trial


def main(arguments: Sequence[str]) -> None:
    composition.run("train", train, arguments)


def train(composed: Composed[TrainConfig]) -> float | None:
    """Train one run, or go on with it, or find it done; evaluate it unless `eval=false`.

    Under a sweeper of Hydra: in a process of its own, and how good it is.
    """
    if composed.is_trial:
        return trial(composed.config, composed.arguments)
    _train(composed)
    return None


def _train(composed: Composed[TrainConfig]) -> None:
    wanted, trainer = composed.config, composed.config.trainer
    missing = ranks.missing_ranks(wanted.distributed, wanted.device)
    if missing:
        # refuses a batch that cannot be cut up
        ranks.per_rank(trainer.batch_size, trainer.rows_at_once, missing)
        ranks.start("train", composed.arguments, missing)
        return
    ranks.connect(wanted.device)
    with ranks.ended_by_main():
        with ranks.one_per_node_first():
            run = prepare(
                wanted if wanted.merge is None else without_merge(wanted), composed.overrides
            )
        ranks.agree(run.identity, "what is to be trained")
        if ranks.is_main():
            _run(run, wanted)
        else:
            follow(run)
    ranks.leave()


def _run(run: Run, wanted: TrainConfig) -> None:
    """A run to its end, and the averages that `wanted` asks for."""
    tuned = run_to_end(run, train_and_save)
    if wanted.merge is None:
        show(tuned)
        return
    for alpha in wanted.merge.alphas:
        averaged = merged(run, of_alpha(wanted, alpha))
        show(run_to_end(averaged, average(tuned, alpha)))
