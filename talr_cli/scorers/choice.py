"""Reads which of a row's choices an output names: a letter, a word or a phrase.

Knows texts and choices; does not know the question. docs/scorers.md has the rules.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from talr_cli.scorers.base import Verdict
from talr_cli.scorers.numbers import SPACELESS, normalise
from talr_cli.scorers.statements import json_field, statements

# Signs that models put before and behind an answer: brackets, quotes, arrows, ticks.
_QUOTE = "\"'\u201c\u201d\u00ab\u00bb\u300c\u300d\u3010\u3011"
_ARROW = "\u2192\u21d2\u27a1\u2234\u2705\u2713\u2714\U0001f449\ufe0f"
_OPENS = rf"(?:[\s{_QUOTE}{_ARROW}(\[<*#>]|[-=]>|- ){{0,9}}(?:(?:option|choice) )?[\"'(\[]?"
_CLOSES = rf"[{_QUOTE}{_ARROW})\]<>*.!\s]{{0,9}}"
_KEY = r"(?:[\w *]{1,40}[:=])?"  # Sentiment: positive
# What may stand behind a denial: `not [call it] exact`, `cannot [be considered] exact`.
_JUDGING = (
    r"(?:(?:call|consider|label|rate|class(?:ify)?|deem|judge|mark|describe|regard|say|think) "
    r"(?:(?:that )?(?:it|this|that|they)(?:'s| is| are)?|them|the \w+)(?: as| to be)? |"
    r"(?:choose|pick|select|recommend) |"
    r"(?:be )?(?:considered|called|label+ed|rated|class(?:ifi)?ed|deemed|judged|described|regarded"
    r"|seen|said to be)(?: as| to be)? |(?:qualify|count|pass|class) as )?"
)
_DENIAL = (
    r"(?:(?:\b(?:(?:can)?not|neither|nor|never|hardly|than|over|instead of|except(?: for)?|"
    r"(?:all|everything|anything|any) but|far from|no(?= [^\W\d_]{2}))|n't) "
    rf"{_JUDGING}"
    r"(?:be )?(?:exactly |entirely |actually |truly )?(?:an? |the |quite |really |option )?|\bnon-)"
    r"[\"'(]?"
)
# How a choice is said to be wrong, and the end of an enumeration.
_RIGHT = r"(?:the |a |my )?(?:right|correct|true|better|best|answer)"
_BE = "(?:would|can|must) be"
_WRONG = rf"(?:also |both |clearly )?(?:wrong|incorrect|false|ruled out|not {_RIGHT})\b"
_IS_WRONG = rf"[\"')\]]? (?:(?:is|was|{_BE}) {_WRONG}|isn't {_RIGHT}\b)"
_ARE_WRONG = rf"[\"')\]]? (?:(?:are|were|{_BE}) {_WRONG}|aren't {_RIGHT}\b)"
_LISTED_END = r"(?=[\"')\]*.!\s]*$|,? (?:and|or) |,)"
_SCALE = r"(?: [a-z]{1,12})? ?(?:\(?\b(?:out )?of |/ ?)"
# A letter counts as a choice in brackets, after `option`, or at the end of a clause after a word.
_WORD_BEFORE = r"(?:(?<!\S)(?:[\u00e8\u00e9]|[^\W\d_](?:[^\W\d_]|')+),? ?|:\s*|[.?!;] )[\"'(\[]?"
_END_OF_SAYING = (  # also with the copulas of Japanese and Korean, and the Chinese word for option
    r"(?![\"'] ?:)(?=[\"')\]]? {0,2}(?:[.,;:!\u3002\uff0c]+(?:\s|$)|\s*$"
    rf"| (?:because|since|as|(?:is|must be) {_RIGHT})\b"
    r"|\u3067\u3059|\uc785\ub2c8\ub2e4|\u9009?\u9879))"
)
# Words that follow neither the article A nor the pronoun I.
_AFTER_LETTER = (
    r"(?! (?!(?:and|n?or|is|because|since|as|but|in|for|with|which|while|not)\b)(?-i:[a-z]))"
)
# What is said behind a choice up to the next claim is why it is meant, and may name others.
_NEXT_CLAIM = r"[.!?;](?:\s|$)|,? (?:but|so|yet|thus|hence|however|therefore)\b"
_REASON = re.compile(
    r" (?:(?:because|since|(?:even )?though|although|despite|whereas)\b"
    rf"(?:(?!{_NEXT_CLAIM})[^\n]){{0,500}}|\(\w+ [^()\n]{{0,500}}\)?)",
    re.IGNORECASE,
)
_JSON = re.compile(r"\{[^{}]*\}")
_FIELDS = (
    *("label", "class", "choice", "category", "relevance", "prediction", "sentiment", "output"),
    "result",
)


class Choice:
    """Compares the choice that an output names with {"answer": one of "choices"}.

    The choice is that of the last statement (`Answer: B`, `the answer is B`, JSON, a box); else of
    the last line that consists of a choice (`Sentiment: positive`); else the one with which the
    output begins (`Yes, ...`, `B) ...`); else the one named last. What follows is taken as its
    reason. A denied choice (`not B`, `B is wrong`, `B, or rather C`) does not count. If several are
    offered (`B or C`, `B, C`), none counts; nor if the output ends with all of them, one per line,
    as in the question.

    A choice must be a separate word, in any case; of two that match, the longer one was meant. In
    prose, a single letter counts only in its own case and not as an article (`A dog`, `no idea`).
    If it is the one named last, it must be set off (`(B)`, `option B`, `so it is B.`, but not `3
    C`). What follows it after `because`, `although` or in brackets is its reason. A choice 1 is not
    named by -1 or 1.5, and a choice 5 not by `2 out of 5` or `2/5`.
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        choices = Choices(str(choice) for choice in reference["choices"])
        found = choices.named(output)
        shown = None if found is None else choices.written.get(found)
        return Verdict(
            shown is not None and found == normalise_choice(str(reference["answer"])), shown
        )


