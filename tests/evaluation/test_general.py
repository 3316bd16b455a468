"""The harness in this process: its scores are its own, and it leaves everything as it was."""

import json
import math
import random

import numpy as np
import pytest
import torch
from conftest import config

from talr_cli import models
from talr_cli.errors import UserError
from talr_cli.evaluation.drift import cross_entropy, kl_from_base
from talr_cli.evaluation.general import _task_score, evaluate_general, mean_of_tasks
from talr_cli.evaluation.items import scored_items


@pytest.fixture(scope="module")
def model(tiny_source, tiny_config):
    return models.load_model(tiny_source, tiny_config, torch.float32, "cpu")


@pytest.fixture(scope="module")
def suite():
    return config("eval", "suite.limit=6").suite


def test_the_generators_the_model_and_the_tokenizer_are_left_as_they_were(model, renderer, suite):
    model.train()
    renderer.tokenizer.padding_side = "right"
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    evaluate_general(model, renderer, suite)
    drawn = (random.random(), np.random.rand(), float(torch.rand(())))
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    assert drawn == (random.random(), np.random.rand(), float(torch.rand(())))
    assert model.training
    assert renderer.tokenizer.padding_side == "right"


def test_likelihood_scores_agree_with_a_second_computation(model, renderer, suite):
    """The choice with the highest log-probability after the prompt, computed one at a time."""
    model.eval()
    score = evaluate_general(model, renderer, suite)
    for task in ("mini_arithmetic", "mini_python"):
        correct = []
        for sample in score.samples[task]:
            doc = sample["doc"]
            prompt = renderer.prompt_ids([{"role": "user", "content": doc["question"]}])
            totals = []
            for choice in doc["choices"]:
                ids = renderer.tokenizer(choice, add_special_tokens=False).input_ids
                with torch.no_grad():
                    log_probs = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
                picked = log_probs[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])
                totals.append(float(picked.sum()))
            correct.append(int(np.argmax(totals)) == doc["answer"])
        assert score.results["tasks"][task]["score"] == pytest.approx(np.mean(correct))


