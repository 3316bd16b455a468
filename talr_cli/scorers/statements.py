r"""Where an output states its answer: a line, a sentence, a field of JSON, a box.

Knows no kinds of answers: what a statement says is read by others. The last statement counts, as
models correct themselves; what is said after it does not, as models also explain themselves.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator

from talr_cli.scorers.numbers import normalise

_ANSWER = re.compile(
    r"(?:\b|_|(?<=final))answer\b[\"')]{0,2} ?(?:\([^()\n]{0,40}\) ?)?"
    r"(?:(?:to|for|of|in) [^\n.:=]{1,60}? ?)?"
    r"(?P<sep>\bis\b ?[:=]?|[:=\u2248\u2192]|(?=\n))",
    re.IGNORECASE,
)
# Of a sentence `the answer is ...` these are statements, others remarks: that it is an estimate.
_VALUE = re.compile(
    r"[\s\"'(\[{\u2248~=+*-]{0,9}(?:(?:about|approximately|around|roughly|nearly|equal to) )?"
    r"(?:[-+<>\u2264\u2265\\\"']{0,3}[.\d]|\\|(?:mon|tues|wednes|thurs|fri|satur|sun)day|"
    r"(?:jan|feb|mar|apr|may|june?|july?|aug|sep|oct|nov|dec)|"
    r"between \d|(?:less|more|greater|fewer) than|at (?:least|most)|un(?:known|clear|determined)|"
    r"(?:cannot|can't|not|none|impossible|n/a)\b)",
    re.IGNORECASE,
)
_ANOTHER_ANSWER = re.compile(
    r"\b(?:this|that|an|any|such|each|previous|above|your|wrong)\s{1,3}$", re.IGNORECASE
)
_BEFORE_HEADING = re.compile(r"\W*(?:the )?(?:final |correct )?", re.IGNORECASE)
_BOXED = re.compile(r"\\{1,2}(?:boxed|fbox) ?\{((?:[^{}]|\{[^{}]*\})*)\}")
# GSM8K's. Where no number stands alone behind them it would be any heading, but at the very end.
_HASHES = re.compile(r"(?<!#)#### ?(-?[\d.,]*\d(?=[ #]*$)|[^\n#]*[^\s#](?=[\s#]*\Z))", re.MULTILINE)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_JSON = re.compile(r"\{[^{}]*\}")
_FIELD = re.compile(r"answer[\"'] ?:", re.IGNORECASE)
_LIST = re.compile(r" ?(?:[-*+\u2022] |\d{1,2}[.)] (?=\D*[a-zA-Z]|-?[.\d])|[Ss]tep \d{1,2}[:.)] )")

_LONGEST, _MOST = 1000, 100  # characters of a statement, and statements, that are read


def stated_answer(output: str) -> str | None:
    """What an output states last as its answer, in plain signs; None if it states nothing."""
    return next(statements(output), None)


def statements(output: str, is_label: bool = False) -> Iterator[str]:
    """What an output states, the last first: `Answer: ...`, `the answer is ...`, JSON, boxes, ####.

    A statement is the rest of its line, or the lines below where it ends with a colon.

    Args:
        is_label: Whether answers are words, so that any sentence `the answer is ...` states one.
    """
    text = normalise(_TAG.sub(lambda tag: "\n" if tag[1] else "\nAnswer: ", output))
    found = [match for form in (_BOXED, _HASHES, _ANSWER) for match in form.finditer(text)]
    blocks = list(_JSON.finditer(text))
    starts = [block.start() for block in blocks]
    fields: dict[int, str | None] = {}
    for match in sorted(found, key=lambda match: -match.start())[:_MOST]:
        if match.re is not _ANSWER:
            said: str | None = match[1].strip()
        else:
            at = bisect_right(starts, match.start()) - 1
            is_inside = at >= 0 and match.start() < blocks[at].end()
            if is_inside and at not in fields:
                fields[at] = json_field(blocks[at][0], ("answer",))
            said = (fields[at] if is_inside else None) or _said(text, match, is_label)
        if said:
            yield said


def _said(text: str, match: re.Match[str], is_label: bool) -> str:
    """What follows the words of a statement; empty if it is none."""
    start, end = match.span()
    line = text[end : end + _LONGEST].partition("\n")[0]
    if _FIELD.match(text, start):
        return _field_text(line)
    separator = match["sep"].strip().lower()
    if separator == "":  # a heading
        before = text[max(0, start - 30) : start].rpartition("\n")[2]
        return _below(text, end) if _BEFORE_HEADING.fullmatch(before) else ""
    if _ANOTHER_ANSWER.search(text, max(0, start - 12), start):
        return ""
    if separator == "is" and not is_label and not _VALUE.match(line or text[end : end + 30]):
        return ""
    said = line.lstrip(" *_#").rstrip(" *_")  # C# keeps its sign
    if not said or (said.endswith(":") and not re.search(r"\d", said)):
        return _below(text, end + len(line))
    return said


def _below(text: str, place: int) -> str:
    """The next lines that are not empty, up to one that is; of a list without its marks."""
    block = text[place : place + _LONGEST].partition("\n")[2].lstrip().partition("\n\n")[0]
    return "\n".join(without_mark(line) for line in block.split("\n")).strip()


def without_mark(line: str) -> str:
    """A line without the dash or the number that makes it an item of a list."""
    mark = _LIST.match(line)
    return line[mark.end() :] if mark else line


def is_item(line: str) -> bool:
    """Whether a line is an item of a list."""
    return _LIST.match(line) is not None


def json_field(block: str, names: tuple[str, ...]) -> str | None:
    """The field of a JSON object whose key holds one of `names`, as text; None if there is none."""
    try:
        record = json.loads(block)
    except (ValueError, RecursionError):  # lists may be nested without end
        return None
    for name in names:
        keys = sorted((key for key in record if name in key.lower()), key=len)
        if keys:
            value = record[keys[0]]
            return json.dumps(value) if isinstance(value, list) else str(value).strip()
    return None


def _field_text(rest: str) -> str:
    """The value of a field of something that is nearly JSON."""
    rest = rest.strip()
    if rest[:1] == '"':
        return re.split(r'(?<!\\)"', rest[1:], maxsplit=1)[0].strip()
    if rest[:1] == "[":
        return rest.partition("]")[0] + "]"
    if rest[:1] == "(":  # a tuple of Python's, as in ('29 weeks', '2 days')
        return rest.partition(")")[0] + ")"
    return re.split(r', ?["\']|\}', rest, maxsplit=1)[0].strip()
