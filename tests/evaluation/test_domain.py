"""Test rows answered by the likeliest choice, against a plain loop; and what the results hold."""

import copy
import json
import statistics
from dataclasses import replace

import pytest
import torch
from command_line import SMALL, talr
from conftest import config
from small_models import SIZE
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Lfm2Config

from talr_cli.data.base import Example
from talr_cli.data.choices import possible_completions
from talr_cli.data.esci_mini import EsciMini
from talr_cli.errors import UserError
from talr_cli.evaluation.choosing import choice_likelihoods
from talr_cli.evaluation.domain import evaluate_domain
from talr_cli.evaluation.generation import Answer
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models import loading
from talr_cli.run.prepare import prepare
from talr_cli.scorers.base import Verdict
from talr_cli.scorers.medcalc import MedCalcScorer
from talr_cli.scorers.text import Choice, ExactMatch

# One choice is the beginning of another, and they are of unlike length.
CHOICES = ["yes", "yes, but only on a Sunday afternoon", "no"]


def question(number, answer="no", completion=None, choices=CHOICES):
    return Example(
        id=f"q{number}",
        messages=({"role": "user", "content": "Is it so? " + "Well. " * (7 * number % 5)},),
        completion=f"I say: {answer}" if completion is None else completion,
        reference={"answer": answer, "choices": choices},
    )


@pytest.fixture(scope="module", params=["llama", "gpt2", "lfm2"])
def model(request, tiny_source, tiny_config, tokenizer):
    """Rotary positions are relative; GPT-2's are absolute, so padding must not move them.

    LFM2 keeps more of a text than keys and values, so that it has to read it anew.
    """
    if request.param == "llama":
        return loading.load_model(tiny_source, tiny_config, torch.float32, "cpu").eval()
    torch.manual_seed(0)
    if request.param == "lfm2":
        size = {**SIZE, "vocab_size": len(tokenizer)}
        kept = Lfm2Config(**size, layer_types=["conv", "full_attention"])
        return AutoModelForCausalLM.from_config(kept).eval()
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape)).eval()


def unpadded_log_probability(model, renderer, example, completion):
    """The log-probability of one completion and of the turn's end, alone and unpadded."""
    prompt = renderer.prompt_ids(example.messages)
    ids = renderer.tokenizer(completion, add_special_tokens=False).input_ids
    ids = [*ids, renderer.end_of_turn]
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + ids])).logits[0].double().log_softmax(-1)
    return sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_likelihoods_agree_with_a_loop_over_the_choices(model, renderer, batch_size):
    examples = [question(number) for number in range(6)]
    choices = possible_completions(examples)
    rows = list(zip(examples, choices, strict=True))
    found = choice_likelihoods(model, renderer, rows, BatchSize(batch_size))
    for example, completions, values in zip(examples, choices, found, strict=True):
        assert list(values) == CHOICES
        for choice, completion in completions.items():
            assert completion == f"I say: {choice}"
            expected = unpadded_log_probability(model, renderer, example, completion)
            assert values[choice] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("choices", [CHOICES, ["no"]], ids=["shared", "alone"])
def test_log_probabilities_of_a_model_in_half_precision_are_summed_in_full(
    choices, tiny_source, tiny_config, renderer
):
    """In bf16 a sum of a hundred nats would be known to half a nat."""
    half = loading.load_model(tiny_source, tiny_config, torch.bfloat16, "cpu").eval()
    example = question(0, choices=choices)
    rows = [(example, {choice: f"I say: {choice}" for choice in choices})]
    (found,) = choice_likelihoods(half, renderer, rows, BatchSize(8))
    expected = {
        choice: unpadded_log_probability(half, renderer, example, f"I say: {choice}")
        for choice in choices
    }
    assert found == pytest.approx(expected, abs=0.02)


def test_rows_may_have_choices_of_their_own(model, renderer):
    examples = [question(0, "b", choices=["a", "b"]), question(1, "d", choices=["c", "d", "e"])]
    rows = list(zip(examples, possible_completions(examples), strict=True))
    found = choice_likelihoods(model, renderer, rows, BatchSize(8))
    assert [list(values) for values in found] == [["a", "b"], ["c", "d", "e"]]


