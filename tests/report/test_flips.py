"""Items that two runs scored differently: what stands there is the answer that was scored."""

import json
import os

import pytest
from synthetic_study import scored

from talr_cli.report.flips import flipped_items
from talr_cli.report.guesses import guesses_of
from talr_cli.statistics.groups import comparable


def flip_of(tmp_path, metric, arguments, before, after):
    """The one flipped item of a task whose answers were weighed with these log-likelihoods."""
    sides = []
    for name, likelihoods, right in (("base", before, 0), ("sft", after, 1)):
        folder = tmp_path / name / "samples"
        folder.mkdir(parents=True)
        responses = [[[one, False]] for one in likelihoods]
        sample = {"doc_id": 0, "arguments": arguments, "resps": responses}
        (folder / "general-a.jsonl").write_text(json.dumps(sample) + "\n")
        one = scored(name, [1, 0], {"a": [right, 0]})
        every = {metric: 0.5, **({"acc_mutual_info,none": 0.5} if len(arguments) > 2 else {})}
        one["general"]["tasks"]["a"] |= {"metric": metric, "all": every}
        sides.append((folder.parent, one))
    (flip,) = flipped_items(*sides)
    return flip["output_a"], flip["output_b"]


ANSWERS = [["Q", " no"], ["Q", " a much longer answer"]]
# By the sum both runs take the short one; by the character the second takes the long one.
BEFORE, AFTER = (-2.0, -30.0), (-2.0, -10.0)


# Of 3 letters in 6 bytes, and of 7 in 7.
IN_BYTES = [["Q", " нет"], ["Q", " so, yes"]]


@pytest.mark.parametrize(
    ("metric", "answers", "after", "second"),
    [
        ("acc_norm", ANSWERS, AFTER, 1),
        ("acc", ANSWERS, AFTER, 0),
        ("acc_norm", IN_BYTES, (-6.0, -10.0), 1),
        ("acc_bytes", IN_BYTES, (-6.0, -10.0), 0),
    ],
)
def test_an_answer_is_chosen_by_the_metric_that_counts(tmp_path, metric, answers, after, second):
    expected = answers[0][1], answers[second][1]
    assert flip_of(tmp_path, f"{metric},none", answers, BEFORE, after) == expected


def test_choices_that_stand_in_the_prompts_are_told_by_these(tmp_path):
    """Winogrande: every choice goes on with the same words."""
    arguments = [["Ann was ill, so Ann", " slept."], ["Ann was ill, so Bea", " slept."]]
    told = flip_of(tmp_path, "acc,none", arguments, (-1.0, -2.0), (-2.0, -1.0))
    assert told == ("Ann was ill, so Ann", "Ann was ill, so Bea")


@pytest.mark.parametrize(("metric", "second"), [("acc", " no"), ("acc_mutual_info", ANSWERS[1][1])])
def test_answers_weighed_without_their_question_are_no_choices(tmp_path, metric, second):
    """`acc_mutual_info` weighs every answer a second time, alone, and counts the difference."""
    arguments = [*ANSWERS, ["", ANSWERS[0][1]], ["", ANSWERS[1][1]]]
    alone = (-1.0, -20.0)
    told = flip_of(tmp_path, f"{metric},none", arguments, (*BEFORE, *alone), (*AFTER, *alone))
    assert told == (" no", second)


def test_a_pipe_in_the_place_of_samples_is_damage_and_not_waited_for(tmp_path, caplog):
    sides = []
    for name, right in (("base", 0), ("sft", 1)):
        (tmp_path / name / "samples").mkdir(parents=True)
        os.mkfifo(tmp_path / name / "samples" / "general-a.jsonl")
        sides.append((tmp_path / name, scored(name, [1, 0], {"a": [right, 0]})))
    (flip,) = flipped_items(*sides)
    assert flip["output_b"] is None
    runs = dict(sides)
    (group,) = comparable(runs.values())
    assert guesses_of(group, runs).choices == {}
    assert (
        "sft/samples/general-a.jsonl cannot be read (it is not a regular file): left out"
        in caplog.text
    )
