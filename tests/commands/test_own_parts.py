"""Parts of the user's own, as docs/extending.md has them: one file, one YAML, no list."""

import json
import re
import sys
from pathlib import Path

import pytest

from talr_cli import api
from talr_cli.errors import UserError
from talr_cli.scorers.base import Verdict

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
        Path(f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
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
