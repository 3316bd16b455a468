"""A scorer of the user's own: found in the current folder, checked before the training."""

import hashlib
import json
import math
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import config

from talr_cli.data.jsonl import Jsonl
from talr_cli.errors import UserError
from talr_cli.evaluation import domain
from talr_cli.evaluation.generation import Answer
from talr_cli.run.record import scoring_identity
from talr_cli.scorers.base import Verdict
from talr_cli.scorers.user import UserScorer, look_in_current_folder, scorer_at

RENDERER = SimpleNamespace(prompt=lambda messages, tools: messages[0]["content"])
ROW = {"prompt": "How heavy?", "completion": "About 71 kg", "answer": "70", "tolerance": 2}
WITHIN = '''"""Right within the row's own tolerance."""
import json, re, sys

constant = 7


def within(output, reference):
    number = re.search(r"\\d+", output)
    return number is not None and (
        abs(float(number[0]) - float(reference["answer"])) <= reference["tolerance"]
    )


def share(output, reference):
    return 0.25 if "71" in output else 0


def helper(reference):
    return reference["no such key"]


def fails(output, reference):
    return helper(reference)


def fails_elsewhere(output, reference):
    return float("x" + chr(10) + "y") if json.loads("{") else 1


def leaves(output, reference):
    sys.exit("enough")


def takes_one(output):
    return True
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a package of the user's and one test row."""
    package = tmp_path / "own_scorers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "weights.py").write_text(WITHIN)
    (package / "quits.py").write_text("raise SystemExit(3)\n")
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
    verdicts, identities, definitions = [], set(), set()
    for tolerance in (2, 5):
        composed = config(
            "train", "dataset=jsonl", "dataset.train=number.jsonl", "dataset.test=number.jsonl",
            f"dataset.scorer={{_target_: objects.Near, tolerance: {tolerance}}}",
        )  # fmt: skip
        scorer = composed.dataset.load().scorer
        assert scorer.name == "objects.Near"
        verdicts += [scorer(output, {"answer": "70"}).correct for output in ("72", "74")]
        identities.add(scoring_identity(composed))
        definitions.add(scorer.definition)
    assert verdicts == [True, False, True, True]
    assert len(identities) == len(definitions) == 2
    file = hashlib.sha256((folder / "objects.py").read_bytes()).hexdigest()[:8]
    assert {definition.partition("-")[0] for definition in definitions} == {file}
    assert UserScorer(len, "objects.Near").definition == file


def test_a_verdict_is_passed_on(folder):
    (folder / "verdicts.py").write_text(
        "from talr_cli.scorers.base import Verdict\n"
        "def judge(output, reference):\n"
        "    return Verdict(output == reference['answer'], output.upper())\n"
    )
    assert scorer_at("verdicts.judge")("ab", {"answer": "ab"}) == Verdict(True, "AB")


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        ("bleu", "it is one of exact_match, numeric, choice, none, or your own"),
        ("nowhere.to.be_found", "the module nowhere.to cannot be imported"),
        ("own_scorers.broken.f", "SyntaxError"),
        ("own_scorers.weights.without", "without is not there in .*weights.py"),
        ("own_scorers.weights.constant", "constant is not a function in .*weights.py"),
        (
            "own_scorers.weights.takes_one",
            r"TypeError: takes_one\(\) takes 1 .* called as",
        ),
        ("own_scorers.quits.f", r"cannot be imported \(SystemExit: 3 at .*quits.py:1\)"),
        (".within", "cannot be imported"),
        ("./judges.py", "names a file: type judges.FUNCTION"),
    ],
)
def test_mistakes_are_one_line_and_come_before_the_training(folder, scorer, expected):
    with pytest.raises(UserError, match=expected) as error:
        load(scorer)
    assert str(error.value).startswith(f"dataset.scorer={scorer}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("scorer", "said", "code"),
    [
        ("fails", "KeyError: 'no such key'", 'return reference["no such key"]'),
        ("fails_elsewhere", "JSONDecodeError: Expecting property name", 'json.loads("{")'),
        ("leaves", "SystemExit: enough", 'sys.exit("enough")'),
    ],
)
def test_what_the_function_raises_is_one_line_with_its_place(folder, scorer, said, code):
    """The place is in the file of the user's, not in a library that it called."""
    with pytest.raises(UserError) as error:
        load(f"own_scorers.weights.{scorer}")
    message = str(error.value)
    assert message.startswith(f"dataset.scorer=own_scorers.weights.{scorer} failed with {said}")
    path, _, line = message.rpartition(" at ")[2].rpartition(":")
    assert path == str(folder / "own_scorers" / "weights.py")
    assert code in WITHIN.splitlines()[int(line) - 1]
    assert "\n" not in message


def test_interrupting_is_not_an_error_of_the_function():
    def interrupted(output, reference):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        UserScorer(interrupted, "a.b")("", {})


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (True, True), (False, False), (1, 1.0), (0, 0.0), (0.25, 0.25), (1.0, 1.0),
        (np.bool_(True), True), (np.float32(0.5), 0.5), (np.int64(1), 1.0),
        (np.array(0.75), 0.75), (torch.tensor(0.5), 0.5), (Verdict(0.75, None), 0.75),
        (Verdict(np.float64(0.5), None), 0.5),
    ],
)  # fmt: skip
def test_partial_credit_is_any_number_from_0_to_1(answer, score):
    verdict = UserScorer(lambda *_: answer, "a.b")("", {})
    assert verdict == Verdict(score, None)
    assert type(verdict.correct) is type(score)
    json.dumps(verdict.correct)


@pytest.mark.parametrize(
    "answer",
    [
        None, "0.5", "yes", math.nan, math.inf, -0.01, 1.01, 100, [1], {}, np.array([1.0]), 1j,
        np.float64("nan"), Verdict(math.nan, None), Verdict(2, None), Verdict(None, "x"),
        Verdict("1", None), np.str_("1"),
    ],
)  # fmt: skip
def test_a_return_value_of_another_kind_is_refused_in_one_line(answer):
    with pytest.raises(UserError) as error:
        UserScorer(lambda *_: answer, "mine.judge")("", {})
    message = str(error.value)
    assert message.startswith("dataset.scorer=mine.judge answered with ")
    assert message.endswith(
        f"of type {type(answer).__name__}: give a function (output: str, reference: Mapping) -> "
        "bool, a number from 0 to 1, or Verdict"
    )
    assert "\n" not in message


def test_the_answer_that_a_verdict_names_is_kept_as_text():
    assert UserScorer(lambda *_: Verdict(1, 7), "a.b")("", {}) == Verdict(1.0, "7")


def test_a_scorer_of_a_notebook_has_no_definition(monkeypatch):
    notebook = ModuleType("__main__")
    notebook.judge = lambda output, reference: output == reference["answer"]
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    scorer = scorer_at("__main__.judge")
    assert scorer("a", {"answer": "a"}) == Verdict(True, None)
    assert scorer.definition is None


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
    monkeypatch.setattr(domain, "generate", lambda *_, **__: [Answer("It is 73 kg.", False)])
    scored = domain.evaluate_domain(None, RENDERER, loaded.test, loaded.scorer, 2, 1)
    assert scored.results["scorer"] == "own_scorers.weights.within"
    assert scored.results["score"] == 0.0
    assert scored.samples[0]["reference"] == {"answer": "70", "tolerance": 2}


def test_a_score_of_partial_credit_is_the_mean_with_the_error_of_a_mean(folder, monkeypatch):
    loaded = load("own_scorers.weights.share")
    outputs = ["71", "71", "no", "71"]
    monkeypatch.setattr(
        domain, "generate", lambda *_, **__: [Answer(one, False) for one in outputs]
    )
    rows = [replace(loaded.test[0], id=f"q{number}") for number in range(4)]
    scored = domain.evaluate_domain(None, RENDERER, rows, loaded.scorer, 2, 1)
    values = [0.25, 0.25, 0.0, 0.25]
    assert scored.results["metric"] == "score"
    assert scored.results["score"] == pytest.approx(0.1875)
    assert scored.results["stderr"] == pytest.approx(statistics.stdev(values) / 2)
    assert scored.results["items"] == {f"q{number}": value for number, value in enumerate(values)}
    assert [sample["correct"] for sample in scored.samples] == values


@pytest.mark.parametrize("right", [0, 1, 3, 7, 10])
def test_the_standard_error_of_a_share_follows_its_formula(right):
    found = domain.proportion([True] * right + [False] * (10 - right))
    share = right / 10
    assert found["score"] == share
    assert found["stderr"] == pytest.approx(math.sqrt(share * (1 - share) / 9), rel=1e-12)
    assert domain.proportion([0.3]) == {"score": 0.3, "stderr": None, "n": 1}
    assert domain.proportion([0.3] * 7)["stderr"] == 0


# The examples of docs/scorers.md

DOCS = Path(__file__).parents[2] / "docs" / "scorers.md"


@pytest.fixture
def examples(folder):
    """The modules that the page shows, in the current folder; each names its file."""
    blocks = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", DOCS.read_text(), re.DOTALL)
    for text, name in blocks:
        (folder / name).write_text(text)
    return {name for _, name in blocks}


def judged(folder, scorer, answer, outputs):
    row = {"prompt": "?", "completion": "{}", "answer": answer}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    loaded = load(scorer)
    return [loaded.scorer(output, loaded.test[0].reference).correct for output in outputs]


def test_the_example_of_fields_scores_their_share(folder, examples):
    assert "extraction.py" in examples
    wanted = {"name": "Ada", "year": 1815, "tags": ["a", "b"], "died": None}
    outputs = [
        json.dumps(wanted),
        'Here it is: ```json\n{"name": "Ada", "year": "1815", "tags": ["a", "b"]}\n```',
        '{"name": "Eve"}', "no object", '{"name": "Ada"', "} {", '{"a":' * 100_000 + "}" * 100_000,
    ]  # fmt: skip
    found = judged(folder, "extraction.fields", wanted, outputs)
    assert found == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_the_example_of_rouge_is_the_longest_common_subsequence(folder, examples):
    assert "summaries.py" in examples
    pytest.importorskip("rouge_score")
    outputs = ["the cat sat on the mat", "the cat on a mat", "", "Nothing here."]
    found = judged(folder, "summaries.rouge_l", "The cat sat on the mat.", outputs)
    # In common: the cat on mat; 4 of 5 words and 4 of 6.
    assert found == pytest.approx([1.0, 2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6), 0.0, 0.0])
