"""A scorer of the user's own: found in the current folder, checked before the training."""

import json
import subprocess
import sys

import pytest
from conftest import config
from hydra.utils import instantiate

from talr_cli.data.jsonl import Jsonl
from talr_cli.errors import UserError
from talr_cli.evaluation import domain
from talr_cli.run.record import scoring_identity
from talr_cli.scorers.base import Verdict
from talr_cli.scorers.user import look_in_current_folder, scorer_at

ROW = {"prompt": "How heavy?", "completion": "About 71 kg", "answer": "70", "tolerance": 2}
WITHIN = '''"""Right within the row's own tolerance."""
import re

constant = 7


def within(output, reference):
    number = re.search(r"\\d+", output)
    return number is not None and (
        abs(float(number[0]) - float(reference["answer"])) <= reference["tolerance"]
    )


def percent(output, reference):
    return 0.5


def fails(output, reference):
    return reference["no such key"]
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a package of the user's and one test row."""
    package = tmp_path / "own_scorers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "weights.py").write_text(WITHIN)
    (package / "broken.py").write_text("def f(:\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in [name for name in sys.modules if name.split(".")[0] == "own_scorers"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def load(scorer, **values):
    return Jsonl(train="rows.jsonl", test="rows.jsonl", scorer=scorer, **values).load()


def test_a_function_in_the_current_folder_judges_by_the_rows_own_fields(folder):
    loaded = load("own_scorers.weights.within")
    reference = loaded.test[0].reference
    assert reference == {"answer": "70", "tolerance": 2}
    assert loaded.scorer("72 kg", reference) == Verdict(True, None)
    assert loaded.scorer("73 kg", reference) == Verdict(False, None)


def test_an_object_with_settings_of_its_own_judges_too(folder):
    (folder / "objects.py").write_text(
        "class Near:\n"
        "    def __init__(self, tolerance): self.tolerance = tolerance\n"
        "    def __call__(self, output, reference):\n"
        "        return abs(float(output) - float(reference['answer'])) <= self.tolerance\n"
    )
    (folder / "number.jsonl").write_text(json.dumps({**ROW, "completion": "71"}) + "\n")
    look_in_current_folder()
    verdicts, identities = [], set()
    for tolerance in (2, 5):
        composed = config(
            "train", "dataset=jsonl", "dataset.train=number.jsonl", "dataset.test=number.jsonl",
            f"dataset.scorer={{_target_: objects.Near, tolerance: {tolerance}}}",
        )  # fmt: skip
        scorer = instantiate(composed.dataset).load().scorer
        assert scorer.name == "objects.Near"
        verdicts += [scorer(output, {"answer": "70"}).correct for output in ("72", "74")]
        identities.add(scoring_identity(composed))
    assert verdicts == [True, False, True, True]
    assert len(identities) == 2


def test_a_verdict_is_passed_on(folder):
    (folder / "verdicts.py").write_text(
        "from talr_cli.data.base import Verdict\n"
        "def judge(output, reference):\n"
        "    return Verdict(output == reference['answer'], output.upper())\n"
    )
    assert scorer_at("verdicts.judge")("ab", {"answer": "ab"}) == Verdict(True, "AB")


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        ("bleu", "is not one of exact_match, numeric, choice, none, nor a function of your own"),
        ("nowhere.to.be_found", "the module nowhere.to cannot be imported"),
        ("own_scorers.broken.f", "SyntaxError"),
        ("own_scorers.weights.without", "without is not there in .*weights.py"),
        ("own_scorers.weights.constant", "constant is not a function in .*weights.py"),
        ("own_scorers.weights.percent", "answered with 0.5 of type float"),
        (".within", "cannot be imported"),
    ],
)
def test_mistakes_are_one_line_and_come_before_the_training(folder, scorer, expected):
    with pytest.raises(UserError, match=expected) as error:
        load(scorer)
    assert str(error.value).startswith(f"dataset.scorer={scorer}")
    assert "\n" not in str(error.value)


def test_an_error_of_the_function_is_its_own(folder):
    with pytest.raises(KeyError, match="no such key"):
        load("own_scorers.weights.fails")


def test_a_file_of_the_users_never_stands_in_for_an_installed_package(folder):
    (folder / "tqdm.py").write_text("raise RuntimeError('the wrong tqdm')\n")
    scorer_at("own_scorers.weights.within")
    command = (
        "from talr_cli.scorers.user import scorer_at\n"
        "scorer_at('own_scorers.weights.within')\n"
        "import tqdm; print(tqdm.__file__)"
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", command], capture_output=True, text=True, check=True
    )
    assert str(folder) not in answer.stdout


def test_scores_are_found_again_only_while_the_function_is_the_same(folder):
    composed = config(
        "train",
        "dataset=jsonl",
        "dataset.train=rows.jsonl",
        "dataset.scorer=own_scorers.weights.within",
    )
    before = scoring_identity(composed)
    assert scoring_identity(composed) == before
    (folder / "own_scorers" / "weights.py").write_text(WITHIN.replace("<=", "<"))
    assert scoring_identity(composed) != before


def test_results_name_the_function(folder, monkeypatch):
    loaded = load("own_scorers.weights.within")
    monkeypatch.setattr(domain, "generate", lambda *_, **__: ["It is 73 kg."])
    scored = domain.evaluate_domain(None, None, loaded.test, loaded.scorer, 2, 1)
    assert scored.results["scorer"] == "own_scorers.weights.within"
    assert scored.results["score"] == 0.0
    assert scored.samples[0]["reference"] == {"answer": "70", "tolerance": 2}