class Choices:
    """The choices of a row; `written` is {normalised choice: the choice as the row has it}."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.written = {normalise_choice(choice): choice for choice in choices}
        # The longest first: if one choice contains another, the longer one was meant.
        said = (normalise(one).strip() for one in self.written.values())
        texts = sorted((_bare(one) or one for one in said), key=len)[::-1]
        any_case, first, prose = (
            "|".join(_pattern_of(one, where) for one in texts)
            for where in ("alone", "first", "prose")
        )
        start, end = rf"(?<![^\W_{SPACELESS}])", rf"(?![^\W_{SPACELESS}])"
        named = rf"{start}({prose}){end}"
        self._named = _compile(named)
        self._denied = _compile(
            rf"{_DENIAL}{named}"
            rf"(?:(?:, ?[\"'(\[]?{named}[\"')\]]?){{0,9}},? or (?:an? )?[\"'(\[]?{named})?"
        )
        self._wrong = _compile(
            rf"(?:{named}[\"')\]]?(?:,? (?:and |or )?[\"'(\[]?)){{0,9}}{named}{_ARE_WRONG}"
            rf"|{named}(?:{_IS_WRONG}|[\"')\]]?,? or rather\b)"
        )
        self._offered = _compile(
            rf"{named}[\"')\]]? ?(?:,? ?(?:or|and|to)|[/|&+]) ?(?:an? |the )?{_OPENS}$"
        )
        self._enumerated = _compile(rf"{named}[\"')\]]?, ?{_OPENS}({prose}){end}{_LISTED_END}")
        letters = (
            "|".join(f"(?-i:{one})" + _behind(one) for one in texts if _is_letter(one)) or "(?!)"
        )
        self._set_off = _compile(
            rf"(?<!\S)[(\[\"']({letters})[)\]\"'](?! ?[-+*/^=(_])(?!(?<=[\"']) ?:)"
            rf"|\b(?:option|choice) ({letters})\b"
            rf"|(?:^(?<![\s\S])|{_WORD_BEFORE}|[{SPACELESS}] ?)({letters}){_END_OF_SAYING}"
        )
        self._item = _compile(rf"{_OPENS}(?:\d{{1,2}}[.)] ?)?({any_case}){end}")
        numbers = [one for one in texts if re.fullmatch(r"\d+", one)]
        most = max(numbers, key=int) if len(numbers) > 2 else None
        self._scale = None if most is None else _compile(rf"(?<=\d){_SCALE}{most}(?!\d)")
        self._line = _compile(rf"{_OPENS}{_KEY}{_OPENS}({any_case}){_CLOSES}")
        self._first = _compile(rf"{_OPENS}({first}){end}")
        self._begins = _compile(
            rf"{_OPENS}(?:({any_case})(?=[\"')\]*]* {{0,2}}(?:\.(?!\.)|[,:;!)]| \(| - |$))"
            rf"|(yes) (?!or|and|[&/+]))"
        )
        self._marked = _compile(rf"{start}({first})[):]")
        self._marked_line = _compile(rf"^({_OPENS})({first})[):.]")

    def named(self, output: str) -> str | None:
        """The normalised choice that an output names; None if it names none, or several."""
        output = output.replace("\\_", "_")  # an escape of Markdown
        if self._scale is not None:
            output = self._scale.sub("", output)
        for said in statements(output, is_label=True):
            stated = self._stated(said)
            if stated is not None:
                return stated or None
        text = normalise(output)
        for block in reversed(_JSON.findall(text)):
            field = json_field(block, _FIELDS)
            if field and (whole := self._line.fullmatch(field)):
                return _fold(whole[1])
        lines = [line for line in text.split("\n") if line.strip()]
        if self._are_all(lines):
            return None
        for line in reversed(lines):
            if whole := self._line.fullmatch(line):
                return _fold(whole[1])
        text = self._undenied(text)
        return self._begun_with(text) or self._last(text)

    def _stated(self, said: str) -> str | None:
        """The choice in a statement; "" if it offers several, None if it names none."""
        said = self._undenied(said)
        first = self._first.match(said) or self._named.search(said)
        if first is None:
            whole = self._begins.match(said)
            return _fold(whole[1]) if whole and whole[1] else None
        if (listed := self._enumerated.search(said)) and listed.start(1) <= first.start(1):
            return ""
        others = self._named.search(said, first.end())
        if others and self._offered.search(said, first.start(1), others.start(1)):
            return ""
        return _fold(first[1])

    def _undenied(self, text: str) -> str:
        """The text without denied choices, unless a text like `not toxic` is a choice itself."""
        text = self._denied.sub(lambda said: said[0] if self._named.match(said[0]) else " ", text)
        return self._wrong.sub(" ", text)

    def _are_all(self, lines: Sequence[str]) -> bool:
        """Whether the last lines are the row's choices in their order, three or more."""
        ends = [self._item.match(line) for line in lines[-len(self.written) :]]
        named = [_fold(line[1]) for line in ends if line]
        return len(named) > 2 and named == list(self.written)

    def _begun_with(self, text: str) -> str | None:
        """The choice with which a text begins; not of a list (`A, B or C?`, `A) no. B) yes.`)."""
        begins = self._begins.match(text)
        if begins is None:
            return None
        first = _fold(begins[1] or begins[2])
        if first not in self.written or self._enumerated.match(text):
            return None
        line, _, below = text.lstrip().partition("\n")
        # Lines below are of one list with the first only if they begin with the same marks.
        mark = text[: begins.start(begins.lastindex or 0)].strip()
        items = self._marked_line.findall(below)
        marked = {*self._marked.findall(line), *(one for own, one in items if own.strip() == mark)}
        return first if {_fold(one) for one in marked} <= {first} else None

    def _last(self, text: str) -> str | None:
        """The choice named last; a letter must be set off, as C may also mean coulomb."""
        text = _REASON.sub(
            lambda said: "." if self._is_reason(text, said.start()) else said[0], text
        )
        set_off = {match.end(match.lastindex or 0) for match in self._set_off.finditer(text)}
        mentions = list(self._named.finditer(text))
        meant = (
            place
            for place, one in reversed(list(enumerate(mentions)))
            if not _is_letter(one[1]) or one.end(1) in set_off
        )
        place = next(meant, None)
        if place is None:
            return None
        beside = mentions[max(place - 1, 0) : place + 2]
        if any(self._are_offered(text, one, other) for one, other in itertools.pairwise(beside)):
            return None
        return _fold(mentions[place][1])

    def _is_reason(self, text: str, place: int) -> bool:
        """Whether the sentence that goes on at a place has named a choice before."""
        sentence = re.split(r"[.!?;\n]", text[max(place - 200, 0) : place])[-1]
        return self._named.search(sentence) is not None

    def _are_offered(self, text: str, one: re.Match[str], other: re.Match[str]) -> bool:
        """Whether two consecutive mentions belong to a list or an either-or."""
        listed = self._enumerated.match(text, one.start())
        is_listed = listed is not None and listed.start(2) == other.start(1)
        return is_listed or self._offered.search(text, 0, other.start(1)) is not None


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


