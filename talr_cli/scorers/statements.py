r"""Finds where an output states its answer: a line, a sentence, a JSON field, a box.

Does not know what kind of answer it is. The last statement counts, as models correct themselves;
text behind it does not, as models also explain themselves.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator

from talr_cli.scorers.numbers import MONTH, normalise

_ANSWER = re.compile(
    r"answer[\"')]? ?(?:\([^)\n]{1,40}\) ?)?"
    r"(?:(?:to|for|of|in) [^\n.:=]{1,60}? ?)?"
    r"(?P<sep>\b(?:is|was|equals|(?:must|should|would|will|has to) be|(?:comes|works)(?: out)? to|"
    r"turns out to be)(?: (?:therefore|thus|hence|then|simply|just|exactly|indeed|clearly))?"
    r" ?[:=]?|[:=\u2248\u2192]|(?=\n))",
    re.IGNORECASE,
)
# After `the answer is` and the like only these are statements; others are remarks (`an estimate`).
_VALUE = re.compile(
    r"[\s\"'(\[{\u2248~=+*-]{0,9}(?:(?:about|approximately|around|roughly|nearly|equal to) )?"
    r"(?:[-+<>\u2264\u2265\\\"']{0,3} ?[.\d]|\\|(?:mon|tues|wednes|thurs|fri|satur|sun)day|"
    rf"{MONTH}\b|"
    r"between \d|(?:no )?(?:less|more|greater|fewer) than|at (?:least|most)|"
    r"un(?:known|clear|determined)|(?:cannot|can't|not|none|impossible|n/a)\b)",
    re.IGNORECASE,
)
_ANOTHER_ANSWER = re.compile(
    r"\b(?:this|that|an|any|such|each|previous|above|your|wrong)\s$", re.IGNORECASE
)
_BEFORE_HEADING = re.compile(r"\W*(?:the )?(?:final |correct )?", re.IGNORECASE)
_BOXED = re.compile(r"\\{1,2}(?:boxed|fbox) ?\{((?:[^{}]|\{[^{}]*\})*)\}")
# GSM8K's ####, which may also be a heading unless only a number or the end of the text follows.
_HASHES = re.compile(r"(?<!#)#### ?(-?[\d.,]*\d(?=[ #]*$)|[^\n#]*[^\s#](?=[\s#]*\Z))", re.MULTILINE)
_TAG = re.compile(r"<(/?)(?:final_)?answer>", re.IGNORECASE)
_JSON = re.compile(r"\{[^{}]*\}")
_FIELD = re.compile(r"answer[\"'] ?:", re.IGNORECASE)
_LIST = re.compile(r" ?(?:[-*+\u2022] |\d{1,2}[.)] (?=\D*[a-zA-Z]|-?[.\d])|[Ss]tep \d{1,2}[:.)] )")

_LONGEST, _MOST = 1000, 100  # the most characters of a statement, and the most statements


def stated_answer(output: str) -> str | None:
    """The answer that an output states last, as normalised text; None if it states nothing."""
    return next(statements(output), None)


def statements(output: str, is_label: bool = False) -> Iterator[str]:
    """The statements of an output, last first: `Answer: ...`, `the answer is ...`, JSON, boxes.

    A statement is the rest of its line, or the lines below if that ends with a colon.

    Args:
        is_label: Whether answers are words, so that every sentence `the answer is ...` states one.
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
            said = (fields[at] if is_inside else None) or _statement_text(text, match, is_label)
        if said:
            yield said


def _statement_text(text: str, match: re.Match[str], is_label: bool) -> str:
    """The text that follows the words `answer is` or the like; "" if they state nothing."""
    start, end = match.span()
    line = text[end : end + _LONGEST].partition("\n")[0]
    if _FIELD.match(text, start):
        return _field_text(line)
    separator = match["sep"].strip().lower()
    if separator == "":  # a heading
        before = text[max(0, start - 30) : start].rpartition("\n")[2]
        return _lines_below(text, end) if _BEFORE_HEADING.fullmatch(before) else ""
    if _ANOTHER_ANSWER.search(text, max(0, start - 12), start):
        return ""
    if separator[-1].isalpha() and not is_label and not _VALUE.match(line or text[end : end + 30]):
        return ""
    said = line.lstrip(" *_#").rstrip(" *_")  # a # at the end stays, as in C#
    if not said or (said.endswith(":") and not re.search(r"\d", said)):
        return _lines_below(text, end + len(line))
    return said


def _lines_below(text: str, place: int) -> str:
    """The next lines up to an empty one, without list marks."""
    block = text[place : place + _LONGEST].partition("\n")[2].lstrip().partition("\n\n")[0]
    return "\n".join(strip_list_mark(line) for line in block.split("\n")).strip()


def strip_list_mark(line: str) -> str:
    """A line without the dash or number of a list item."""
    mark = _LIST.match(line)
    return line[mark.end() :] if mark else line


def is_item(line: str) -> bool:
    """Whether a line is a list item."""
    return _LIST.match(line) is not None


def json_field(block: str, names: tuple[str, ...]) -> str | None:
    """The field of a JSON object whose key contains one of `names`, as text; None if none does."""
    try:
        record = json.loads(block)
    except (ValueError, RecursionError):  # lists may be nested too deeply
        return None
    for name in names:
        keys = sorted((key for key in record if name in key.lower()), key=len)
        if keys:
            value = record[keys[0]]
            return json.dumps(value) if isinstance(value, list) else str(value).strip()
    return None


def _field_text(rest: str) -> str:
    """The value of a field in text that is nearly JSON."""
    rest = rest.strip()
    if rest[:1] == '"':
        return re.split(r'(?<!\\)"', rest[1:], maxsplit=1)[0].strip()
    if rest[:1] == "[":
        return rest.partition("]")[0] + "]"
    if rest[:1] == "{":
        return rest.partition("}")[0] + "}"
    if rest[:1] == "(":  # a Python tuple, such as ('29 weeks', '2 days')
        return rest.partition(")")[0] + ")"
    return re.split(r', ?["\']|\}', rest, maxsplit=1)[0].strip()
