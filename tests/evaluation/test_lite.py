"""suite=lite, all ten tasks, from files with the columns of the hub's datasets."""

import pytest
import torch
from conftest import config, jsonl

from talr_cli.evaluation.general.suite import evaluate_general
from talr_cli.models import loading

ARC = [
    {
        "id": f"q{number}",
        "question": f"Which of these is a {kind}?",
        "choices": {"text": ["an oak", "a sparrow of the field", "iron"], "label": list("ABC")},
        "answerKey": "ABC"[number],
    }
    for number, kind in enumerate(["tree", "bird", "metal"])
]
HELLASWAG = [
    {
        "ind": number,
        "activity_label": "Baking bread",
        "ctx_a": "A man stands at a table.",
        "ctx_b": "he",
        "endings": ["kneads the dough.", "flies [title] away.", "is a table.", "sings of dough."],
        "label": str(number),
    }
    for number in range(3)
]
PIQA = [{"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Sing to it.", "label": 0}] * 2
WINOGRANDE = [
    {
        "sentence": "The cup did not fit in the box because the _ was too large.",
        "option1": "cup",
        "option2": "box",
        "answer": str(1 + number),
    }
    for number in range(2)
]
MMLU = [
    {
        "question": f"What is {number} + 1?",
        "subject": "any",
        "choices": [str(number + more) for more in range(4)],
        "answer": 1,
    }
    for number in range(3)
]
MMLU_SUBJECTS = (
    *("mmlu_high_school_world_history", "mmlu_high_school_macroeconomics"),
    *("mmlu_college_biology", "mmlu_elementary_mathematics", "mmlu_professional_medicine"),
)


@pytest.fixture
def suite(tmp_path):
    files = {
        "arc_easy_test": ARC,
        "arc_challenge_test": ARC,
        "hellaswag_validation": HELLASWAG,
        "piqa_validation": PIQA,
        "winogrande_validation": WINOGRANDE,
        **{f"{subject}_test": MMLU for subject in MMLU_SUBJECTS},
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text(jsonl(rows))
    return config("eval", "suite=lite", f"suite.data_dir={tmp_path}").suite


def test_tasks_of_lite_score_as_a_loop_over_their_choices(
    suite, tiny_source, tiny_config, renderer
):
    model = loading.load_model(tiny_source, tiny_config, torch.float32, "cpu").eval()
    tokenizer = renderer.tokenizer

    def log_probability(context, continuation):
        """Of the tokens that the continuation adds, alone and unpadded."""
        start = len(tokenizer(context).input_ids)
        ids = tokenizer(context + continuation).input_ids
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return sum(float(log_probs[at - 1, ids[at]]) for at in range(start, len(ids)))

    def best(values):
        return max(range(len(values)), key=values.__getitem__)

    def share(correct):
        return sum(correct) / len(correct)

    score = evaluate_general(model, renderer, suite)
    tasks = score.results["tasks"]
    assert list(tasks) == list(suite.tasks)
    assert not score.results["missing"]
    assert score.results["score"] == pytest.approx(share([one["score"] for one in tasks.values()]))

    choices = ARC[0]["choices"]["text"]
    expected = [
        best(
            [
                log_probability(f"Question: {row['question']}\nAnswer:", f" {c}") / len(c)
                for c in choices
            ]
        )
        == "ABC".index(row["answerKey"])
        for row in ARC
    ]
    for name in ("arc_easy", "arc_challenge"):
        assert tasks[name]["metric"] == "acc_norm,none"
        assert tasks[name]["score"] == pytest.approx(share(expected))

    expected = [
        best(
            [
                log_probability(f"Question: {row['goal']}\nAnswer:", f" {row[c]}") / len(row[c])
                for c in ("sol1", "sol2")
            ]
        )
        == row["label"]
        for row in PIQA
    ]
    assert tasks["piqa"]["score"] == pytest.approx(share(expected))

    # The context differs between the choices, what is scored is the same.
    expected = []
    for row in WINOGRANDE:
        before, after = (part.strip() for part in row["sentence"].split("_"))
        values = [
            log_probability(f"{before} {row[o]}", f" {after}") for o in ("option1", "option2")
        ]
        expected.append(best(values) == int(row["answer"]) - 1)
    assert tasks["winogrande"]["score"] == pytest.approx(share(expected))

    # The prompts are those of the harness, with its description of the subject.
    for name in MMLU_SUBJECTS:
        rows = score.samples[name]
        assert all(row["arguments"][0][0].endswith("Answer:") for row in rows)
        expected = [
            best([log_probability(*arguments) for arguments in row["arguments"]]) == 1
            for row in rows
        ]
        assert tasks[name]["score"] == pytest.approx(share(expected))
