"""The rows of replay=self: the base model's own correct answers, generated before the training."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from talr_cli import ranks
from talr_cli.data.base import Example
from talr_cli.data.encoding import TokenRows, encode_training_rows
from talr_cli.data.rendering import Renderer, RowError
from talr_cli.errors import UserError
from talr_cli.methods.replay import SelfReplay
from talr_cli.models.checks import check_loads
from talr_cli.models.device_memory import release_memory
from talr_cli.run.prepare import Run

log = logging.getLogger(__name__)


def with_own_rows(run: Run) -> tuple[Run, dict[str, int]]:
    """(the run with these rows, what is added to its `training` results).

    All ranks must call it: the first generates the answers, the others wait for them.

    Raises:
        UserError: No answer of the base is correct.
    """
    replay = run.config.replay
    if not isinstance(replay, SelfReplay):
        return run, {}
    examples, asked = ranks.broadcast(_correct_answers(run, replay) if ranks.is_main() else None)
    log.info("own answers: %d of %d are correct and kept", len(examples), asked)
    if not examples:
        raise UserError(
            f"replay=self: none of {asked} answers of the base is right, so there is nothing to "
            "train on: ask for more with replay.samples=N, or take another replay"
        )
    limit = run.config.trainer.max_length
    # An answer that the template would change is left out, as it would not be the base's own.
    rows = encode_training_rows(
        examples, run.renderer, limit, "answers of the base", skip=True, max_bad_share=1.0
    ).shuffled(run.config.seed)
    facts = {"own_answers": asked, "own_rows": len(rows)}
    if replay.share == 1:
        return replace(run, rows=rows, general=TokenRows()), facts
    log.info("one of them, trained tokens between ⟦ and ⟧:\n%s", run.renderer.mark_targets(rows[0]))
    return replace(run, general=rows), facts


def _correct_answers(run: Run, replay: SelfReplay) -> tuple[list[Example], int]:
    """(rows with the correct answers, how many answers were generated)."""
    from talr_cli.evaluation.domain import answer_budget
    from talr_cli.evaluation.evaluate import load_to_score
    from talr_cli.evaluation.memory import explain_out_of_memory
    from talr_cli.evaluation.own_answers import correct_answers

    scorer = run.splits.scorer
    assert scorer is not None  # `prepare` refuses replay=self without one
    config, renderer = run.config, run.renderer
    asked = [one for one in run.splits.train if _is_rendered(renderer, one)]
    budget = replay.max_new_tokens or answer_budget(asked, renderer)
    with explain_out_of_memory(
        "answering the training rows one at a time",
        run.device,
        f"a replay.max_new_tokens below {budget}",
    ):
        found = correct_answers(
            partial(load_to_score, run.source, config.model, run.device),
            f"{run.source.fingerprint} {run.device}",
            check_loads(run.source, config.model, to_train=True),
            renderer,
            asked,
            scorer,
            budget,
            replay.samples,
            replay.temperature,
        )
    release_memory()  # the base, before another copy of it is loaded
    return found, len(asked) * replay.samples


def _is_rendered(renderer: Renderer, example: Example) -> bool:
    """Whether the template can render a row; others are not trained on either."""
    try:
        renderer.encode(example)
    except RowError:
        return False
    return True
