"""Reads the number of an answer: 4 from `1 (age) + 3 (stroke) = 4`, none from `22.9-23.1`.

Knows text that went through `numbers.normalise`; `statements.py` finds where an answer is stated.
"""

import math
import re
from typing import NamedTuple

from talr_cli.scorers.arithmetic import parse_expression
from talr_cli.scorers.numbers import Number, find_numbers, is_range, normalise, scan_numbers
from talr_cli.scorers.statements import is_item, json_field, stated_answer, strip_list_mark

_PER_SURFACE = re.compile(r" ?(?:/|\bper) ?1\.73 ?m(?:\^?2)?", re.IGNORECASE)
_ABOUT = r"(?:(?:about|approximately|approx\.?|around|roughly|nearly|equal to) ?)?"
_LEADS = re.compile(rf"[\s\"'(\[{{\u2248~=:+*]{{0,9}}{_ABOUT}[\s(\[\u2248~+]{{0,3}}", re.IGNORECASE)
_LONE_MINUS = re.compile(r"- (?=[.\d])")
_NUMBER = r"-?[\d.,]*\d"
# Beginnings of answers that are not a single number: bounds, alternatives, lists, refusals.
_SEVERAL = re.compile(
    rf"(?:either )?(?:[<>\u2264\u2265\u00b1#]|"
    rf"(?:less|more|greater|fewer|lower|higher|no more|no less) than\b|"
    rf"at (?:least|most)\b|(?:under|over|above|below|up to|between)\b|"
    rf"{_NUMBER}[^\s\d]{{0,12}} ?(?:to|or|vs\.?) {_NUMBER}(?![\w])|"
    rf"{_NUMBER}( [^\s\d]{{1,12}}) or {_NUMBER}\1\b|"
    rf"{_NUMBER}\|{_NUMBER}$|(?!\d{{1,3}}(?: \d{{3}})+(?:\.\d*){{0,2}}$)-?\d[\d.]* \d[\d.]*$|"
    rf"{_NUMBER} ?/ ?0+(?![\d.])|(?=[^a-wyz\n]*x(?! ?\d))"
    r"-?[\dx(.][\dx().]*+(?: ?[-+*/^] ?[\dx(][\dx().]*+)*+\W*+$|"
    rf"([a-z]) ?= ?{_NUMBER}(?: or \2 ?|, (?:and )?[a-z] ?)= ?{_NUMBER}\W*$|"
    r"(?:it |this |i |we )?(?:is |am |are )?(?:cannot|can't|could not|"
    r"un(?:known|clear|determined|able)|impossible|not (?:possible|applicable|enough)|n/a|none|"
    r"insufficient)\b|"
    rf"{_NUMBER}(?:, (?:and )?|; ?| (?:and|&) ){_NUMBER}(?=[\s.)\]]*$|[,;] ))",
    re.IGNORECASE,
)
# Thousands with spaces: only where a single number is expected, as in prose they are two numbers.
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,]| \d)")
_OVER = re.compile(" ?/ ?")
_SHARE = re.compile(r" ?(?:%|percent\b|per cent\b)", re.IGNORECASE)
_OUT_OF = re.compile(r" ?(?:points? )?out of \d", re.IGNORECASE)
_SLASH = re.compile(r" ?/ ?(\d[\d,]*+(?:\.\d++)?+)(?![/^])")
_COUNTED = re.compile(
    r" ?(?:points?|criteri(?:a|on)|items?|features?|(?:risk )?factors?|questions?|signs?|"
    r"symptoms?|conditions?|met\b)",
    re.IGNORECASE,
)
_SUM = re.compile(r"[+*]|^ ?% of \W?\d| x \d|\d ?\^|(?<=\s)[-/](?=\s)|^ ?[-/] ?[\d(]|/ ?\(")
_ARITHMETIC = re.compile("[-+*/^().\\d\\s\u221a\u03c0]{1,200}")
# Neither of two candidates was chosen: either 4 or 5.
_OR = re.compile(
    rf"(?:{_NUMBER}(?: ?[^\s\d]{{1,12}})? or|\bbetween {_NUMBER}[^\n.\d]{{0,20}} and) ?$",
    re.IGNORECASE,
)
_CITATION = re.compile(r"(?<=\S) ?\[\d{1,3}\]")
_FIELDS = ("result", "value", "prediction", "output", "total")
_JSON = re.compile(r"\{[^{}]*\}")
# A first paragraph that is a number, above its explanation.
_NUMBER_ALONE = re.compile(rf"[\u20ac\u00a3\u00a5]?{_NUMBER} ?[%\u20ac\u00a3\u00a5]?\.?")
_PROSE = re.compile(r"\W*[^\W\d_]")
# Not the brackets of a calculation, 70/(1.75 m)^2 or 9 - (2 + 3).
_COMMENT = re.compile(
    r" ?\((?! ?[\d.])[^()\n]*\)|(?<![-+*/^]) ?(?<![-+*/^] )\([^()\n]*\)"
    r"|(?<=[-+]) ?\((?![-+*/^.\d ]*\))[^()\n]*\)"
)
# Several steps on one line: 1. Add. 2. Divide.
_FIRST_STEP, _NEXT_STEP = re.compile(r"1[.)] \D"), re.compile(r" (?=(?:[2-9]|\d\d)[.)] \D)")
_SENTENCE = re.compile(r"(?<=[\w)%\]])(?<!pprox)[.;!](?=\s|$)")
_EQUALS = re.compile("[=\u2248\u2192]")
_SAID = re.compile(
    rf"(?:\b(?:is|was|are|equals|be)|:) [\u2248~]?{_ABOUT}(?=[-(]?\.?\d)|"
    r"\b(?:about|approximately|approx\.?|around|roughly) (?=-?\.?\d)|"
    r"\b(?:lead(?:s|ing)? to|result(?:s|ing)? in|giv(?:es?|ing)|yield(?:s|ing)?|gets?|comes? to|"
    r"totals|total of)\b",
    re.IGNORECASE,
)
# The score is 4 because the patient is 78 years old; but: since ..., so the score is 4.
_REASON = re.compile(
    r"\b(?:because|since|when|where|given|assuming|based on|as the)\b", re.IGNORECASE
)
_SO = re.compile(r"\b(?:so|thus|hence|therefore|giv(?:es|ing)|mak(?:es|ing))\b", re.IGNORECASE)
# 50 mg of prednisone is equivalent to 7.5 mg: the second was asked for.
_EQUIVALENT = re.compile(
    rf"\b(?:is|are|be) (?:approximately |about |roughly )?equivalent to {_ABOUT}(?=\.?\d)",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\W*(?:note|please|remember|(?:this|these|that)\b(?! (?:giv|put|make|yield|result|lead))|"
    r"interpretation|reference|normal|caution|disclaimer|"
    r"it (?:means|indicates|suggests|corresponds))\b",
    re.IGNORECASE,
)

_FIRST_READ, _LAST_READ = 1000, 4000  # how many characters of a text are read


class Reading(NamedTuple):
    """A number that was read, and whether it has a percent sign."""

    value: float
    is_percent: bool = False


def final_number(output: str) -> float | None:
    """The number that an output states last, else its last number; None if there is none.

    A bound or two alternatives (`at least 5`, `4 or 5`) are no number, nor is an infinite one.
    """
    found = _find_final(output)
    return found if found is not None and math.isfinite(found) else None


def _find_final(output: str) -> float | None:
    stated = stated_answer(output)
    if stated is not None:
        return read_number(stated)
    text = normalise(output).strip()
    field = next((json_field(one, _FIELDS) for one in _JSON.findall(text)[-1:]), None)
    if field is not None:
        return read_number(field)
    whole = _expression(text)
    if whole is not None:
        return whole
    alone, _, below = text.partition("\n\n")
    if _NUMBER_ALONE.fullmatch(alone) and _PROSE.match(below):
        return read_number(alone)
    text = _PER_SURFACE.sub("", text)
    unmarked = "\n".join(strip_list_mark(line) for line in text.split("\n"))
    for plain in (_CITATION.sub("", text), _CITATION.sub("", unmarked)):
        text = plain if find_numbers(plain) else text
    numbers = scan_numbers(text)
    if not numbers:
        return None
    last = numbers[-1]
    bound = _SEVERAL.match(text, _LEADS.match(text).end())  # type: ignore[union-attr]
    if (bound and bound[0] != "#" and len(numbers) == 1) or _OR.search(
        text, max(0, last.start - 60), last.start
    ):
        return None
    near = _SPACED.finditer(text, max(0, last.end - 60))
    spaced = [one for one in near if one.end() == last.end]
    if spaced:
        return float(spaced[0][0].replace(" ", ""))
    if len(numbers) > 1 and _OVER.fullmatch(text, numbers[-2].end, last.start):
        return numbers[-2].value / last.value if last.value else None
    return last.value


def read_number(text: str) -> float | None:
    """The value of `read_answer`, without the percent sign."""
    found = read_answer(text)
    return None if found is None else found.value


def read_answer(text: str, counts: bool = False, stated: bool = True) -> Reading | None:
    """The number that a normalised text gives as an answer; None if it gives none.

    It is the value of the text if that is an arithmetic expression, the number with which the text
    begins, or the result of the calculation with which it begins. Otherwise, it is what follows the
    last equals sign or `is`, or the last number, in the first sentence of a statement that has a
    number, or in the last line of other texts.

    Args:
        counts: Whether 4/5 means four of five and not a quotient.
        stated: Whether the text was stated as the answer.
    """
    text = _PER_SURFACE.sub("", text).strip().strip("\"'").strip()
    if text.startswith("str(") and text.endswith(")"):  # as the benchmark's prompt has it
        text = text[4:-1]
    if _FIRST_STEP.match(text):
        text = _NEXT_STEP.sub("\n", text)
    lines = [line for line in text[-_LAST_READ:].split("\n") if line.strip()]
    if not lines:
        return None
    first = text[:_FIRST_READ].partition("\n")[0].strip()
    if len(lines) == 1 or not is_item(first):
        if _SEVERAL.match(first, _LEADS.match(first).end()):  # type: ignore[union-attr]
            return None
        found = _read_leading(first, counts)
        is_working = not stated and len(lines) > 1 and "=" in first  # a line before the answer
        if not is_working and (found is not None or is_range(first.rstrip(" ."))):
            return found
    lines = [strip_list_mark(line) for line in lines]
    if not stated or len(lines) > 1:
        told = [line for line in lines if find_numbers(line)]
        lines = [line for line in told if not _REMARK.match(line)][-1:] or told[-1:]
    sentences = [part for line in lines for part in _SENTENCE.split(line) if find_numbers(part)]
    if not sentences:
        return None
    kept = [part for part in sentences if not _REMARK.match(part)] or sentences
    return _read_sentence(kept[0] if stated else kept[-1], counts)


def _expression(text: str) -> float | None:
    """The value of a text that is an arithmetic expression and not a range; else None."""
    text = text.strip().removesuffix(".").strip()
    if is_range(text) or (any(sign in text[1:] for sign in "-/") and not find_numbers(text)):
        return None
    return parse_expression(text)


def _read_leading(line: str, counts: bool) -> Reading | None:
    """The number with which a line begins, or the result of the calculation there."""
    spaced = _SPACED.match(line, _LEADS.match(line).end())  # type: ignore[union-attr]
    if spaced is not None:
        line = spaced[0].replace(" ", "") + line[spaced.end() :]
    whole = _expression(line)
    ratio = _ratio(line, counts)
    if whole is not None and ratio is None:
        return Reading(whole)
    start = _LEADS.match(line).end()  # type: ignore[union-attr]
    minus = _LONE_MINUS.match(line, start)
    if minus:
        start = minus.end()
    numbers = scan_numbers(line)
    number = next((one for one in numbers if one.start >= start), None)
    if number is None or number.start != start:
        return _arithmetic(line)
    sentence = _SENTENCE.split(line[number.end :], maxsplit=1)[0]
    rest = _COMMENT.sub("", sentence)
    if ratio is not None:
        return ratio
    marks = [match.end() for match in _EQUALS.finditer(rest)]
    results = scan_numbers(rest[marks[-1] :]) if marks else []
    if results and _SUM.search(rest[: marks[-1] - 1]):
        return _with_sign(rest[marks[-1] :], results[0])
    if re.match(r"(?: ?[-+*/^]|\)+ ?[*/^]) ?[\d(.]", rest):
        return _arithmetic(line)
    if same := _EQUIVALENT.search(rest):
        return _read_leading(rest[same.end() :], counts)
    value = -number.value if minus else number.value
    return Reading(value, _SHARE.match(line, number.end) is not None)


def _arithmetic(line: str) -> Reading | None:
    """The value of the expression with which a line begins, if it is more than a number."""
    begin = _ARITHMETIC.match(line, len(line) - len(line.lstrip(" =")))
    text = begin[0].strip() if begin else ""
    value = _expression(text) if re.search("[\\d)] ?[-+*/^\u221a\u03c0]|\u221a", text) else None
    return None if value is None else Reading(value)


def _ratio(line: str, counts: bool) -> Reading | None:
    """4 from `4/5 criteria` or, if `counts`, from `4/5`; otherwise the quotient."""
    start = _LEADS.match(line).end()  # type: ignore[union-attr]
    above = next((one for one in scan_numbers(line) if one.start >= start), None)
    if above is None or above.start != start:
        return None
    if _OUT_OF.match(line, above.end):
        return Reading(above.value)
    below = _SLASH.match(line, above.end)
    if below is None or re.match(r" ?[-+*/^=] ?[\d(]", line[below.end() :]):
        return None
    most = float(below[1].replace(",", ""))
    if counts or _COUNTED.match(line, below.end()):
        return Reading(above.value)
    return Reading(above.value / most) if most else None


def _read_sentence(sentence: str, counts: bool) -> Reading | None:
    """The number that a sentence gives, which has at least one."""
    plain = _COMMENT.sub(lambda comment: comment[0] if comment.start() == 0 else "", sentence)
    if not find_numbers(plain):
        plain = sentence
    numbers = scan_numbers(plain)
    if said := _SAID.search(plain):
        told = [number.end for number in numbers if number.start >= said.end()]
        reason = _REASON.search(plain, told[0]) if told else None
        if reason and not _SO.search(plain, reason.end()):
            plain, numbers = plain[: reason.start()], scan_numbers(plain[: reason.start()])
    for number in numbers:
        if _OUT_OF.match(plain, number.end):
            return Reading(number.value)
    marks = [match.end() for mark in (_SAID, _EQUALS) for match in mark.finditer(plain)]
    last = numbers[-1].start
    end = max((mark for mark in marks if mark <= last), default=None)
    if end is None:
        if len(numbers) > 1 and _OVER.fullmatch(plain, numbers[-2].end, last):
            return _read_leading(plain[numbers[-2].start :], counts)
        return _with_sign(plain, numbers[-1])
    after = plain[end:]
    found = _read_leading(after.strip(), counts)
    return found if found is not None else _with_sign(after, scan_numbers(after)[0])


def _with_sign(text: str, number: Number) -> Reading:
    value = number.value
    if math.isfinite(value) and text[: number.start].strip(" (") == "-":
        value = -value
    return Reading(value, _SHARE.match(text, number.end) is not None)
