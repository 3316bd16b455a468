"""`talr eval`: score any checkpoint; without `ckpt`, the base model."""

from collections.abc import Sequence

from talr_cli import progress, ranks
from talr_cli.config import composition
from talr_cli.config.composition import Composed
from talr_cli.config.stored import overrides_of_run, run_config
from talr_cli.models.checkpoints import find_run
from talr_cli.report.show import show
from talr_cli.run.checkpoint import follow_scoring, own_run, score_checkpoint
from talr_cli.run.config import EvalConfig
from talr_cli.runs.run_directory import RunDirectory


def main(arguments: Sequence[str]) -> None:
    composition.run("eval", evaluate_checkpoint, arguments, hold=overrides_of_run)


def evaluate_checkpoint(composed: Composed[EvalConfig]) -> None:
    """Score `ckpt`; the scores go into the directory of its run, or into a separate one."""
    config = composed.config
    missing = ranks.missing_ranks(config.distributed, config.device)
    if missing:
        ranks.start_ranks("eval", composed.arguments, missing)
        return
    ranks.connect(config.device)
    with ranks.exit_with_others():
        if ranks.is_main():
            with progress.work("talr eval"):
                directory = score_or_find(composed)
            show([directory])
        else:
            follow_scoring(config)
    ranks.disconnect()


def score_or_find(composed: Composed[EvalConfig]) -> RunDirectory:
    """Score `ckpt`, unless these scores exist already; returns the directory with the scores."""
    run = find_run(composed.config.ckpt)
    if run is None:
        return score_checkpoint(composed.config, composed.arguments)
    found = run_config("eval", composed, run)
    # With another dataset, the scores go elsewhere, and those of the run stay.
    own = own_run(run, found.stored, found.config.runs_dir) if found.is_own else None
    return score_checkpoint(found.config, composed.arguments, own)
