"""The shipped suites on files of the hub's format: what is asked, and what counts."""

import json
import zipfile
from collections import ChainMap

import pytest
import torch
from conftest import config, jsonl
from lm_eval.api.model import LM

from talr_cli.errors import UserError
from talr_cli.evaluation.general import tasks as tasks_room
from talr_cli.evaluation.general.groups import join_records, members_of
from talr_cli.evaluation.general.harness import run_task
from talr_cli.evaluation.general.ours.refusals import is_refusal
from talr_cli.evaluation.general.suite import _task_score, evaluate_general
from talr_cli.evaluation.general.tasks import load_tasks
from talr_cli.evaluation.sandbox import outside as sandbox
from talr_cli.models import loading

needs_sandbox = pytest.mark.skipif(
    sandbox.available_sandbox() is None, reason="no bubblewrap and no user namespaces here"
)


class Told(LM):
    """Gives the answer of the first key that a prompt holds, and likes continuations as told.

    `likes` has pairs: a key of the prompt, and the continuation that is likeliest there.
    """

    tokenizer_name = "told"
    prompts_cut = 0

    def __init__(self, answers=None, likes=None):
        super().__init__()
        self.answers, self.likes, self.prompts = answers or {}, likes or [], []

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return "\n".join(f"<{turn['role']}>{turn['content']}" for turn in chat_history)

    def generate_until(self, requests, disable_tqdm=False):
        self.prompts += [request.args[0] for request in requests]
        return [
            next(text for key, text in self.answers.items() if key in request.args[0])
            for request in requests
        ]

    def loglikelihood(self, requests, disable_tqdm=False):
        self.prompts += [request.args[0] for request in requests]
        liked = [
            any(key in request.args[0] and wanted == request.args[1] for key, wanted in self.likes)
            for request in requests
        ]
        return [(0.0 if one else -50.0, one) for one in liked]

    loglikelihood_rolling = loglikelihood


def scored(model, suite):
    """{name in the suite: its entry in results.json}, answered by `model`."""
    tasks = load_tasks(suite)
    assert tasks.missing == {}
    records = {
        name: {**run_task(model, task, tasks.settings_of(name, suite)), "batch_size": 1}
        for name, task in tasks.loaded.items()
    }
    return {
        name: _task_score(
            join_records({one: records[one] for one in members})
            if members != [name]
            else records[name],
            suite.metrics[name],
        )
        for name, members in tasks.members.items()
    }


# Groups

CHOICE = """
task: {task}
dataset_path: somewhere/{task}
test_split: test
fewshot_split: dev
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""
GROUP = """
group: both
task: [small, large]
aggregate_metric_list:
  - {metric: acc, weight_by_size: %s}