def test_the_likeliest_choice_is_the_output_and_the_scorer_judges_it(model, renderer):
    examples = [question(number, CHOICES[number % 3]) for number in range(6)]
    score = evaluate_domain(model, renderer, examples, Choice(), 99, 4, "likelihood")
    correct = []
    for example, sample in zip(examples, score.samples, strict=True):
        expected = max(
            CHOICES, key=lambda c: unpadded_log_probability(model, renderer, example, f"I say: {c}")
        )
        assert sample["output"] == f"I say: {expected}"
        assert sample["parsed"] == expected
        assert set(sample["log_probabilities"]) == set(CHOICES)
        correct.append(expected == example.reference["answer"])
    assert score.results["score"] == sum(correct) / 6
    assert score.results["items"] == {f"q{number}": float(c) for number, c in enumerate(correct)}
    again = evaluate_domain(model, renderer, examples[::-1], Choice(), 99, 4, "likelihood")
    assert again.results["items_hash"] == score.results["items_hash"]
    assert again.results["prompts_hash"] == score.results["prompts_hash"]
    polite = copy.deepcopy(renderer)
    polite.tokenizer.chat_template = f"Please. {renderer.tokenizer.chat_template}"
    worded = evaluate_domain(model, polite, examples, Choice(), 99, 4, "likelihood").results
    assert worded["items_hash"] == score.results["items_hash"]
    assert worded["prompts_hash"] != score.results["prompts_hash"]
    other = [question(number, CHOICES[(number + 1) % 3]) for number in range(6)]
    asked = evaluate_domain(model, renderer, other, Choice(), 99, 4, "likelihood").results
    assert asked["items_hash"] != score.results["items_hash"]
    assert score.results["answer_by"] == "likelihood"
    assert score.results["max_new_tokens"] is None


def test_the_likelihood_of_the_truth_is_the_loss_of_training(model, renderer):
    examples = EsciMini(target="label", train_rows=4).load().train
    rows = list(zip(examples, possible_completions(examples), strict=True))
    found = choice_likelihoods(model, renderer, rows, BatchSize(16))
    for example, values in zip(examples, found, strict=True):
        row = renderer.encode(example)
        with torch.no_grad():
            output = model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels]))
        expected = -float(output.loss) * len(row.targets)
        assert values[example.reference["answer"]] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([Example("a", ({"role": "user", "content": "?"},), "x", {"answer": "x"})], "a has none"),
        ([question(0, "no", "I say: no!")], "of q0 does not end with 'no'"),
        ([question(0), question(1, "no", "Hence: no")], "those of q0 and q1 differ before it"),
    ],
)
def test_rows_that_cannot_be_answered_by_choosing_are_refused(rows, expected):
    with pytest.raises(UserError, match=expected):
        possible_completions(rows)


def test_likelihood_without_choices_is_refused_before_the_training():
    with pytest.raises(UserError, match=r"domain\.answer_by=likelihood .* test-body-mass-index-0"):
        prepare(config("train", "model=tiny", "domain.answer_by=likelihood"))


# Results


def test_scores_are_of_answers_without_thoughts_and_also_by_group_and_category(
    renderer, monkeypatch
):
    texts = ["<think>no?</think>yes", "<think>yes", "no", "yes", "yes"]
    answers = [Answer(text, cut=False) for text in texts]
    monkeypatch.setattr("talr_cli.evaluation.domain.generate", lambda *_, **__: answers)
    named = [("g", "b"), ("h", "a"), ("g", "b"), ("g", "a"), ("h", "")]
    examples = [
        replace(question(number, "yes"), group=group, category=category)
        for number, (group, category) in enumerate(named)
    ]
    found = evaluate_domain(None, renderer, examples, ExactMatch(), 4, 4)
    assert [sample["output"] for sample in found.samples] == texts
    right = {"q0": 1, "q1": 0, "q2": 0, "q3": 1, "q4": 1}
    assert found.results["items"] == right
    assert [(sample["id"], sample["correct"]) for sample in found.samples] == list(right.items())
    assert (found.results["metric"], found.results["backend"]) == ("accuracy", "hf")

    def of(*keys):
        p, n = statistics.fmean(right[key] for key in keys), len(keys)
        stderr = pytest.approx((p * (1 - p) / (n - 1)) ** 0.5)
        return {"score": pytest.approx(p), "stderr": stderr, "n": n}

    assert {key: found.results[key] for key in ("score", "stderr", "n")} == of(*right)
    assert found.results["groups"] == {"g": of("q0", "q2", "q3"), "h": of("q1", "q4")}
    assert found.results["categories"] == {"a": of("q1", "q3"), "b": of("q0", "q2")}


