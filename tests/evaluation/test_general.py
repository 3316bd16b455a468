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


def test_of_several_filters_the_counting_one_gives_the_items():
    """As lm-eval logs GSM8K: each document once per filter, the filters of unlike verdicts."""
    samples = [
        {"doc_id": number, "doc_hash": str(number), "filter": name, "exact_match": value}
        for name, values in (("strict-match", [0, 0, 0]), ("flexible-extract", [1, 0, 1]))
        for number, value in enumerate(values)
    ]
    output = {
        "results": {
            "gsm8k": {
                "exact_match,strict-match": 0.0,
                "exact_match_stderr,strict-match": 0.0,
                "exact_match,flexible-extract": 2 / 3,
                "exact_match_stderr,flexible-extract": 0.1,
            }
        },
        "samples": {"gsm8k": samples},
        "n-samples": {"gsm8k": {"effective": 3}},
        "versions": {"gsm8k": 3.0},
    }
    flexible = _task_score(output, "gsm8k", "exact_match,flexible-extract")
    assert flexible["items"] == {"0": 1.0, "1": 0.0, "2": 1.0}
    assert _task_score(output, "gsm8k", "exact_match,strict-match")["items"] == dict.fromkeys(
        "012", 0.0
    )


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
    own = config(
        "eval", "suite.name=mine", "suite.tasks=[mine]", "+suite.metrics.mine=acc",
        f"suite.task_dir={tmp_path}",
    ).suite  # fmt: skip
    results = evaluate_general(model, renderer, own).results
    assert results["tasks"]["mine"]["n"] == 1


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
