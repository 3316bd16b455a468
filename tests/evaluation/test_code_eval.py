"""HumanEval through the harness, with programs that are right, wrong and hostile."""

import copy
import itertools
import os
import time

import pytest
from conftest import config, jsonl
from lm_eval.api.model import LM

from talr_cli.errors import UserError
from talr_cli.evaluation.general.harness import run_task
from talr_cli.evaluation.general.tasks import load_tasks
from talr_cli.evaluation.sandbox import code_eval
from talr_cli.evaluation.sandbox import outside as sandbox
from talr_cli.evaluation.sandbox.code_eval import CodeEval, pass_at_k

needs_sandbox = pytest.mark.skipif(
    sandbox.available_sandbox() is None, reason="no bubblewrap and no user namespaces here"
)

PROBLEMS = [
    {
        "task_id": "ours/0",
        "entry_point": "double",
        "prompt": 'def double(x):\n    """Twice x.\n    >>> double(2)\n    4\n    """\n',
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert [candidate(2), candidate(-1)] == [4, -2]\n",
    },
    {
        "task_id": "ours/1",
        "entry_point": "vowels",
        "prompt": (
            "from typing import List\n\n\ndef vowels(words: List[str]) -> int:\n"
            '    """How many words begin with a vowel."""\n'
        ),
        "canonical_solution": "    return sum(word[:1] in 'aeiou' for word in words)\n",
        "test": "def check(candidate):\n    assert candidate(['an', 'ox', 'bit']) == 2\n",
    },
]


class Scripted(LM):
    """Answers each prompt as it is told, by the name of the function."""

    tokenizer_name = "scripted"
    prompts_cut = 0

    def __init__(self, answers):
        super().__init__()
        self.answers = answers
        self.prompts = []

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return "\n".join(f"<{turn['role']}>{turn['content']}" for turn in chat_history)

    def generate_until(self, requests, disable_tqdm=False):
        self.prompts += [request.args[0] for request in requests]
        return [
            next(text for name, text in self.answers.items() if f"def {name}" in request.args[0])
            for request in requests
        ]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.fixture(scope="module")
def humaneval(tmp_path_factory):
    """humaneval_instruct as lm-eval defines it, on problems of ours, and its suite."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "HumanEval.jsonl").write_text(jsonl(PROBLEMS))
    suite = config("eval", "suite=paper", f"suite.data_dir={folder}").suite
    suite.tasks = ["humaneval_instruct"]
    return load_tasks(suite).loaded["humaneval_instruct"], suite


def scores(humaneval, **answers):
    """{function: whether its answer passed}."""
    task, suite = humaneval
    record = run_task(Scripted(answers), task, suite)
    passed = {row["doc"]["entry_point"]: row["pass@1"] == 1 for row in record["samples"]}
    assert record["values"]["pass@1,create_test"] == sum(passed.values()) / len(passed)
    return passed


@needs_sandbox
def test_canonical_solutions_pass_and_wrong_ones_do_not(humaneval):
    right = {row["entry_point"]: row["canonical_solution"] for row in PROBLEMS}
    assert scores(humaneval, **right) == {"double": True, "vowels": True}
    # An answer ends with its code block; what follows is talk.
    fenced = right["double"] + "```\nThis doubles x."
    wrong = "    return len(words)\n"
    assert scores(humaneval, double=fenced, vowels=wrong) == {"double": True, "vowels": False}


@needs_sandbox
@pytest.mark.parametrize(
    "attack",
    [
        "    import os\n    return 2 * x if os.environ['TALR_SECRET'] else 0\n",
        "    open('/x', 'w')\n    return 2 * x\n",
        "    import sys\n    sys.exit(0)\n",
        "    import time, signal\n    signal.signal(15, signal.SIG_IGN)\n    time.sleep(999)\n",
        "    while True:\n        __import__('os').fork()\n",
        "    return bytearray(50 << 30)\n",
    ],
)
def test_an_attack_fails_and_the_others_are_scored(humaneval, attack, monkeypatch):
    monkeypatch.setenv("TALR_SECRET", "key")
    monkeypatch.setattr(code_eval, "LIMITS", sandbox.Limits(seconds=2))
    started = time.monotonic()
    answers = {"double": attack, "vowels": PROBLEMS[1]["canonical_solution"]}
    assert scores(humaneval, **answers) == {"double": False, "vowels": True}
    assert time.monotonic() - started < 600
    assert os.environ["TALR_SECRET"] == "key"


@needs_sandbox
def test_all_answers_are_generated_before_a_program_runs(humaneval, monkeypatch):
    task, suite = humaneval
    model = Scripted({row["entry_point"]: row["canonical_solution"] for row in PROBLEMS})
    run_all, seen = code_eval.run_all, []

    def watched(*arguments):
        seen.append(len(model.prompts))
        return run_all(*arguments)

    monkeypatch.setattr(code_eval, "run_all", watched)
    run_task(model, task, suite)
    assert seen == [len(PROBLEMS)] * len(PROBLEMS)


def test_without_a_sandbox_code_tasks_are_refused_before_anything_is_loaded(humaneval, monkeypatch):
    _, suite = humaneval
    monkeypatch.setattr(sandbox, "available_sandbox", lambda: None)
    with pytest.raises(UserError, match=r"humaneval_instruct runs .* suite.allow_unsafe_code=true"):
        load_tasks(suite)
    allowed = copy.copy(suite)
    allowed.allow_unsafe_code = True
    answers = {row["entry_point"]: row["canonical_solution"] for row in PROBLEMS}
    assert all(scores((load_tasks(allowed).loaded["humaneval_instruct"], allowed), **answers))


def test_a_task_that_runs_programs_by_itself_is_refused_even_with_a_sandbox(humaneval):
    own = copy.copy(humaneval[1])
    own.tasks = ["cruxeval_output"]
    with pytest.raises(UserError, match="outside of the sandbox"):
        load_tasks(own)


@pytest.mark.parametrize(("total", "passed"), [(5, 0), (5, 2), (5, 5), (6, 1)])
def test_pass_at_k_against_every_draw(total, passed):
    for k in range(1, total + 1):
        draws = list(itertools.combinations([True] * passed + [False] * (total - passed), k))
        assert pass_at_k(total, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@needs_sandbox
def test_scores_of_several_candidates():
    candidates = ["def f(): return 1", "def f(): return 2", "def f(): return 1"]
    found, details = CodeEval().compute(
        ["assert f() == 1", "assert f() == 2"], [candidates] * 2, [1, 2, 9]
    )
    assert found == {"pass@1": pytest.approx(0.5), "pass@2": pytest.approx((1 + 2 / 3) / 2)}
    assert [outcome["passed"] for _, outcome in details[1]] == [False, True, False]
    assert details[1][0][1]["result"] == "AssertionError"
