"""The harness in this process: its scores are its own, and it leaves everything as it was."""

import copy
import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
from command_line import talr
from conftest import config

from talr_cli.data.esci_mini import EsciMini
from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.evaluation.domain import evaluate_domain
from talr_cli.evaluation.drift import CachedStates, cross_entropy, kl_from_base, predictions
from talr_cli.evaluation.general import suite as suite_module
from talr_cli.evaluation.general.score_cache import ScoreCache
from talr_cli.evaluation.general.suite import (
    _score_settings,
    _task_score,
    _warn_of_scales,
    evaluate_general,
    mean_of_tasks,
)
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models import loading
from talr_cli.statistics.items import scored_items


@pytest.fixture(scope="module")
def model(tiny_source, tiny_config):
    return loading.load_model(tiny_source, tiny_config, torch.float32, "cpu")


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
    record = {
        "definition": "d",
        "version": 4.0,
        "n": 300,
        "batch_size": 32,
        "values": {
            "prompt_level_strict_acc,none": prompt_level.mean(),
            "prompt_level_strict_acc_stderr,none": prompt_level.std(ddof=1) / math.sqrt(300),
            "inst_level_strict_acc,none": np.mean(np.concatenate(followed)),
            "inst_level_strict_acc_stderr,none": "N/A",
        },
        "samples": samples,
    }
    score = _task_score(record, "prompt_level_strict_acc")
    assert score["items"] == {str(n): float(value) for n, value in enumerate(prompt_level)}
    assert score["stderr"] == pytest.approx(prompt_level.std(ddof=1) / math.sqrt(300))
    sums = np.array([sum(document) for document in followed])
    counts = np.array([len(document) for document in followed])
    drawn = generator.integers(0, 300, (4000, 300))
    resampled = (sums[drawn].sum(1) / counts[drawn].sum(1)).std()
    instruction_level = _task_score(record, "inst_level_strict_acc")
    assert instruction_level["stderr"] == pytest.approx(resampled, rel=0.06)
    assert instruction_level["items"] is None
    assert score["all"]["inst_level_strict_acc_stderr,none"] == instruction_level["stderr"]
    has = "the task has inst_level_strict_acc,none; prompt_level_strict_acc,none$"
    with pytest.raises(UserError, match=has):
        _task_score(record, "acc")


@pytest.mark.parametrize("value", [True, np.float64(1), np.bool_(True), 1])
def test_item_scores_of_any_type_become_numbers(value):
    assert scored_items([3], [value], ["q"], 1.0)["items"] == {"3": 1.0}


@pytest.mark.parametrize("values", [[[1, 0], [1]], [None, None], [1, 1], [("a", "b"), 0]])
def test_a_score_that_is_no_mean_of_items_has_no_items(values):
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


@pytest.mark.parametrize(
    ("score", "items", "is_named"),
    [(27.5, None, True), (0.9, {"a": 1.8, "b": 0.0}, True), (1.0, {"a": 1.0}, False)],
)
def test_a_task_that_outweighs_the_others_is_named(score, items, is_named, caplog):
    """BLEU counts up to 100: an accuracy beside it is a hundredth of their mean."""
    other = {"metric": "acc,none", "score": 0.5, "items": {"a": 0.0, "b": 1.0}}
    translated = {"metric": "bleu,none", "score": score, "items": items}
    _warn_of_scales({"translated": translated})
    assert not caplog.messages
    _warn_of_scales({"other": other, "translated": translated})
    assert [
        message.startswith(f"general: translated (bleu {score:.3g}) goes beyond 1")
        for message in caplog.messages
    ] == [True] * is_named


def test_unknown_tasks_and_metrics_are_named(model, renderer):
    unknown = config("eval", "suite.tasks=[mini_cooking]", "+suite.metrics.mini_cooking=acc").suite
    with pytest.raises(UserError, match="mini_cooking"):
        evaluate_general(model, renderer, unknown)
    wrong = config("eval", "suite.limit=1", "suite.metrics.mini_python=bleu").suite
    with pytest.raises(UserError, match="mini_python has acc,none"):
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


def test_a_group_of_tasks_is_refused(model, renderer, tmp_path):
    (tmp_path / "pair.yaml").write_text("group: pair\ntask: [mini_python, mini_arithmetic]\n")
    several = config(
        "eval", "suite.tasks=[pair]", "+suite.metrics.pair=acc", f"suite.task_dir={tmp_path}"
    ).suite
    with pytest.raises(UserError, match="pair stands for several tasks"):
        evaluate_general(model, renderer, several)


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


