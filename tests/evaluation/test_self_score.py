"""A perfect answer scores 1; where it does not, that is said before training."""

import pytest

from talr_cli.config import composition
from talr_cli.data.base import Example
from talr_cli.errors import UserError
from talr_cli.evaluation.config import DomainEvalConfig
from talr_cli.evaluation.self_score import check_test_rows, self_score
from talr_cli.scorers.base import Verdict
from talr_cli.scorers.text import ExactMatch, Numeric

PROMPT = ({"role": "user", "content": "What is 2 + 3?"},)
SETTINGS = {"max_position_embeddings": 512}


def row(completion, answer, number="one"):
    return Example(number, PROMPT, completion, {"answer": answer})


@pytest.mark.parametrize("name", ["esci-mini", "medcalc-mini"])
def test_shipped_rows_score_themselves(name, renderer):
    splits = composition.load("train", ["model=tiny", f"dataset={name}"]).dataset.load()
    assert self_score(renderer, splits.test[:40], splits.scorer) == (40, [])


def test_a_completion_is_judged_without_its_thought(renderer):
    assert self_score(renderer, [row("<think>\n2\n</think>\n\n5", "5")], ExactMatch()) == (1, [])


@pytest.mark.parametrize(
    ("scorer", "completion", "answer"),
    [
        (lambda said, _: Verdict(1 if said == "5" else 0.5, said), "five", "5"),  # half right
        (ExactMatch(), "five", ""),  # a blank cell
        (ExactMatch(), "five", "nan"),
        (ExactMatch(), "It is five.", "five"),
        (Numeric(), "five", "5"),
    ],
)
def test_a_completion_that_its_scorer_fails_is_found(scorer, completion, answer, renderer):
    rows = [row("5", "5"), row(completion, answer, "two")]
    with pytest.raises(UserError, match=r"^1 of 2 test rows score below 1 .* completion: two:"):
        check_test_rows(SETTINGS, renderer, rows, scorer, DomainEvalConfig())


def test_a_self_score_below_1_stops_or_warns_as_configured(renderer, caplog):
    rows = [row("five", "six")]
    with pytest.raises(UserError, match=r"domain\.self_score=warn"):
        check_test_rows(SETTINGS, renderer, rows, ExactMatch(), DomainEvalConfig())
    check_test_rows(SETTINGS, renderer, rows, ExactMatch(), DomainEvalConfig(self_score="warn"))
    assert "1 of 1 test rows score below 1" in caplog.text


def test_test_rows_beyond_the_models_positions_are_refused(renderer):
    long = Example("long", ({"role": "user", "content": "word " * 600},), "5", {"answer": "5"})
    with pytest.raises(UserError, match="512 positions"):
        check_test_rows(SETTINGS, renderer, [long], ExactMatch(), DomainEvalConfig())
    budget = DomainEvalConfig(max_new_tokens=500)
    with pytest.raises(UserError, match=r"domain\.max_new_tokens="):
        check_test_rows(SETTINGS, renderer, [row("5", "5")], ExactMatch(), budget)
