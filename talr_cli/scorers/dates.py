"""Reads dates, and durations in weeks and days, from text as models write them.

A date with slashes or dashes has the month first, as MedCalc-Bench asks for, and a year of four
digits. Knows text that went through `numbers.normalise`.
"""

import re
from collections.abc import Callable
from datetime import date
from typing import TypeVar

_NAMES = "january february march april may june july august september october november december"
_MONTHS = {
    form: number
    for number, name in enumerate(_NAMES.split(), 1)
    for form in (name, name[:3], *(("sept",) if name[:4] == "sept" else ()))
}
_NAME = f"({'|'.join(sorted(_MONTHS, key=len, reverse=True))})"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(\d{4})(?!\d)"
_DATE = re.compile(
    rf"(?<!\d)(?<!\d[/-])(\d{{1,2}})([/-])(\d{{1,2}})\2{_YEAR}"
    rf"|(?<!\d)(?<!\d[/-])(\d{{4}})([/-])(\d{{1,2}})\6(\d{{1,2}})(?!\d)"
    rf"|\b{_NAME}\.?[ -]?{_DAY},?[ -]?{_YEAR}"
    rf"|(?<!\d){_DAY}[ -]?(?:of )?{_NAME}\.?,?[ -]?{_YEAR}",
    re.IGNORECASE,
)
_FULL = "[ -]?(?:(?:completed|full) )?"
_WEEKS_DAYS = re.compile(
    rf"(?<!\d)(\d{{1,2}}){_FULL}(?:weeks?|wks?|w)(?! \(\d\d)\W{{0,6}}"  # not 4 weeks (28 days)
    r"(?:(?:and|plus|with(?: a)?|remainder(?: of)?)\W{1,3}){0,2}(\d{1,2})\W?(?:days?|d)\b"
    r"|(?<![\d.+])(\d{1,2}) ?(?:\^?\(?\+ ?([0-6])\)?|[-+^]? ?([0-6])/7) ?-?(?:weeks?|wks?|w)\b"
    r"|\bweeks\W{1,3}(\d{1,2})\W{1,4}days\W{1,3}(\d{1,2})\b",
    re.IGNORECASE,
)
_BARE_WEEKS_DAYS = re.compile(
    r"(?:[\[(] ?(\d{1,2}), ?(\d{1,2})[\])]|(\d{1,2}) ?\^?\(?\+ ?([0-6]))\W*"
)
_LEAD = re.compile(r"\W{0,9}(?:(?:about|on|approximately) )?", re.IGNORECASE)
_BEFORE = re.compile(r"(?:[=\u2248\u2192:]|\b(?:is|was|be|on|equals)) ?[\"'(\[]?$", re.IGNORECASE)
# A day from which another one is counted.
_COUNTED_FROM = re.compile(
    r"\b(?:after|since|from|before|lmp|period)\b\)? ?[:=]?(?: (?:is|was|of|on)){0,2} ?[\"'(\[]?$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:not (?:on |the )?|(?:less|more) than |at (?:least|most) )[\"'(\[]?$", re.IGNORECASE
)
_ANOTHER = re.compile(r"[\"')\],]{0,2} ?(?:or|to|until|through)\b ?[\"'(\[]?", re.IGNORECASE)
_WEEKS = re.compile(rf"(?<![\d.,+/-])(\d{{1,2}}){_FULL}(?:weeks?|wks?)\b", re.IGNORECASE)
_SUM = re.compile(r" ?[-+] ?\d")

Found = TypeVar("Found")


def read_date(text: str, stated: bool = True) -> date | None:
    """The date that a text gives; if there are several, see `_choose`.

    Args:
        stated: Whether the text was stated as the answer.
    """
    return _choose(text, _DATE, _date_of, stated)


def read_weeks_days(text: str, stated: bool = True) -> tuple[int, int] | None:
    """(weeks, days) that a text gives; see `read_date`. Weeks without days have 0 days."""
    bare = _BARE_WEEKS_DAYS.fullmatch(text.strip())
    if bare is not None:
        return _weeks_and_days(bare)
    both = _choose(text, _WEEKS_DAYS, _weeks_and_days, stated)
    return both or _choose(text, _WEEKS, lambda match: (int(match[1]), 0), stated)


def _choose(
    text: str,
    pattern: re.Pattern[str],
    read: Callable[[re.Match[str]], Found | None],
    stated: bool,
) -> Found | None:
    """Choose among several matches.

    Of a statement: the one with which it begins, else the one after the last `=` or `is`, else the
    first. Of any other text: the last. None if two are offered or are a period (`10/22/2021 to
    10/29/2021`); a denied one does not count.
    """
    found = [
        (match, value)
        for match in pattern.finditer(text)
        if (value := read(match)) and not _follows(_DENIED, text, match)
    ]
    starts = {match.start(): value for match, value in found}
    if any(
        (by := _ANOTHER.match(text, one.end())) and starts.get(by.end(), value) != value
        for one, value in found[:9]
    ):
        return None
    if not found:
        return None
    found = [one for one in found if not _follows(_COUNTED_FROM, text, one[0])] or found
    if not stated:
        return found[-1][1]
    first, value = found[0]
    leads = first.start() == _LEAD.match(text).end()  # type: ignore[union-attr]
    if leads and not _SUM.match(text, first.end()):
        return value
    told = [value for match, value in found if _follows(_BEFORE, text, match)]
    return told[-1] if told else value


def _follows(before: re.Pattern[str], text: str, match: re.Match[str]) -> bool:
    """Whether a pattern that ends with `$` matches directly before a match."""
    return before.search(text, max(0, match.start() - 30), match.start()) is not None


def _date_of(match: re.Match[str]) -> date | None:
    parts = match.groups()
    if parts[0]:
        month, day, year = parts[0], parts[2], parts[3]
    elif parts[4]:
        year, month, day = parts[4], parts[6], parts[7]
    elif parts[8]:
        month, day, year = parts[8:11]
    else:
        day, month, year = parts[11:14]
    number = _MONTHS.get(month.lower()) or int(month)
    try:
        return date(int(year), number, int(day))
    except ValueError:
        return None


def _weeks_and_days(match: re.Match[str]) -> tuple[int, int]:
    weeks, days = (int(part) for part in match.groups() if part is not None)
    return weeks, days
