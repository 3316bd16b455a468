"""The embedded general rows for replay: usable, and no copy of what the embedded suite asks."""

import re

from talr_cli.evaluation.drift import general_passages
from talr_cli.evaluation.mini.tasks import read_items
from talr_cli.methods.replay import Replay


def grams(text, n=6):
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_rows_are_distinct_and_answered():
    rows = Replay().examples()
    assert len(rows) >= 40
    assert len({row.messages[0]["content"] for row in rows}) == len(rows)
    assert all(row.completion.strip() for row in rows)


def test_nothing_of_the_suite_is_trained_on():
    asked = set()
    for task in ("arithmetic", "instructions", "knowledge", "python"):
        for item in read_items(task):
            question = item.get("question") or item["prompt"]
            # How the expression questions begin is no secret; what they ask is.
            asked |= grams(question.removeprefix("What does this Python expression evaluate to?"))
    read = set().union(*(grams(passage) for passage in general_passages()))
    for row in Replay().examples():
        assert not grams(row.messages[0]["content"]) & asked, row.messages
        assert not grams(row.completion) & read, row.completion