def test_every_score_has_its_error_size_and_version(model, renderer, suite):
    results = evaluate_general(model, renderer, suite).results
    for task in results["tasks"].values():
        assert task["n"] == 6
        assert task["version"] == 1.0
        p = task["score"]
        assert task["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / 5))
    assert results["n"] == 24
    assert json.dumps(results)


def test_the_scores_of_the_documents_average_to_the_score(model, renderer, suite):
    score = evaluate_general(model, renderer, suite)
    for name, task in score.results["tasks"].items():
        items = task["items"]
        assert sorted(items) == [str(number) for number in range(6)]
        assert np.mean(list(items.values())) == pytest.approx(task["score"])
        for sample in score.samples[name]:
            assert items[str(sample["doc_id"])] == sample[task["metric"].partition(",")[0]]


def test_every_metric_of_ifeval_has_an_error():
    """lm-eval gives none for the instruction level; checked against resampled documents."""
    generator = np.random.default_rng(0)
    followed = [list(generator.random(k) < 0.6) for k in generator.integers(1, 4, 300)]
    followed = [[bool(one) for one in document] for document in followed]
    samples = [
        {"doc_id": number, "doc_hash": str(number), "filter": "none"}
        | {"prompt_level_strict_acc": all(document), "inst_level_strict_acc": document}
        for number, document in enumerate(followed)
    ]
    prompt_level = np.array([all(document) for document in followed])
    output = {
        "results": {
            "ifeval": {
                "alias": "ifeval",
                "prompt_level_strict_acc,none": prompt_level.mean(),
                "prompt_level_strict_acc_stderr,none": prompt_level.std(ddof=1) / math.sqrt(300),
                "inst_level_strict_acc,none": np.mean(np.concatenate(followed)),
                "inst_level_strict_acc_stderr,none": "N/A",
            }
        },
        "samples": {"ifeval": samples},
        "n-samples": {"ifeval": {"effective": 300}},
        "versions": {"ifeval": 4.0},
    }
    score = _task_score(output, "ifeval", "prompt_level_strict_acc")
    assert score["items"] == {str(n): float(value) for n, value in enumerate(prompt_level)}
    assert score["stderr"] == pytest.approx(prompt_level.std(ddof=1) / math.sqrt(300))
    sums = np.array([sum(document) for document in followed])
    counts = np.array([len(document) for document in followed])
    drawn = generator.integers(0, 300, (4000, 300))
    resampled = (sums[drawn].sum(1) / counts[drawn].sum(1)).std()
    instruction_level = _task_score(output, "ifeval", "inst_level_strict_acc")
    assert instruction_level["stderr"] == pytest.approx(resampled, rel=0.06)
    assert instruction_level["items"] is None
    assert score["all"]["inst_level_strict_acc_stderr,none"] == instruction_level["stderr"]


@pytest.mark.parametrize("value", [True, np.float64(1), np.bool_(True), 1])
def test_verdicts_of_any_type_are_numbers(value):
    assert scored_items([3], [value], ["q"], 1.0)["items"] == {"3": 1.0}


@pytest.mark.parametrize("values", [[[1, 0], [1]], [None, None], [1, 1], [("a", "b"), 0]])
def test_a_score_that_is_no_mean_of_items_has_none(values):
    assert scored_items([0, 1], values, ["q", "r"], 0.3)["items"] is None
    assert scored_items([0, 0], [1, 0], ["q", "r"], 0.5)["items"] is None


def test_the_hash_of_the_items_is_that_of_what_was_asked():
    def items_hash(ids, asked):
        return scored_items(ids, [0.0] * len(ids), asked, 0.0)["items_hash"]

    assert items_hash([0, 1], ["q", "r"]) == items_hash([1, 0], ["r", "q"])
    assert items_hash([0, 1], ["q", "r"]) != items_hash([0, 1], ["q", "s"])
    assert items_hash([0, 1], ["q", "r"]) != items_hash([0, 2], ["q", "r"])


def test_the_mean_takes_the_tasks_as_independent():
    tasks = [{"score": 0.2, "stderr": 0.03, "n": 10}, {"score": 0.6, "stderr": 0.04, "n": 20}]
    mean = mean_of_tasks(tasks)
    assert mean == {"score": pytest.approx(0.4), "stderr": pytest.approx(0.025), "n": 30}
    assert mean_of_tasks([*tasks, {"score": 1.0, "stderr": None, "n": 1}])["stderr"] is None


def test_unknown_tasks_and_metrics_are_named(model, renderer):
    unknown = config("eval", "suite.tasks=[mini_cooking]").suite
    with pytest.raises(UserError, match="mini_cooking"):
        evaluate_general(model, renderer, unknown)
    wrong = config("eval", "suite.limit=1", "suite.metrics.mini_python=bleu").suite
    with pytest.raises(UserError, match="the task has acc,none"):
        evaluate_general(model, renderer, wrong)


TWO_FILTERS = """
task: sums
custom_dataset: !function sums.dataset
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], max_gen_toks: 2}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: flexible, filter: [{function: custom, filter_fn: !function sums.even_ones}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
SUMS = """
from datasets import Dataset

def dataset(**kwargs):
    rows = [{"question": f"{n} + 1?", "answer": f"the answer {n + 1}"} for n in range(5)]
    return {"test": Dataset.from_list(rows)}

def even_ones(resps, docs):
    return [doc["answer"] if n % 2 == 0 else "" for n, doc in enumerate(docs)]
"""


def test_a_users_own_folder_of_tasks(model, renderer, tmp_path):
    (tmp_path / "items.jsonl").write_text(
        json.dumps({"q": "2 + 2?", "choices": ["4", "5"], "label": 0}) + "\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs:\n  data_files:\n    test: {tmp_path}/items.jsonl\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{label}}"\n'
        "metric_list:\n  - metric: acc\n"
    )
    (tmp_path / "sums.yaml").write_text(TWO_FILTERS)
    (tmp_path / "sums.py").write_text(SUMS)
    own = config(
        "eval", "suite.name=mine", "suite.tasks=[mine,sums]", f"suite.task_dir={tmp_path}",
        "+suite.metrics.mine=acc", "+suite.metrics.sums='exact_match,flexible'",
    ).suite  # fmt: skip
    tasks = evaluate_general(model, renderer, own).results["tasks"]
    assert tasks["mine"]["n"] == 1
    # As in GSM8K lm-eval logs each document once per filter; the counting one gives the items.
    assert tasks["sums"]["items"] == {"0": 1.0, "1": 0.0, "2": 1.0, "3": 0.0, "4": 1.0}
    assert tasks["sums"]["score"] == pytest.approx(0.6)
    assert tasks["sums"]["all"]["exact_match,strict"] == 0


# Drift


def test_drift_against_a_plain_computation(model, tokenizer, tiny_source, tiny_config):
    torch.manual_seed(0)
    other = models.load_model(tiny_source, tiny_config, torch.float32, "cpu")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    prompts = [[5, 6, 7, 8], [9, 10, 11]]
    total = 0.0
    for prompt in prompts:
        with torch.no_grad():
            p, q = (one(torch.tensor([prompt])).logits.double() for one in (model, other))
        p, q = p.softmax(-1), q.softmax(-1)
        total += float((p * (p / q).log()).sum())
    measured = kl_from_base(other, model, prompts)
    assert measured["score"] == pytest.approx(total / 7, rel=1e-4)
    assert measured["tokens"] == 7
    assert kl_from_base(model, model, prompts)["score"] == pytest.approx(0, abs=1e-9)
    text = "The river rises in the hills."
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    assert cross_entropy(model, tokenizer, [text])["score"] == pytest.approx(expected, rel=1e-5)