def test_prompts_that_the_harness_cuts_are_counted(model, renderer, caplog):
    def scored(*overrides):
        suite = config("eval", "suite.limit=4", *overrides).suite
        suite.tasks = ["mini_instructions", "mini_python"]
        return evaluate_general(model, renderer, suite)

    def lengths(samples, parts):
        texts = ["".join(sample["arguments"][0][:parts]) for sample in samples]
        return [len(renderer.tokenizer(text).input_ids) for text in texts]

    whole = scored()
    assert {task["prompts_cut"] for task in whole.results["tasks"].values()} == {0}
    assert "lost their beginning" not in caplog.text
    prompts = lengths(whole.samples["mini_instructions"], 1)
    longer = sum(length > min(prompts) for length in prompts)
    assert longer
    most = min(prompts) + 48  # mini_instructions' answers
    cut = scored(f"suite.max_length={most}").results["tasks"]
    assert cut["mini_instructions"]["prompts_cut"] == longer
    assert f"mini_instructions: {longer} prompts have lost their beginning" in caplog.text
    assert f"longer than the {most} tokens" in caplog.text
    with pytest.raises(UserError, match="mini_instructions asks for answers of up to 48 tokens"):
        scored("suite.max_length=48")
    choices = max(lengths(whole.samples["mini_python"], 2))
    own = config("eval", "suite.limit=4", "suite.tasks=[mini_python]").suite
    for most, some in ((choices - 1, False), (choices - 2, True)):
        own.max_length = most
        cut = evaluate_general(model, renderer, own).results["tasks"]["mini_python"]
        assert (cut["prompts_cut"] > 0) is some


# Scored once


class Broken:
    """A model in name only."""

    def __init__(self, model):
        self.config, self.dtype, self.device = model.config, model.dtype, model.device


def test_a_task_is_scored_once_for_a_checkpoint(model, renderer, tmp_path, caplog):
    suite = config("eval", "suite.limit=2").suite
    suite.tasks = ["mini_arithmetic", "mini_instructions"]
    cache = ScoreCache(tmp_path / "scores", "checkpoint a")
    first = evaluate_general(model, renderer, suite, cache=cache)
    kept = {file: file.stat().st_mtime_ns for file in cache.folder.iterdir()}
    assert len(kept) == 2
    plain = evaluate_general(model, renderer, suite)
    assert plain.results["tasks"] == first.results["tasks"]
    # A model that cannot answer: nothing is asked of it.
    again = evaluate_general(Broken(model), renderer, suite, cache=cache)
    assert again.results["tasks"] == first.results["tasks"]
    assert again.samples == first.samples
    assert again.prompts == first.prompts

    suite.tasks = [*suite.tasks, "mini_python"]
    caplog.clear()
    evaluate_general(model, renderer, suite, cache=cache)
    assert caplog.text.count("was scored before") == 2
    files = {file: file.stat().st_mtime_ns for file in cache.folder.iterdir()}
    assert len(files) == 3
    assert kept.items() <= files.items()


@pytest.mark.parametrize(
    "changed",
    ["suite.limit=3", "suite.max_length=512", "suite.chat_template=false", "another checkpoint"],
)
def test_a_changed_setting_scores_the_task_again(model, renderer, tmp_path, changed):
    def scored(name, *overrides):
        suite = config("eval", "suite.tasks=[mini_python]", "suite.limit=2", *overrides).suite
        evaluate_general(model, renderer, suite, cache=ScoreCache(tmp_path, name))
        return len(list(tmp_path.iterdir()))

    assert scored("a") == scored("a", "suite.batch_size=1") == 1
    assert (scored("b") if changed == "another checkpoint" else scored("a", changed)) == 2


def test_another_chat_template_scores_the_task_again(model, tokenizer, tmp_path):
    suite = config("eval", "suite.tasks=[mini_python]", "suite.limit=2").suite
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{{ lead or 'Read. ' }}" + tokenizer.chat_template
    asked = [(tokenizer, {}), (other, {}), (other, {"lead": "Think. "})]
    for number, one in enumerate(asked, start=1):
        cache = ScoreCache(tmp_path, "checkpoint")
        evaluate_general(model, Renderer(*one), suite, cache=cache)
        assert len(list(tmp_path.iterdir())) == number


def test_scores_are_of_one_dtype_device_and_version(model, renderer, suite, monkeypatch):
    half = copy.deepcopy(model).bfloat16()
    found = [
        _score_settings(one, renderer, suite)
        for one in (model, half, copy.deepcopy(half).to("meta"))
    ]
    monkeypatch.setattr(suite_module, "package_versions", lambda: {"torch": "0.1"})
    found.append(_score_settings(model, renderer, suite))
    assert all(one != other for one, other in itertools.combinations(found, 2))


def test_a_task_in_plain_text_is_scored_apart_and_its_prompts_are_no_chat(
    model, renderer, tmp_path
):
    tasks = "suite.tasks=[mini_python,mini_arithmetic]"
    scored = [
        evaluate_general(
            model,
            renderer,
            config("eval", tasks, "suite.limit=2", f"suite.plain_text=[{plain}]").suite,
            cache=ScoreCache(tmp_path, "checkpoint"),
        )
        for plain in ("", "mini_python")
    ]
    assert len(list(tmp_path.iterdir())) == 3
    for found, chat in zip(scored, ([True] * 4, [False] * 2 + [True] * 2), strict=True):
        assert [templated for _, templated in found.prompts] == chat
        assert ["<|im_start|>" in prompt for prompt, _ in found.prompts] == chat
        used = [task["chat_template"] for task in found.results["tasks"].values()]
        assert used == chat[::2]


