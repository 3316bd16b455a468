"""ESCI's labels as models write them, and the metrics of many verdicts against scikit-learn's."""

import json
import math
import random
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from talr_cli.data.esci import Esci
from talr_cli.evaluation.domain import proportion
from talr_cli.scorers.base import Summarizer
from talr_cli.scorers.esci import LABELS, EsciScorer
from talr_cli.scorers.math import Gsm8kScorer

score = EsciScorer()


def parsed(output):
    return score(output, {"answer": "Exact"}).parsed


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(
    "way",
    [
        "{}", "Answer: {}", "answer: {}.", "**Answer:** {}", "Answer: **{}**", "The label is {}!",
        "Answer:\n{}", '{{"answer": "{}"}}', "\\boxed{{{}}}", "It is Exact? No: it is _{}_.",
        "Complement or Substitute.\nAnswer: {}\nIrrelevant and Exact do not fit.",
        "Answer: Exact\nNo.\nAnswer: {}", "Answer: {}\nAnswer: as said",
    ],
)  # fmt: skip
def test_a_label_is_read_in_every_form(label, way):
    for written in (label, label.lower(), label.upper()):
        verdict = score(way.format(written), {"answer": label})
        assert verdict.parsed == label, way.format(written)
        assert verdict.correct


def test_the_label_named_last_counts_within_the_answer_and_without_one():
    assert parsed("Exact, or rather Substitute") == "Substitute"
    assert parsed("Answer: not Exact but Complement\nIrrelevant remarks") == "Complement"


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("Answer: Substitute. It is not an exact match.", "Substitute"),
        ("Answer: Substitute\nIt is not Exact, and the answer is final.", "Substitute"),
        ('{"label": "Exact", "reason": "not a substitute"}', "Exact"),
        ('{"reason": "not a substitute", "label": "Exact"}', "Exact"),
        ('{"answer": "Exact", "reason": "no substitute"}', "Exact"),
        ('```json\n{"esci_label": "Irrelevant", "why": "no complement"}\n```', "Irrelevant"),
        ("Answer: It is not an exact match but a substitute.", "Substitute"),
        ("The answer is not Exact.", None),
        ("Answer: Exact or Substitute", None),
        ("Answer: Exact/Substitute", None),
        ("It is an Exact or a Substitute.", None),
        ("I thought of Exact or Substitute. It is a Complement.", "Complement"),
        ("Exact\nSubstitute\nComplement\nIrrelevant", None),
        ('{"final_answer": "Exact", "why": "no Substitute"}', "Exact"),
        ("The answer is Complement, rather than Substitute.", "Complement"),
        ("Answer: Exact. Wait, no. Answer: Irrelevant, not exact.", "Irrelevant"),
        ("Label: Exact\n\nIt fits, so it is not merely a substitute.", "Exact"),
        ("Irrelevant. It is neither an exact match, a substitute nor a complement.", "Irrelevant"),
        ("Exact, Substitute, Complement, or Irrelevant? I'd say Exact.", "Exact"),
        ('{"relevance": "Complement", "why": "no substitute"}', "Complement"),
    ],
)
def test_the_label_of_the_answer_counts_and_not_one_in_its_reason(output, label):
    assert parsed(output) == label


@pytest.mark.parametrize(
    "output",
    [
        "",
        " ",
        "Exactly",
        "inexact",
        "substitutes",
        "complementary",
        "E",
        "I",
        "Answer: S",
        "exact1",
        "Answer: Exact | Substitute | Complement | Irrelevant",
    ],
)
def test_what_resembles_a_label_or_names_all_is_no_answer(output):
    verdict = score(output, {"answer": "Exact"})
    assert verdict.parsed is None
    assert not verdict.correct


@given(st.text(max_size=200))
def test_any_output_is_scored_without_an_error(output):
    assert score(output, {"answer": "Exact"}).parsed in (*LABELS, None)


def summary(truth, answers):
    references = [{"answer": label} for label in truth]
    verdicts = [score(a or "?", r) for a, r in zip(answers, references, strict=True)]
    return score.summary(verdicts, references)


