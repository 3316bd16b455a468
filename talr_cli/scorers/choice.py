"""Which of a row's choices an output names: a letter, a word or a phrase.

Knows texts and choices; does not know what is asked. docs/evaluation.md has the rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from talr_cli.scorers.base import Verdict
from talr_cli.scorers.numbers import normalise
from talr_cli.scorers.statements import json_field, statements

_OPENS = r"(?:[\s\"'(\[*#>]|- ){0,9}(?:(?:option|choice) )?[\"'(\[]?"
_CLOSES = r"[\"')\]*.!\s]{0,9}"
_KEY = r"(?:[\w *]{1,40}[:=])?"  # Sentiment: positive
_DENIAL = (
    r"(?:\b(?:not|neither|nor|never|rather than|instead of)|n't) "
    r"(?:be )?(?:an? |the |quite |really |option )?[\"'(]?"
)
_JSON = re.compile(r"\{[^{}]*\}")
_FIELDS = ("label", "class", "choice", "category", "prediction", "sentiment", "output", "result")


class Choice:
    """The choice that an output names is {"answer": one of "choices"}.

    That of the last statement (`Answer: B`, `the answer is B`, JSON, a box); else of the last line
    that is a choice and nothing else (`Sentiment: positive`); else the one that the output begins
    with (`Yes, ...`, `B) ...`); else the one named last. What comes after is its reason. One that
    is denied (`not B`) does not count, and of two that are offered (`B or C`) none does.

    A choice is a word of its own, in upper or lower case; of two that fit the longer one was meant.
    A single letter in prose counts in its own case only, and no article does (`A dog`).
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        choices = _Choices(str(choice) for choice in reference["choices"])
        found = choices.named(output)
        shown = None if found is None else choices.written[found]
        return Verdict(found is not None and found == plain(str(reference["answer"])), shown)


class _Choices:
    """The choices of a row, by their plain text; `written` is how the row has them."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.written = {plain(choice): choice for choice in choices}
        # The longest first: where one choice contains another, the longer one was meant.
        texts = sorted((normalise(one).strip() for one in self.written.values()), key=len)[::-1]
        any_case, first, prose = (
            "|".join(_form(one, where) for one in texts) for where in ("alone", "first", "prose")
        )
        start, end = r"(?<![^\W_])", r"(?![^\W_])"
        named = rf"{start}({prose}){end}"
        self._named = _compiled(named)
        self._denied = _compiled(_DENIAL + named)
        self._offered = _compiled(rf"{named}[\"')\]]? ?(?:,? ?(?:or|and)|/) ?{_OPENS}$")
        self._line = _compiled(rf"{_OPENS}{_KEY}{_OPENS}({any_case}){_CLOSES}")
        self._first = _compiled(rf"{_OPENS}({first}){end}")
        self._begins = _compiled(
            rf"{_OPENS}(?:({any_case})(?=[\"')\]*]*(?:[.,:;!)]|$))|(yes) (?!or|and))"
        )
        self._listed = _compiled(rf"{start}({first})[):]")

    def named(self, output: str) -> str | None:
        """The choice that an output names, as plain text; None if it names none, or several."""
        for said in statements(output, is_label=True):
            stated = self._stated(said)
            if stated is not None:
                return stated or None
        text = normalise(output)
        for block in reversed(_JSON.findall(text)):
            field = json_field(block, _FIELDS)
            if field and (whole := self._line.fullmatch(field)):
                return plain(whole[1])
        for line in reversed(text.split("\n")):
            if whole := self._line.fullmatch(line):
                return plain(whole[1])
        begins = self._begins.match(text)
        first = plain(begins[1] or begins[2]) if begins else None
        if first in self.written and len(set(map(plain, self._listed.findall(text)))) < 2:
            return first
        return self._last(self._undenied(text))

    def _stated(self, said: str) -> str | None:
        """The choice of a statement; empty if that offers several, None if it names none."""
        first = self._first.match(said) or self._named.search(self._undenied(said))
        if first is None:
            whole = self._begins.match(said)
            return plain(whole[1]) if whole and whole[1] else None
        others = self._named.search(first.string, first.end())
        if others and self._offered.search(first.string, first.start(1), others.start(1)):
            return ""
        return plain(first[1])

    def _undenied(self, text: str) -> str:
        """The text without the choices that are denied in it; `not toxic` may be one itself."""
        return self._denied.sub(lambda said: said[0] if self._named.match(said[0]) else " ", text)

    def _last(self, text: str) -> str | None:
        mentions = list(self._named.finditer(text))
        if not mentions or self._offered.search(text, 0, mentions[-1].start(1)):
            return None
        return plain(mentions[-1][1])


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


def _form(choice: str, where: str) -> str:
    """The pattern of a choice that stands `alone`, as the `first` of a statement, or in `prose`."""
    form, is_word = re.escape(choice), choice in ("A", "I")
    if len(choice) > 1 or not choice.isalpha() or where == "alone":
        return form
    if where == "first":
        return f"(?-i:{form})" if is_word else form
    return f"(?-i:{form})" + ("(?! (?!and|or|is)[a-z])" if is_word else "")


def plain(text: str) -> str:
    """The text by which two choices are the same: without markup, case and a final full stop."""
    return " ".join(normalise(text).split()).casefold().rstrip(".")