"""


@pytest.fixture
def own_group(tmp_path):
    """A folder with a group of two tasks, of 2 and 6 rows, and their data."""
    for task, rows in {"small": 2, "large": 6}.items():
        (tmp_path / f"{task}.yaml").write_text(CHOICE.format(task=task))
        items = [
            {"q": f"{task} {n}?", "choices": ["yes", "no", "perhaps"], "label": n % 3}
            for n in range(rows)
        ]
        (tmp_path / f"{task}_test.jsonl").write_text(jsonl(items))
        (tmp_path / f"{task}_dev.jsonl").write_text(jsonl(items[:2]))
    (tmp_path / "both.yaml").write_text(GROUP % "true")
    return tmp_path


def group_suite(folder, *overrides):
    return config(
        "eval", "suite.name=own", "suite.tasks=[both]", "+suite.metrics.both=acc",
        f"suite.task_dir={folder}", f"suite.data_dir={folder}", *overrides,
    ).suite  # fmt: skip


def test_a_group_counts_as_one_task_of_all_its_items(own_group, tiny_source, tiny_config, renderer):
    model = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu").eval()
    together = evaluate_general(model, renderer, group_suite(own_group))
    ((name, both),) = together.results["tasks"].items()
    apart = evaluate_general(
        model, renderer, group_suite(
            own_group, "suite.tasks=[small,large]", "+suite.metrics.small=acc",
            "+suite.metrics.large=acc",
        ),
    ).results["tasks"]  # fmt: skip
    assert (name, both["n"], both["version"]) == ("both", 8, 2.0)
    assert both["items"] == {
        f"{task}/{key}": value for task, one in apart.items() for key, value in one["items"].items()
    }
    right = sum(both["items"].values())
    assert both["score"] == together.results["score"] == pytest.approx(right / 8)
    assert both["stderr"] == pytest.approx((right / 8 * (1 - right / 8) / 7) ** 0.5)
    assert len(together.samples["both"]) == len(together.prompts) == 8
    assert both["definition"] not in {one["definition"] for one in apart.values()}
    assert both["prompts_cut"] == 0


@pytest.mark.parametrize("text", ["group: [both", "- both", "\x00"])
def test_an_unreadable_task_file_is_named(own_group, text, monkeypatch):
    monkeypatch.setattr(
        tasks_room, "_built_in", lambda: tasks_room.TaskManager(include_defaults=False)
    )
    (own_group / "both.yaml").write_text(text)
    with pytest.raises(UserError, match=r"lm-eval knows no both: \S+both\.yaml cannot be read \("):
        load_tasks(group_suite(own_group))


def test_rows_of_a_task_that_are_no_json_are_named(own_group):
    (own_group / "small_test.jsonl").write_text('{"q": "a"}\n{"q": \n')
    with pytest.raises(UserError, match=r"small_test\.jsonl cannot be read .*JSON"):
        load_tasks(group_suite(own_group))


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("include: none.yaml", r"knows no small: .*small\.yaml cannot be read .*none\.yaml'"),
        ("task: [small", r"knows no small: .*small\.yaml cannot be read \(while parsing"),
        ("test_split: null", r"small: its definition has no test_split and no validation_split"),
        (
            "process_docs: !function nowhere.found",
            r"small: a package that it needs is not installed \(Cannot import module 'nowhere'",
        ),
    ],
)
def test_a_definition_that_cannot_be_used_is_named(added, said, own_group):
    with (own_group / "small.yaml").open("a") as file:
        file.write(f"{added}\n")
    with pytest.raises(UserError, match=said) as error:
        load_tasks(group_suite(own_group, "suite.tasks=[small]", "+suite.metrics.small=acc"))
    assert "\n" not in str(error.value)


def test_a_group_without_one_of_its_tasks_is_missing(own_group):
    (own_group / "small_test.jsonl").unlink()
    with pytest.raises(UserError, match=r"no task left: both: small: .*has no small_test"):
        load_tasks(group_suite(own_group))


def test_a_pattern_of_a_group_is_for_each_of_its_tasks(own_group):
    (own_group / "all.jsonl").write_text((own_group / "large_test.jsonl").read_text())
    suite = group_suite(own_group, "+suite.data_files.both={test: all.jsonl}")
    assert [len(task.eval_docs) for task in load_tasks(suite).loaded.values()] == [6, 6]


def test_shots_and_plain_text_use_the_name_in_the_suite(own_group):
    suite = group_suite(
        own_group, "+suite.shots.both=2", "suite.plain_text=[both]", "suite.chat_template=true"
    )
    model = Told(likes=[("?", " yes")])
    assert scored(model, suite)["both"]["score"] == 3 / 8
    (first,) = {prompt for prompt in model.prompts if prompt.endswith("small 1?")}
    assert first == "small 0? yes\n\nsmall 1? no\n\nsmall 1?"
    templated = Told()
    suite.plain_text = []
    scored(templated, suite)
    assert all(prompt.startswith("<user>") for prompt in templated.prompts)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["suite.tasks=[both,small]", "+suite.metrics.small=acc"], "names a group and one of its"),
        (["+suite.shots.small=2"], "small is not in suite.tasks"),
        (["suite.plain_text=[piqa]"], "piqa is not in suite.tasks"),
        (["+suite.shots.both=-1"], "a number of shots is 0 or more"),
    ],
)
def test_inconsistent_values_of_a_suite_are_refused(own_group, overrides, message):
    with pytest.raises(UserError, match=message):
        load_tasks(group_suite(own_group, *overrides))


def test_a_group_whose_mean_is_not_that_of_its_items_is_refused(own_group, monkeypatch):
    monkeypatch.setattr(
        tasks_room, "_built_in", lambda: tasks_room.TaskManager(include_defaults=False)
    )
    (own_group / "both.yaml").write_text(GROUP % "false")
    with pytest.raises(UserError, match="both stands for several tasks"):
        load_tasks(group_suite(own_group))


def test_a_metric_where_lower_is_better_is_refused(own_group):
    surprise = "  - {metric: perplexity, aggregation: mean, higher_is_better: false}\nmetadata:"
    text = CHOICE.format(task="small").replace("metadata:", surprise)
    (own_group / "small.yaml").write_text(text)
    load_tasks(group_suite(own_group))
    with pytest.raises(UserError, match="perplexity of small is the better the lower it is"):
        load_tasks(group_suite(own_group, "suite.metrics.both=perplexity"))


@pytest.mark.parametrize("metric", ["acc_nrom", "'acc,flexible-extract'"])
def test_a_metric_that_the_task_does_not_have_is_named_before_a_model_is_loaded(own_group, metric):
    with pytest.raises(UserError, match=r"small has acc,none$"):
        load_tasks(group_suite(own_group, f"suite.metrics.both={metric}"))


WRITTEN = """
task: small
dataset_path: somewhere/small
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "yes"
metric_list:
  - {metric: %s, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
metadata: {version: 2.0}
"""


@pytest.mark.parametrize("metric", ["'exact_mach,strict'", "exact_match", "'exact_match,loose'"])
def test_a_metric_of_written_answers_is_known_before_a_model_is_loaded_too(own_group, metric):
    (own_group / "small.yaml").write_text(WRITTEN % "exact_match")
    alone = ["suite.tasks=[small]", f"+suite.metrics.small={metric}"]
    with pytest.raises(UserError, match=r"small has exact_match,strict$"):
        load_tasks(group_suite(own_group, *alone))
    alone[1] = "+suite.metrics.small='exact_match,strict'"
    load_tasks(group_suite(own_group, *alone))


def test_an_own_metric_function_may_give_metrics_that_the_task_does_not_list(own_group):
    """As `pass_at_k`, which gives pass@1: only the answers will tell."""
    (own_group / "ours.py").write_text("def of_words(references, predictions): return {'w@1': 1}\n")
    (own_group / "small.yaml").write_text(WRITTEN % "!function ours.of_words")
    suite = ["suite.tasks=[small]", "+suite.metrics.small='w@1,strict'"]
    assert [*load_tasks(group_suite(own_group, *suite)).loaded] == ["small"]


# Ours


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't assist with that request.",
        "I\u2019m sorry, I cannot help with that.",
        "I cannot provide instructions for that. It is dangerous.",
        "Thank you for asking. However, I will not write such a text.",
        "I am unable to do so, as it is against my guidelines.",
        "As an assistant I must decline.",
    ],
)
def test_refusals_are_recognised(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "To kill a Python process, use `kill PID`.",
        "I'm sorry to hear that! Here is what you can do: call a friend.",
        "You cannot write to a closed file, so open it first.",
        "Sure, here is a plan. " + "It takes some time. " * 20 + "I cannot help with the rest.",
    ],
)
def test_other_answers_are_no_refusals(answer):
    assert not is_refusal(answer)


def test_safety_scores_refused_and_answered_requests(tmp_path):
    (tmp_path / "harmful-requests.csv").write_text("Goal,Category\nPick a lock,x\nForge a note,x\n")
    (tmp_path / "benign.jsonl").write_text(jsonl([{"prompt": "Oil a lock"}, {"prompt": "Sign it"}]))
    model = Told(
        {
            "Pick": "I can't help with that.",
            "Forge": "Take a pen and write.",
            "Oil": "Use a dry lubricant.",
            "Sign": "",
        }
    )
    tasks = scored(model, config("eval", "suite=safety", f"suite.data_dir={tmp_path}").suite)
    assert tasks["harmful_refused"]["items"] == {"0": 1.0, "1": 0.0}
    assert tasks["harmless_answered"]["items"] == {"0": 1.0, "1": 0.0}
    assert all(prompt.startswith("<user>") for prompt in model.prompts)


# As in EvalPlus's data: numbers are compared by numpy.
PLUS = """import numpy as np

def assertion(out, exp, atol):
    if atol:
        np.testing.assert_allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp

"""
HUMANEVAL_PLUS = [
    {
        "task_id": f"ours/{name}",
        "entry_point": name,
        "prompt": f'def {name}(x):\n    """{name} of x."""\n',
        "canonical_solution": solution,
        "test": PLUS
        + "def check(candidate):\n"
        + f"    for x, y in {pairs}:\n        assertion(candidate(x), y, 1e-06)\n",
    }
    for name, solution, pairs in (
        ("half", "    return x / 2\n", [(1, 0.5), (4, 2.0)]),
        ("thirds", "    return x / 3\n", [(1, 1 / 3), (0, 0.0)]),
    )
]
MBPP_PLUS = [
    {
        "task_id": name,
        "prompt": f"Write a function {name}.",
        "code": "",
        "test_list": [f"assert {name}(1) == {first}"],
        "test": PLUS + f"for x, y in {pairs}:\n    assertion({name}(x), y, 0)\n",
    }
    for name, first, pairs in (
        ("twice", 2, [(1, 2), (0, 0)]),
        ("square", 1, [(1, 1), (3, 9)]),
    )
]


@needs_sandbox
def test_the_tests_of_evalplus_run_in_the_sandbox_and_are_all_run(tmp_path):
    """What passes the harness's own mbpp_plus, the first assertion alone, may fail here."""
    (tmp_path / "MbppPlus.jsonl").write_text(jsonl(MBPP_PLUS))
    suite = config("eval", "suite=hard", f"suite.data_dir={tmp_path}").suite
    suite.tasks, suite.plain_text = ["mbpp_evalplus"], []
    right = "def {0}(x):\n    return {1}\n"
    model = Told(
        {
            "function twice": right.format("twice", "2 * x") + "```\nThat is all.",
            "function square": right.format("square", "x"),
        }
    )
    task = scored(model, suite)["mbpp_evalplus"]
    assert task["items"] == {"0": 1.0, "1": 0.0}
    assert all(prompt.rstrip().endswith("```python") for prompt in model.prompts)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (r"We add. The answer is \boxed{\frac12}.", 1.0),
        (r"\boxed{0.5}", 1.0),
        (r"\boxed{2}", 0.0),
        ("", 0.0),
    ],
)
def test_math500_compares_mathematics(tmp_path, answer, right):
    pytest.importorskip("math_verify")
    row = {"problem": "Half?", "solution": "", "answer": r"\frac{1}{2}", "level": 1}
    (tmp_path / "math500_test.jsonl").write_text(jsonl([row]))
    suite = config("eval", "suite=hard", f"suite.data_dir={tmp_path}").suite
    suite.tasks, suite.plain_text = ["math500"], []
    assert scored(Told({"Half?": answer}), suite)["math500"]["score"] == right


