"""Parts of the user's own, as docs/extending.md has them: one file, one YAML, no list."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import jsonl

from talr_cli import api
from talr_cli.config.composition import compose_config
from talr_cli.errors import UserError
from talr_cli.methods.base import TargetTokens
from talr_cli.run.identity import identity
from talr_cli.run.record import scoring_identity
from talr_cli.runs import study
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.scorers.base import Verdict
from talr_cli.scorers.text import ExactMatch
from talr_cli.scorers.user import definition_of

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
(ROWS,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
SMALL = ("trainer.max_steps=2", "device=cpu", "logger=none", "domain.max_new_tokens=4")
NAMES = ("doubles", "focal", "pull", "top", "ladder", "halving", "judges")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files of the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {**BLOCKS, "tasks/capitals.jsonl": ROWS}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    row = {"prompt": "Where to?", "completion": "billing", "answer": "billing"}
    for name in ("tickets", "tickets-test"):
        rows = ({**row, "prompt": f"{name} {n}?"} for n in range(4))
        Path(f"{name}.jsonl").write_text(jsonl(rows))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


def command():
    """The overrides of the page's command."""
    text = re.search(r"    talr train --config-dir mine (.*?)\n\n", PAGE, re.DOTALL)[1]
    return [one.strip("'") for one in text.replace("\\\n", " ").split()]


def test_the_pages_command_makes_its_runs(here):
    runs = api.train(*command(), *SMALL, "suite.drift=false", config_dir="mine")
    (averaged,) = runs
    assert averaged.path.name.startswith("focal+pull+ladder0.5+halving-")
    made_by_command = study.command_of_run(RunDirectory(averaged.path))
    assert made_by_command.startswith("talr train --config-dir=mine model=small dataset=doubles ")
    assert averaged.results["weights"]["averaged"]["alpha"] == 0.5
    assert averaged.results["general"]["tasks"].keys() == {"capitals"}
    assert averaged.results["domain"]["scorer"] == "Ends"
    assert {"length", "parsed"} <= set(averaged.samples().columns)
    tuned = api.run("focal+pull+halving-")
    assert tuned.config["objective"]["gamma"] == 1.0
    assert tuned.metrics()["penalty"].iloc[-1] >= 0
    assert tuned.metrics()["lr"].tolist() == [1e-5, 0.5e-5]
    with pytest.raises(UserError, match=r"objective.gamma=-1.0 is outside \[0, infinity\)"):
        api.train(*command(), "objective.gamma=-1", config_dir="mine")


def made_by(*overrides):
    """The config that the page's files make now, and the identities of a training and of scores."""
    config = compose_config("train", overrides, Path("mine")).config
    return config, identity(config, "model"), scoring_identity(config)


def edited(file, before, after):
    text = Path(file).read_text()
    assert before in text
    Path(file).write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("file", "before", "after", "choice"),
    [
        ("focal.py", "1 - tokens.log_probs.detach().exp()", "tokens.log_probs.detach().exp()",
         "objective=focal"),
        ("pull.py", "/ 2", "/ 20", "regulariser=pull"),
        ("top.py", '"q_proj", "v_proj"', '"q_proj"', "adapter=top"),
        ("halving.py", "0.5 **", "0.25 **", "schedule=halving"),
        ("doubles.py", "Twice {n}?", "Two times {n}?", "dataset=doubles"),
    ],
)  # fmt: skip
def test_a_part_that_was_edited_makes_another_run(file, before, after, choice, here):
    """In one process too, as in a notebook: what is computed is what the file says."""
    _, first, _ = made_by(choice)
    edited(file, before, after)
    assert made_by(choice)[1] != first


def test_an_edited_part_computes_what_its_file_says(here):
    tokens = TargetTokens(torch.tensor([0.25]).log(), sequence=torch.tensor([0]))
    config, run, _ = made_by("objective=focal", "objective.gamma=1")
    assert config.objective.weights(tokens, None).item() == pytest.approx(0.75)
    edited("pull.py", "/ 2", "/ 20")
    assert made_by("objective=focal", "objective.gamma=1")[1] == run  # of others it is no part
    edited("focal.py", "1 - tokens.log_probs.detach().exp()", "tokens.log_probs.detach().exp()")
    config, _, _ = made_by("objective=focal", "objective.gamma=1")
    assert config.objective.weights(tokens, None).item() == pytest.approx(0.25)


def test_the_scorer_of_own_rows_is_known_by_its_file(here):
    config, _, scoring = made_by("dataset=doubles")
    before = definition_of(config.dataset.load().scorer)
    assert len(before) == 8
    edited("doubles.py", "output.strip().endswith", "output.strip().startswith")
    config, _, scoring_after = made_by("dataset=doubles")
    assert definition_of(config.dataset.load().scorer) != before
    assert scoring_after != scoring
    assert definition_of(ExactMatch()) is None  # talr's own have versions


def test_own_rows_scorer_and_adapter(here):
    quick = ("model=small", "adapter=top", "dataset=tickets", "eval=false")
    (run,) = api.train(*quick, *SMALL, config_dir="mine")
    assert run.state == "trained"
    adapter = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert adapter["layers_to_transform"] == [1]
    import judges

    assert judges.first_word("billing!", {"answer": "billing"}) == Verdict(False, "billing!")


def test_every_file_of_the_page_was_run():
    used = {*NAMES, "small", "tickets", "capitals"}
    assert {Path(name).stem for name in BLOCKS} == used


LACKING = {
    "dataset": ("class Rows:\n    name: str = 'x'", "def load(self) -> Splits:"),
    "objective": ("class Rows:\n    x: int = 1", "class Rows(Objective):"),
    "regulariser": (
        "class Rows(Regulariser):\n    x: int = 1",
        "def start(self, model: Any, load_base",
    ),
    "merge": ("class Rows:\n    name: str = 'x'", "@property def alphas(self) -> list[float]:"),
    "schedule": (
        "class Rows(Schedule):\n    x: int = 1",
        "def share(self, step: int, steps: int) -> float:",
    ),
    "adapter": ("class Rows:\n    x: int = 1", "def wrap(self, model: PreTrainedModel"),
}


@pytest.mark.parametrize("group", LACKING)
def test_what_a_part_lacks_is_named_with_the_line_to_write(group, here, tmp_path):
    text, line = LACKING[group]
    imports = "from dataclasses import dataclass\nfrom talr_cli.methods.base import *\n"
    imports += "from talr_cli.methods.schedules import *\n"
    Path(f"lacking_{group}.py").write_text(f"{imports}\n@dataclass\n{text}\n")
    Path(f"mine/{group}").mkdir(exist_ok=True)
    Path(f"mine/{group}/lacking.yaml").write_text(f"_target_: lacking_{group}.Rows\n")
    with pytest.raises(UserError, match=re.escape(f"lacks `{line}")):
        api.train(f"{group}=lacking", config_dir="mine")