def test_the_base_model_is_scored_once_in_a_study(tmp_path):
    tasks = ("suite.tasks=[mini_python,mini_arithmetic]", "limit=2", "domain.max_new_tokens=4")
    results = {}
    for dataset in ("medcalc-mini", "esci-mini"):
        done = talr("eval", "model=tiny", f"dataset={dataset}", *tasks, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("was scored before") == (0 if dataset == "medcalc-mini" else 2)
        (file,) = tmp_path.glob(f"runs/*/*{dataset}/*/results.json")
        results[dataset] = json.loads(file.read_text())
    one, other = results.values()
    assert one["general"]["tasks"] == other["general"]["tasks"]
    assert one["drift"] == other["drift"]
    assert one["general"]["limit"] == one["domain"]["limit"] == one["domain"]["n"] == 2


# Memory


@pytest.fixture
def small_memory(model):
    """The GPU's memory runs out with more than 3 rows at once."""

    def fail(_module, arguments, named):
        ids = named.get("input_ids", arguments[0] if arguments else None)
        if len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.model.register_forward_pre_hook(fail, with_kwargs=True)
    yield model
    hook.remove()


def test_batches_are_halved_until_they_fit(small_memory, renderer, caplog):
    suite = config("eval", "suite.limit=5", "suite.tasks=[mini_python,mini_instructions]").suite
    suite.batch_size = 8
    halved = evaluate_general(small_memory, renderer, suite).results["tasks"]
    assert {task["batch_size"] for task in halved.values()} == {2}
    assert "out of memory with 8 rows at once: going on with 4" in caplog.text
    suite.batch_size = 2
    small = evaluate_general(small_memory, renderer, suite).results["tasks"]
    assert halved == small


@pytest.mark.parametrize("answer_by", ["generation", "likelihood"])
def test_batches_of_the_domain_are_halved_until_they_fit(small_memory, renderer, answer_by):
    rows = EsciMini(target="label", test_rows=10).load()
    score = [
        evaluate_domain(small_memory, renderer, rows.test, rows.scorer, 4, size, answer_by)
        for size in (16, 2)
    ]
    assert [one.results["batch_size"] for one in score] == [2, 2]
    assert [row["output"] for row in score[0].samples] == [
        row["output"] for row in score[1].samples
    ]


@torch.inference_mode()
def test_batches_of_drift_are_halved_until_they_fit(small_memory):
    rows = [list(range(first, first + 9)) for first in range(10, 18)]
    found = torch.cat(list(predictions(small_memory, rows).log_probs()))
    alone = [torch.cat(list(predictions(small_memory, [row]).log_probs())) for row in rows]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        ("MPS backend out of memory (MPS allocated: 9.00 GB)", 1),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", 1),
        ("CUDA driver error: out of memory", 1),  # with expandable segments
        ("Triton Error [CUDA]: out of memory", 1),
        ("CUDA error: an illegal memory access was encountered", None),
    ],
)
def test_out_of_memory_is_recognised_by_its_message(said, answered):
    def work(rows):
        if rows > 1:
            raise RuntimeError(said)
        return rows

    if answered is None:
        with pytest.raises(RuntimeError, match="illegal"):
            BatchSize(4).retrying(work)
    else:
        assert BatchSize(4).retrying(work) == answered


def test_a_single_row_that_does_not_fit_is_an_error():
    def work(_rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        BatchSize(4).retrying(work)


def test_rows_at_once_are_a_number_or_auto():
    for wrong in ("many", "1.5", "0"):
        with pytest.raises(UserError, match=f"suite.batch_size={wrong}"):
            config("eval", f"suite.batch_size={wrong}")


# Drift


def test_drift_against_a_plain_computation(model, tokenizer, tiny_source, tiny_config, tmp_path):
    torch.manual_seed(0)
    other = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu")
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
    loads = []

    def ask(work):
        loads.append(1)
        return work(model)

    base = CachedStates(tmp_path / "scores" / "base.safetensors", tiny_source.directory, ask)
    measured = kl_from_base(other, base, prompts)
    assert measured["score"] == pytest.approx(total / 7, rel=1e-4)
    assert measured["tokens"] == 7
    # From the second time on the base is not loaded, and the number is the same.
    assert kl_from_base(other, base, prompts) == pytest.approx(measured, rel=1e-6)
    assert len(loads) == 1
    assert kl_from_base(model, base, prompts)["score"] == pytest.approx(0, abs=1e-9)
    assert kl_from_base(model, None, prompts) == kl_from_base(model, base, prompts)
    base.file.write_bytes(base.file.read_bytes()[:-9])
    assert kl_from_base(other, base, prompts) == pytest.approx(measured, rel=1e-6)
    assert len(loads) == 2
    text = "The river rises in the hills."
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    assert cross_entropy(model, tokenizer, [text])["score"] == pytest.approx(expected, rel=1e-5)
