"""Scores of the first items only never take the place of scores of more of them."""

import json

import pytest
from conftest import config

from talr_cli.errors import UserError
from talr_cli.run.checkpoint import own_run, score_checkpoint
from talr_cli.run.execute import run_to_end
from talr_cli.run.make import make_by_training
from talr_cli.run.prepare import prepare

TINY = (
    *("model=tiny", "device=cpu", "logger=none", "dataset.train_rows=4", "dataset.test_rows=3"),
    *("suite.tasks=[mini_python]", "suite.drift=false", "domain.max_new_tokens=2"),
)


def scored(directory):
    results = json.loads(directory.results.read_text())
    return results["general"]["n"], results["domain"]["n"], results["run"]["method"]


def test_scores_of_fewer_items_get_a_folder_of_their_own(tmp_path):
    def score(*overrides):
        made = config("eval", *TINY, f"runs_dir={tmp_path}", *overrides)
        return score_checkpoint(made, overrides)

    first, more = score("limit=1"), score("limit=2")
    assert first.path == more.path  # of more items: they take the place
    kept = {file: file.read_bytes() for file in more.path.rglob("*.json*")}
    look = score("limit=1")
    assert look.path != more.path
    assert scored(look) == (1, 1, "base-limit1")
    assert {file: file.read_bytes() for file in kept} == kept
    assert scored(more) == (2, 2, "base")
    assert score("limit=2").path == more.path


def test_a_run_is_not_scored_on_fewer_items(tmp_path):
    def train(*overrides):
        made = config("train", *TINY, f"runs_dir={tmp_path}", "trainer.max_steps=1", *overrides)
        return run_to_end(prepare(made), make_by_training())

    run = train("limit=2")
    kept = run.results.read_bytes()
    with pytest.raises(UserError, match=rf"talr eval ckpt={run.path} limit=N"):
        train("limit=1")
    assert run.results.read_bytes() == kept
    made = config("eval", *TINY, f"runs_dir={tmp_path}", "limit=1", f"ckpt={run.path}")
    look = score_checkpoint(made, [], own_run(run, run.read_config(), made.runs_dir))
    assert look.path != run.path
    assert run.results.read_bytes() == kept
