"""The embedded suite: its items are right, its checkers tell good from bad, lm-eval can load it."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from talr_cli.config import composition
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.drift import general_passages
from talr_cli.evaluation.evaluate import prepare_to_score
from talr_cli.evaluation.general.mini import TASK_DIR
from talr_cli.evaluation.general.mini.tasks import CHECKS, obeys, read_items
from talr_cli.evaluation.general.suite import evaluate_general
from talr_cli.models import loading, sources
from talr_cli.models.tokenizer import load_tokenizer

CHOICE_TASKS = ("arithmetic", "knowledge", "python")


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_choice_items_are_well_formed(task):
    items = read_items(task)
    assert len(items) >= 60
    assert len({item["question"] for item in items}) == len(items)
    for item in items:
        assert len(set(item["choices"])) == 4
        assert 0 <= item["answer"] < 4


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_the_right_answer_stands_in_every_place_equally_often(task):
    places = Counter(item["answer"] for item in read_items(task))
    assert max(places.values()) - min(places.values()) <= 1


def test_arithmetic_answers_are_right():
    for item in read_items("arithmetic"):
        value = eval(item["expression"])
        rights = [
            place
            for place, choice in enumerate(item["choices"])
            if float(re.findall(r"\d+", without_operands(choice, item))[-1]) == value
        ]
        assert rights == [item["answer"]], item


def without_operands(choice, item):
    """`There are 21 days in 3 weeks.` -> the number that is the answer comes last."""
    return re.sub(r" days in \d+ weeks", "", choice)


def test_python_answers_are_right():
    for item in read_items("python"):
        for place, choice in enumerate(item["choices"]):
            if "expression" in item:
                holds = repr(eval(item["expression"])) == choice
            else:
                scope = {}
                exec(f"def {item['signature']}:\n    {choice}", scope)
                try:
                    holds = bool(eval(item["test"], scope))
                except Exception:
                    holds = False
            assert holds == (place == item["answer"]), item


EXAMPLES = {
    "one_of": (["yes", "no"], ["Yes.", "no", '"No"'], ["Yes, it is.", "maybe", ""]),
    "max_words": (2, ["an elephant", "Paris."], ["The capital is Paris.", ""]),
    "capitals": (None, ["MUSIC", "GOOD DAY!"], ["Music", "123", ""]),
    "bullets": (
        2,
        ["- a\n- b", "Here they are:\n\n- a\n- b"],
        ["- a", "- a\n- b\n- c", "1. a\n2. b"],
    ),
    "numbered": (
        2,
        ["1. a\n2. b", "Well:\n1. a\n2. b\n"],
        ["1. a", "2. a\n1. b", "1. a\n2. b\n3. c"],
    ),
    "comma_list": (3, ["a, b, c", "Mars, Venus, Earth."], ["a, b", "a b c d e, f, g"]),
    "contains": (["park"], ["A dog in the park."], ["A dog.", "A parking dog."]),
    "starts_with": ("the moon", ["The moon shines."], ["Well, the moon"]),
    "ends_with": ("?", ["How are you?"], ["I am fine.", "How? I see."]),
    "exactly": ("It rains.", ["It rains", "it rains."], ["It rains. Yes.", ""]),
    "json_keys": (
        ["a", "b"],
        ['{"a": 1, "b": 2}', '```json\n{"a": 1, "b": 2}\n```'],
        ['{"a": 1}', "a, b", "[1]", '{"a": 1, "b": 2} that is it'],
    ),
    "no_comma": (3, ["Birds fly south"], ["Birds, fly south now", "Birds"]),
}


@pytest.mark.parametrize("constraint", CHECKS)
def test_checkers_tell_good_from_bad(constraint):
    value, good, bad = EXAMPLES[constraint]
    for answer in good:
        assert obeys(constraint, value, answer), answer
    for answer in bad:
        assert not obeys(constraint, value, answer), answer


def test_every_instruction_has_a_checker():
    items = read_items("instructions")
    assert len(items) >= 40
    assert len({item["prompt"] for item in items}) == len(items)
    assert {item["constraint"] for item in items} == set(CHECKS)


def test_the_drift_text_is_many_passages():
    passages = general_passages()
    assert len(passages) == 24
    assert all(40 <= len(passage.split()) <= 90 or "def " in passage for passage in passages)


def test_lm_eval_loads_the_tasks_offline_from_any_folder(tmp_path):
    code = (
        "from lm_eval.tasks import TaskManager\n"
        "from talr_cli.evaluation.general.mini import TASK_DIR\n"
        "import json\n"
        "manager = TaskManager(include_path=TASK_DIR, include_defaults=False)\n"
        "names = sorted(manager.all_tasks)\n"
        "tasks = manager.load(names)['tasks']\n"
        "print(json.dumps({n: len(t.test_docs()) for n, t in tasks.items()}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    sizes = json.loads(done.stdout.splitlines()[-1])
    assert set(sizes) == {f"mini_{path.stem}" for path in TASK_DIR.glob("*.jsonl")}
    assert all(size >= 40 for size in sizes.values())


@pytest.mark.slow
def test_the_real_base_model_can_lose_and_gain_on_every_task():
    config = composition.load("eval", [])
    source = sources.resolve_model(config.model)
    renderer = Renderer(load_tokenizer(source, config.model), {})
    model = prepare_to_score(loading.load_model(source, config.model, "auto", "cpu"))
    for name, task in evaluate_general(model, renderer, config.suite).results["tasks"].items():
        assert 0.35 <= task["score"] <= 0.80, name