def draw_labels_and_answers(seed, n, weights):
    """Truth by `weights`; answers that are right more often than not, some of them none."""
    draw = random.Random(seed)
    truth = draw.choices(LABELS, weights, k=n)
    answers = [
        label if draw.random() < 0.5 else draw.choice([*LABELS, LABELS[0], None]) for label in truth
    ]
    return truth, answers


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (52, 36, 3, 9), (5, 0, 1, 1), (1, 0, 0, 0)])
def test_the_metrics_are_those_of_scikit_learn(seed, weights):
    truth, answers = draw_labels_and_answers(seed, 60, weights)
    named = [answer or "none" for answer in answers]
    result = summary(truth, answers)
    present = sorted(set(truth))
    f1 = metrics.f1_score(truth, named, labels=present, average="macro", zero_division=0)
    assert result["macro_f1"]["score"] == pytest.approx(f1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that answers hold a label which the truth lacks
        balanced = metrics.balanced_accuracy_score(truth, named)
    assert result["balanced_accuracy"]["score"] == pytest.approx(balanced)
    matrix = metrics.confusion_matrix(truth, named, labels=[*LABELS, "none"])[:4]
    assert [list(row.values()) for row in result["confusion"].values()] == matrix.tolist()
    assert json.loads(json.dumps(result)) == result


def test_standard_errors_agree_with_resampled_rows_and_with_the_delta_method():
    truth, answers = draw_labels_and_answers(0, 400, (3, 2, 1, 1))
    named = [answer or "none" for answer in answers]
    result = summary(truth, answers)
    # Var of a mean of independent recalls.
    recalls = [(metrics.recall_score(truth, named, labels=[x], average=None)[0], x) for x in LABELS]
    variance = sum(r * (1 - r) / truth.count(label) for r, label in recalls) / 16
    assert result["balanced_accuracy"]["stderr"] == pytest.approx(math.sqrt(variance), rel=0.1)
    draw, scores = random.Random(1), []
    for _ in range(200):
        rows = draw.choices(range(400), k=400)
        scores.append(
            metrics.f1_score([truth[i] for i in rows], [named[i] for i in rows], average="macro",
                             labels=LABELS)
        )  # fmt: skip
    mean = sum(scores) / 200
    spread = math.sqrt(sum((one - mean) ** 2 for one in scores) / 199)
    # The spread of 200 draws is itself known to 1 / sqrt(400).
    assert result["macro_f1"]["stderr"] == pytest.approx(spread, rel=0.2)


def test_the_same_verdicts_give_the_same_errors_and_one_row_gives_none():
    truth, answers = draw_labels_and_answers(3, 50, (1, 1, 1, 1))
    assert summary(truth, answers) == summary(truth, answers)
    alone = summary(["Exact"], ["Exact"])
    assert alone["macro_f1"] == {"score": 1.0, "stderr": None, "n": 1}


def test_a_constant_answer_looks_good_by_accuracy_alone(real_data):
    """On the real pairs: 0.51 by accuracy, chance by balanced accuracy, and less by macro-F1."""
    path = str(real_data / "esci_pairs_dev.jsonl")
    rows = Esci(path=path, test_share=0.0, validation_share=0.0).load().train
    assert len(rows) == 1000
    verdicts = [score("Exact", example.reference) for example in rows]
    accuracy = proportion([verdict.correct for verdict in verdicts])
    assert accuracy["score"] == pytest.approx(0.51, abs=0.01)
    assert accuracy["stderr"] == pytest.approx(0.0158, abs=1e-4)
    result = score.summary(verdicts, [example.reference for example in rows])
    assert result["balanced_accuracy"]["score"] == 0.25
    assert result["balanced_accuracy"]["stderr"] == 0
    assert result["macro_f1"]["score"] == pytest.approx(2 * 0.517 / 1.517 / 4)
    assert {row["Exact"] for row in result["confusion"].values()} == {517, 360, 36, 87}


def test_only_a_scorer_with_a_summary_is_a_summarizer():
    assert isinstance(score, Summarizer)
    assert not isinstance(Gsm8kScorer(), Summarizer)
