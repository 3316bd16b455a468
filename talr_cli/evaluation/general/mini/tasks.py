"""Items and scoring of the embedded tasks, as lm-eval's YAML files ask for them.

Loads only what lies beside this file; executes nothing that a model wrote.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict


def read_items(task: str) -> list[dict[str, Any]]:
    """The items of a task, in order."""
    lines = Path(__file__).with_name(f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def arithmetic(**_metadata: Any) -> DatasetDict:
    return _choice_items("arithmetic")


def knowledge(**_metadata: Any) -> DatasetDict:
    return _choice_items("knowledge")


def python(**_metadata: Any) -> DatasetDict:
    return _choice_items("python")


def instructions(**_metadata: Any) -> DatasetDict:
    # The value's type depends on the constraint: one column holds it as JSON.
    items = [{**item, "value": json.dumps(item["value"])} for item in read_items("instructions")]
    return DatasetDict(test=Dataset.from_list(items))


def _choice_items(task: str) -> DatasetDict:
    columns = ("question", "choices", "answer")
    items = [{column: item[column] for column in columns} for item in read_items(task)]
    return DatasetDict(test=Dataset.from_list(items))


def score_instruction(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval's process_results: 1 when the whole answer obeys, with no second try."""
    return {"strict_acc": float(obeys(doc["constraint"], json.loads(doc["value"]), results[0]))}


def obeys(constraint: str, value: Any, answer: str) -> bool:
    """Whether an answer keeps to its constraint."""
    return CHECKS[constraint](answer.strip(), value)


def _bare(text: str) -> str:
    return text.strip().strip(".!").strip("\"'").casefold()


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text))


def _comma_list(text: str, count: int) -> bool:
    parts = text.rstrip(".").split(",")
    return len(parts) == count and all(0 < len(part.split()) <= 3 for part in parts)


def _json_keys(text: str, keys: list[str]) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        record = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return False
    return isinstance(record, dict) and set(keys) <= set(record)


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "one_of": lambda text, words: _bare(text) in words,
    "max_words": lambda text, count: 0 < len(text.split()) <= count,
    "capitals": lambda text, _: _letters(text).isupper(),
    "bullets": lambda text, count: len(re.findall(r"^\s*- \S", text, re.MULTILINE)) == count,
    "numbered": lambda text, count: (
        re.findall(r"^\s*(\d+)\. \S", text, re.MULTILINE) == [str(n) for n in range(1, count + 1)]
    ),
    "comma_list": _comma_list,
    "contains": lambda text, words: all(
        re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in words
    ),
    "starts_with": lambda text, start: text.casefold().startswith(start),
    "ends_with": lambda text, end: text.endswith(end),
    "exactly": lambda text, wanted: text.casefold().rstrip(".") == wanted.casefold().rstrip("."),
    "json_keys": _json_keys,
    "no_comma": lambda text, words: "," not in text and len(text.split()) >= words,
}