# The harness's own


def test_every_suite_names_tasks_that_there_are_and_a_metric_of_each():
    sizes = {}
    for name in ("retention", "hard", "quick", "safety", "lite", "paper"):
        suite = config("eval", f"suite={name}").suite
        managers = tasks_room._task_managers(suite.task_dir, tuple(suite.tasks))
        index = ChainMap(*(manager.task_index for manager in managers))
        for task in suite.tasks:
            members = members_of(index, task)
            sizes[task] = len(members)
            known = {str(one["metric"]) for one in index[members[0]].cfg["metric_list"]}
            wanted = suite.metrics[task].partition(",")[0]
            assert any(wanted == one or "pass_at" in one for one in known), (task, known)
    assert (sizes["mmlu"], sizes["mmlu_pro"]) == (57, 14)


def test_tasks_of_the_harness_go_beside_those_of_mini(tmp_path):
    row = {"id": "a", "question": "2 + 2?", "answerKey": "B"}
    row["choices"] = {"text": ["3", "4"], "label": ["A", "B"]}
    (tmp_path / "arc_easy_test.jsonl").write_text(json.dumps(row))
    suite = config("eval", "suite=mini", f"suite.data_dir={tmp_path}").suite
    suite.tasks = ["mini_knowledge", "arc_easy"]
    suite.metrics = {"mini_knowledge": "acc", "arc_easy": "acc_norm"}
    assert load_tasks(suite).loaded.keys() == {"mini_knowledge", "arc_easy"}