def _pattern_of(choice: str, where: str) -> str:
    """The pattern of a choice if it is `alone`, the `first` in a statement, or in `prose`."""
    form, is_word = re.escape(choice), choice in ("A", "I", "a")
    if re.fullmatch(r"\d[\d.,]*", choice):
        return rf"(?<![-.])(?<!\d,){form}(?![-.,]\d)"
    if choice.lower() == "no" and where == "prose":
        return form + "(?! (?!and|or|because|since|as|it|they|he|she|this|that|there|not)[a-z])"
    if not _is_letter(choice):
        return form
    if where == "alone":
        return form + _behind(choice)
    form = f"(?-i:{form})" if where == "prose" or (is_word and choice.isupper()) else form
    return form + (_AFTER_LETTER if is_word else "")


def _behind(letter: str) -> str:
    """What may not follow a letter that stands for itself: `I, for one` is the pronoun."""
    return "(?!,)" if letter == "I" else ""


def _is_letter(choice: str) -> bool:
    return len(choice) == 1 and choice.isalpha()


def normalise_choice(text: str) -> str:
    """The text of a choice for comparisons: no markup, case, full stop, or brackets of a letter."""
    return _fold(normalise(text))


def _fold(text: str) -> str:
    """The same for a text that is normalised already; doing that twice would change 5k^2."""
    return _bare(" ".join(text.split()).casefold())


def _bare(text: str) -> str:
    """`B` of `(B)`, `B)` and `B.`"""
    return re.sub(r"^[(\[]?(\w)[)\]]$", r"\1", text.rstrip("."))