class Counting:
    """A scorer that sums up in a way of its own."""

    def __call__(self, output, reference):
        return Verdict(output == reference["answer"], output[:1])

    def summary(self, verdicts, references):
        return {
            "pairs": [[v.parsed, r["answer"]] for v, r in zip(verdicts, references, strict=True)]
        }


def test_the_summary_of_a_scorer_is_optional(renderer, monkeypatch):
    examples = [question(number, answer) for number, answer in enumerate(CHOICES)]
    monkeypatch.setattr(
        "talr_cli.evaluation.domain.generate",
        lambda *_, **__: [Answer(text, cut=False) for text in ("a", "b", "no")],
    )
    summed = evaluate_domain(None, renderer, examples, Counting(), 4, 4).results
    assert summed["summary"] == {"pairs": [["a", CHOICES[0]], ["b", CHOICES[1]], ["n", "no"]]}
    assert summed["score"] == pytest.approx(1 / 3)
    examples = [question(number) for number in range(3)]
    assert "summary" not in evaluate_domain(None, renderer, examples, ExactMatch(), 4, 4).results


def test_the_benchmarks_own_reading_stands_beside_ours(renderer, monkeypatch):
    outputs = ['{"answer": "1"}', '{"answer": "1 of 3"}', "Answer: 1", '{"answer": "2"}']
    answers = [Answer(output, cut=False) for output in outputs]
    monkeypatch.setattr("talr_cli.evaluation.domain.generate", lambda *_, **__: answers)
    reference = {"form": "integer", "answer": "1", "lower": "1", "upper": "1", "calculator": "4"}
    asked = ({"role": "user", "content": "How much?"},)
    examples = [Example(f"m{number}", asked, "1", reference) for number in range(4)]
    scored = evaluate_domain(None, renderer, examples, MedCalcScorer("official"), 4, 4)
    assert scored.results["score"] == 0.75
    # The last number of the field counts there, and only a field does: right, 3, none, 2.
    official = scored.results["summary"]["official"]
    assert official == {"score": 0.25, "stderr": pytest.approx(0.25), "n": 4, "read": 3}
    assert [sample["official"] for sample in scored.samples] == [
        {"parsed": "1", "correct": True},
        {"parsed": "3", "correct": False},
        {"parsed": None, "correct": False},
        {"parsed": "2", "correct": False},
    ]


def test_a_whole_run_on_labels_by_likelihood(tmp_path):
    chosen = ("dataset=esci-mini", "dataset.target=label", "domain.answer_by=likelihood")
    done = talr("train", *SMALL, *chosen, "dataset.test_rows=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / done.stdout.rpartition("run directory: ")[2].strip()
    domain = json.loads((run / "results.json").read_text())["domain"]
    assert domain["answer_by"] == "likelihood"
    assert set(domain["groups"]) == {"Exact", "Substitute", "Complement", "Irrelevant"}
    recalls = [group["score"] for group in domain["groups"].values()]
    assert domain["summary"]["balanced_accuracy"]["score"] == pytest.approx(sum(recalls) / 4)
    assert sum(n for row in domain["summary"]["confusion"].values() for n in row.values()) == 8
    # Never without an answer, whatever the model.
    assert all(row["none"] == 0 for row in domain["summary"]["confusion"].values())