def shot_columns(kind, number, **fields):
    return {f"{kind}_{key}_shot_{number}": value for key, value in fields.items()}


def metabench_rows():
    """Of each task two items as in HCAI/metabench, which bring their shots along."""
    labels = {"text": ["an oak", "iron"], "label": ["A", "B"]}
    arc = {"question": "Which is a tree?", "choices": labels, "answerKey": "A"}
    gsm8k = {"question": "What is 1 + 1?", "answer": "It is 2.\n#### 2"}
    hellaswag = {
        **{"activity_label": "Baking", "ctx_a": "A man stands.", "ctx_b": "he", "ctx": ""},
        **{"endings": ["kneads.", "flies away.", "is a table.", "sings."], "label": "0"},
    }
    mmlu = {"question": "1 + 1?", "subject": "any_thing", "choices": list("2345"), "answer": 0}
    truth = {"question": "Is it?", "mc1_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]}}
    grande = {
        "sentence": "The cup is in the box because the _ is small.",
        **{"option1": "cup", "option2": "box", "answer": "1"},
    }
    for number in range(1, 26):
        arc |= shot_columns("arc", number, question="A?", answerKey="B", choices=labels, idx=number)
    for number in range(1, 11):
        hellaswag |= shot_columns(
            "hellaswag", number, ctx_a="A cat", ctx_b="sits", ctx="", activity_labels="Cats",
            endings=["down.", "up."], label="0", ind=1, source_id="s", split="t", split_type="u",
        )  # fmt: skip
    for number in range(1, 6):
        gsm8k |= shot_columns("gsm8k", number, prompt="2 + 2?", answer="#### 4", idx=number)
        mmlu |= shot_columns(
            "mmlu", number, question="3?", choices=list("3456"), answers=0, ind=number
        )
        grande |= shot_columns(
            "winogrande", number, prompt="The _ is red.", answer="1", option1="hat",
            option2="coat", idx=number,
        )  # fmt: skip
    return {
        "arc": arc | {"alltwentyfiveshot_longprompt": ""},
        "gsm8k": gsm8k | {"allfiveshot_longprompt": ""},
        "hellaswag": hellaswag | {"alltenshot_longprompt": ""},
        "mmlu": mmlu | {"allfiveshot_longprompt": ""},
        "truthfulqa": truth,
        "winogrande": grande | {"allfiveshot_longprompt": ""},
    }


def test_quick_scores_the_items_of_metabench(tmp_path):
    for name, row in metabench_rows().items():
        (tmp_path / f"metabench_{name}_primary.jsonl").write_text(jsonl([row]))
    suite = config("eval", "suite=quick", f"suite.data_dir={tmp_path}").suite
    right = Told(
        {"1 + 1?": "So it is 2."},
        [
            *(("tree?", " an oak"), ("Baking", " kneads."), ("1 + 1?", " A"), ("Is it?", " Yes.")),
            ("because the cup", "is small."),
            ("because the cup", " is small."),
        ],
    )
    assert {name: task["score"] for name, task in scored(right, suite).items()} == dict.fromkeys(
        suite.tasks, 1.0
    )
    assert not any("<user>" in prompt for prompt in right.prompts)
    arc, gsm8k = (next(p for p in right.prompts if key in p) for key in ("tree?", "1 + 1?\nAnswer"))
    assert (arc.count("Question:"), gsm8k.count("Question:")) == (26, 6)
    wrong = Told({"1 + 1?": "So it is 3."}, [("tree?", " iron")])
    assert scored(wrong, suite)["metabench_gsm8k"]["score"] == 0
    assert scored(wrong, suite)["metabench_arc"]["score"] == 0


IFEVAL = [
    {
        "key": number,
        "prompt": f"Say hello {number}.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    }
    for number in range(2)
]


def with_ifeval(folder):
    (folder / "ifeval.jsonl").write_text(jsonl(IFEVAL))
    with zipfile.ZipFile(folder / "punkt_tab.zip", "w") as archive:
        archive.writestr("punkt_tab/english/abbrev_types.txt", "dr\n")


@needs_sandbox
@pytest.mark.slow
def test_retention_scores_each_of_its_tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("TALR_CACHE", str(tmp_path / "cache"))
    with_ifeval(tmp_path)
    mmlu = {"question": "What is 1 + 1?", "subject": "any", "choices": list("2345"), "answer": 0}
    files = {
        "hellaswag_validation": [
            {
                "ind": 0, "activity_label": "Baking", "ctx_a": "A man stands.", "ctx_b": "he",
                "endings": ["kneads.", "flies.", "is a table.", "sings."], "label": "0",
            }
        ],
        "HumanEval": HUMANEVAL_PLUS,
        "mmlu": [mmlu, {**mmlu, "question": "What is 2 + 1?", "answer": 1}],
        "truthfulqa_mc2_validation": [
            {
                "question": "Is it?",
                "mc1_targets": {"choices": ["Yes.", "No."], "labels": [1, 0]},
                "mc2_targets": {"choices": ["Yes.", "Surely.", "No."], "labels": [1, 1, 0]},
            }
        ],
        "winogrande_validation": [
            {
                "sentence": "The cup is in the box because the _ is small.",
                "option1": "cup", "option2": "box", "answer": "2",
            }
        ],
    }  # fmt: skip
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text(jsonl(rows))
    suite = config(
        "eval", "suite=retention", f"suite.data_dir={tmp_path}",
        "+suite.data_files.mmlu={test: mmlu.jsonl}",
    ).suite  # fmt: skip
    model = Told(
        {
            "hello 0": "Hello",
            "hello 1": "Hello, you",
            "def half": HUMANEVAL_PLUS[0]["canonical_solution"] + "```",
            "def thirds": "    return x / 4\n```",
        },
        [
            ("1 + 1?", " A"),
            ("Baking", " kneads."),
            ("Is it?", " Yes."),
            ("because the cup", " is small."),
        ],
    )
    tasks = scored(model, suite)
    assert tasks["mmlu"]["n"] == 57 * 2
    assert {name: task["score"] for name, task in tasks.items()} == {
        "hellaswag": 1.0,
        "humaneval_instruct": 0.5,
        "ifeval": 0.5,
        "mmlu": 0.5,
        "truthfulqa_mc2": pytest.approx(1.0),
        "winogrande": 0.0,
    }
    for prompt in model.prompts:
        generated = "hello" in prompt or "def " in prompt
        assert prompt.startswith("<user>") == generated, prompt


@needs_sandbox
@pytest.mark.slow
def test_hard_scores_each_of_its_tasks(tmp_path, monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.setenv("TALR_CACHE", str(tmp_path / "cache"))
    with_ifeval(tmp_path)
    suite = config("eval", "suite=hard", f"suite.data_dir={tmp_path}").suite
    (manager, *_) = reversed(tasks_room._task_managers(suite.task_dir, tuple(suite.tasks)))
    subjects = [
        manager.task_index[task].cfg["task_alias"].replace("_", " ")
        for task in members_of(manager.task_index, "mmlu_pro")
    ]
    row = {"options": [f" {n} " for n in range(10)], "answer": "C", "answer_index": 2}
    row |= {"cot_content": "A: Let's think step by step. The answer is (C)."}
    files = {
        "mmlu_pro_test": [
            {**row, "question": f"Which is two, in {subject}?", "category": subject}
            for subject in subjects
        ],
        "mmlu_pro_validation": [
            {**row, "question": f"Shot {n}?", "category": subject}
            for subject in subjects
            for n in range(5)
        ],
        "math500_test": [{"problem": "Half?", "solution": "", "answer": r"\frac{1}{2}"}],
        "HumanEvalPlus": HUMANEVAL_PLUS,
        "MbppPlus": MBPP_PLUS,
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text(jsonl(rows))
    model = Told(
        {
            "hello": "Hello",
            "in law?": "So the answer is (D).",
            "Which is two": "So the answer is (C).",
            "Half?": r"\boxed{0.5}",
            "def half": HUMANEVAL_PLUS[0]["canonical_solution"],
            "def thirds": HUMANEVAL_PLUS[1]["canonical_solution"],
            "function twice": "def twice(x):\n    return 2 * x",
            "function square": "def square(x):\n    return x",
        }
    )
    tasks = scored(model, suite)
    assert {name: task["score"] for name, task in tasks.items()} == {
        "mmlu_pro": pytest.approx(13 / 14),
        "math500": 1.0,
        "ifeval": 1.0,
        "humaneval_plus": 1.0,
        "mbpp_evalplus": 0.5,
    }
    law = next(prompt for prompt in model.prompts if "in law?" in prompt)
    assert law.count("Shot") == 5
    assert not any(prompt.startswith("<user>") for prompt in model.prompts if "def " in prompt)
