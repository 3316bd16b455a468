"""docs/api.md, run from the top to the bottom: on a study that was never run, and on a tiny one."""

import json
import random
import re
import threading
import time
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from command_line import SMALL
from synthetic_study import study as synthetic
from synthetic_study import write_config, write_study

from talr_cli import api
from talr_cli.errors import UserError
from talr_cli.runs.listing import find_runs

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(Path("runs"), synthetic(6))
    Path("runs/s").rename("runs/demo")
    answer = {"id": "1", "output": "x", "parsed": None, "correct": False}
    for found in find_runs(Path("runs"), "demo"):
        found.directory.samples.mkdir()
        (found.directory.samples / "domain.jsonl").write_text(json.dumps(answer) + "\n")
        write_config(found.directory.path, {"lr": 1e-6})
        found.directory.write_status("evaluated")


def test_the_page_runs_as_it_stands(here, monkeypatch, caplog):
    """The overrides of the small run stand before what the page says."""
    small = (*SMALL, "suite.tasks=[mini_python]", "suite.drift=false", "logger=none")
    of_eval = [one for one in small if not one.startswith("trainer")]
    train, evaluate = api.train, api.evaluate
    monkeypatch.setattr(api, "train", lambda *given: train(*small, *given))
    monkeypatch.setattr(api, "evaluate", lambda *given: evaluate(*of_eval, *given))
    before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    names = {}
    for block in BLOCKS:
        exec(compile(block, "docs/api.md", "exec"), names)
    after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before  # what the notebook draws at random is its own affair
    frame, run = names["frame"], names["run"]
    assert len(frame) == 7
    base = frame.set_index("method").loc["base"]
    assert (base.domain, base.general) == (0.21, 0.46)
    kept = frame[frame.general_change > -0.02]
    assert names["best"].domain == kept.domain.max()
    assert run.state == "evaluated"
    assert len(names["answers"]) == 1
    assert names["steps"].step.max() == 100
    assert Path("small on medcalc.png").stat().st_size > 10_000
    (made,) = names["runs"]
    assert names["scored"].path.absolute() == made.path.absolute()
    assert made.results["run"]["method"] == "talr"
    assert made.metrics().lr.max() == pytest.approx(2e-4)
    assert isinstance(made.samples("general/mini_python"), pandas.DataFrame)
    assert names["model"].config.vocab_size == len(names["tokenizer"])
    assert str(made.path) in set(api.study("demo").path)
    assert "are replaced" not in caplog.text
    evaluate(*of_eval, f"ckpt={made.path}", "suite.name=another")
    assert f"by suite=mini in {made.path} are replaced by those by suite=another" in caplog.text


def test_every_mistake_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"did you mean lr\?"):
        api.train("lrr=1")
    with pytest.raises(UserError, match="no scored run"):
        api.study("none")


def test_what_is_not_there_is_not_taken_for_nothing(here, monkeypatch):
    run = api.run("base")
    assert run.state == "evaluated"
    with pytest.raises(UserError, match="has no answers of general/sums; it has domain"):
        run.samples("general/sums")
    monkeypatch.chdir("runs")
    with pytest.raises(UserError, match="is not there"):
        _ = run.state


def test_calls_from_several_threads_run_one_at_a_time(tmp_path, monkeypatch):
    """Else they would draw from the same random generators: other weights for the same run."""
    monkeypatch.chdir(tmp_path)
    inside, most = [], []

    def slow(asked):
        inside.append(asked)
        most.append(len(inside))
        time.sleep(0.05)
        inside.remove(asked)
        return []

    monkeypatch.setattr(api, "make_runs", slow)
    threads = [
        threading.Thread(target=api.train, args=("model=tiny", f"lr={lr}")) for lr in (1e-5, 2e-5)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert most == [1, 1]
