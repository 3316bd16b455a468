r"""Numbers and small arithmetic in text written by a model: parsed, never evaluated as code.

Knows how numbers are written, in plain text, in LaTeX and by other countries' customs; does not
know which of them is the answer. docs/evaluation.md has the forms in a table.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = (
    rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
    r"(?:[eE][+-]?\d{1,5}(?!\d)|\s?(?:x|\*)\s?10\^\(?[+-]?\d{1,3}\)?)?"
)
# A number that stands on its own: the 2 of m^2, of CO2 or of m2 is part of a unit, the 4 of FIB-4
# part of a name. A minus apart from its number is one only where nothing but a number can follow.
_ALONE = re.compile(
    rf"(?<![\w^.])(?<![a-zA-Z]-)(?<!\d,)(?:(?<=[=:(\u2248] )- ?|-)?"
    rf"(?:10\^\(?[+-]?\d{{1,3}}\)?|{_NUMBER})"
)
_GOES_ON = re.compile("\\^|[.,]\\d|[eE][+-]?\\d|(?:st|nd|rd|th)\\b|_| ?[\u221a\u03c0]")
_PLAIN = r"\d[\d,]*+(?:\.\d++)?"
_RANGE = re.compile(rf"(?<![\w.^,])(?<![a-zA-Z]-)({_PLAIN}) ?%? ?- ?({_PLAIN})(?! ?[-+*/=^])")
_SHORT = r"-?\d+(?:\.\d+)?"
# A quantity of two units has no number of its own: 5 ft 3 in are neither 5 nor 3.
_PARTS = (
    (
        r"(?:feet|foot|ft\.?|['\u2032\u2019])",
        r"(?:in(?:ch(?:es)?)?\b|[\"\u201d'\u2032]{1,2}|(?!\w))",
    ),
    (r"(?:years?|yrs?)", r"(?:months?|mos?|weeks?|days?)\b"),
    (r"(?:months?|weeks?|wks?)", r"(?:weeks?|wks?|days?)\b"),
    (r"(?:days?|d)", r"(?:hours?|hrs?|h)\b"),
    (r"(?:hours?|hrs?|h)", r"(?:minutes?|mins?|m)\b"),
    (r"(?:minutes?|mins?|m)", r"(?:seconds?|secs?|s)\b"),
    (r"(?:stones?|st)", r"(?:pounds?|lbs?)\b"),
    (r"(?:pounds?|lbs?)", r"(?:ounces?|oz)\b"),
    (r"(?:dollars?|euros?)", r"cents?\b"),
)
_WHOLE = r"\d++(?:\.\d++)?"
_COMPOUND = rf"(?<![\d.]){_WHOLE} ?(?:{{}})".format(
    "|".join(rf"{one},? ?(?:and )?{_WHOLE} ?{other}" for one, other in _PARTS)
)
# Days, hours and ratios, bounds and margins, what an answer is not, roots, points of several
# numbers, sizes, of how many, other bases, repeating decimals: of these no part is a number.
_NO_NUMBER = re.compile(
    rf"\b0(?:x[\da-f]++|b[01]++)\b|\d\.\d*+\(\d++\)|{_COMPOUND}"
    rf"|(?<![\w.,]){_PLAIN} ?x ?(?!10\^){_PLAIN}|\bout of (?:the |a )?{_PLAIN}"
    rf"|(?<![\d.])\d{{1,4}}([/-])\d{{1,2}}\1\d{{1,4}}(?!\d)"
    rf"|(?<![\d.:]){_SHORT}:{_SHORT}(?!\d)|[<>\u2264\u2265\u00b1]=? ?-?{_PLAIN}"
    rf"|\bnot (?:equal to )?-?{_PLAIN}(?!\w)"
    rf"|\u221a ?(?:\([^()\n]*\)|[\d.]+)"
    rf"|[(\[{{] ?(?!{_DIGITS} ?[)\]}}]){_SHORT}(?: ?[,;] ?{_SHORT})+ ?[)\]}}]",
    re.IGNORECASE,
)
_TOKEN = re.compile(rf"\s*({_NUMBER}|[-+*/^()\u221a\u03c0])")
_MOST_TOKENS = 100
_MOST_EXPONENT = 64

_SUPERSCRIPTS = str.maketrans(
    "\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "+-0123456789"
)
_SUPERSCRIPT = re.compile("(?<=[\\w)])[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_VULGAR = re.compile(r"(?:(?<![\d.,])(\d{1,9}) ?)?([\u00bc-\u00be\u2150-\u215e])")
_MIXED = re.compile(
    r"(?<![\w./,^-])(-?)(\d{1,6}) (\d{1,2})[/\u2044](\d{1,3})(?![\d/^]|\.\d| ?w)", re.IGNORECASE
)
_FRACTION = re.compile(
    r"(?:(?<![\d.,])(\d{1,9}) ?)?\\{1,2}[dtc]?frac ?"
    r"(?:\{([^{}]{1,80})\} ?\{([^{}]{1,80})\}|(\d) ?(\d))"
)
_LATEX = (
    (re.compile(r"\^ ?\{ ?([-+]?[\d.]{1,10}) ?\}"), r"^(\1)"),
    (re.compile(r" ?\^ ?\{?\\{1,2}circ\}?|\\{1,2}degree\b"), "\u00b0"),
    (re.compile(r"\\{1,2}(?:text|mathrm|mbox|operatorname)(?:bf|it|rm)? ?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\{1,2}(?:textbf|textit|mathbf|boldsymbol|bm) ?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\{1,2}(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\{1,2}div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\{1,2}approx(?![a-zA-Z])"), "\u2248"),
    (re.compile(r"\\{1,2}pm(?![a-zA-Z])"), "\u00b1"),
    (re.compile(r"\\{1,2}pi(?![a-zA-Z])"), "\u03c0"),
    (re.compile(r"\\{1,2}sqrt ?\{([^{}\n]*)\}|\bsqrt ?\(([^()\n]*)\)"), "\u221a(\\1\\2)"),
    (re.compile(r"\\{1,2}sqrt ?(?=\d)"), "\u221a"),
    (re.compile(r"\\{1,2}(?:leq?|leqslant|lt)(?![a-zA-Z])"), "\u2264"),
    (re.compile(r"\\{1,2}(?:geq?|geqslant|gt)(?![a-zA-Z])"), "\u2265"),
    (re.compile(r"\\{1,2}(?:left|right)(?=[()\[\]])"), ""),
    (re.compile(r"\\{1,2}(?=%)"), ""),
    (re.compile(r"\\[,;:! ()\[\]]|[`$]|\\(?=\$)"), ""),
)
_TYPOGRAPHY = (
    # Thousands apart by a thin or fixed space or an apostrophe, and LaTeX's 1{,}234.
    (re.compile("(?<=\\d)[\u00a0\u2009\u202f'\u2019](?=\\d{3}(?!\\d))"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile("\u2212 ?(?=[\\d.])"), "-"),  # this sign is never a dash
)
_CUSTOMS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"[=-]>|\u21d2"), "\u2192"),
    (re.compile(r"\+ ?/ ?-"), "\u00b1"),
    # India's lakhs and crores, 12,34,567.
    (
        re.compile(r"(?<![\w.,])\d{1,2}(?:,\d\d)+,\d{3}(?!\d|,\d)"),
        lambda match: match[0].replace(",", ""),
    ),
    # Points between thousands: 1.234,5 and 1.234.567; a comma that cannot be between thousands.
    (
        re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3}){1,5}(?:,\d+)(?![\w,])|"
                   r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,5}(?![\d.,])"),
        lambda match: match[0].replace(".", "").replace(",", "."),
    ),
    (
        re.compile(r"(?<![\w.,(\[])(?:\d+,\d{1,2}|0,\d+)(?!\d|,\d|\.\d)"),
        lambda match: match[0].replace(",", "."),
    ),
)  # fmt: skip
_MARKUP = (
    (re.compile(r"(?<=[\d)])\*\*(?=[\d(])"), "^"),  # Python's power is no markup
    (re.compile(r"[*_]{2,}"), ""),
    (re.compile(r"(?<![\w*)] )(?<!\S)([*_])([^\s*_][^*_\n]{0,60})\1(?=[\s.,;:!?)]|$)"), r"\2"),
    # Where nothing but a number can follow: 10 minus 5 is a difference.
    (
        re.compile(
            r"(^|[=:({\u2248]|\b(?:is|was|are|be|equals?|to|of|about|approximately))( ?)"
            r"(?:minus|negative) (?=[.\d])",
            re.IGNORECASE | re.MULTILINE,
        ),
        r"\1\2-",
    ),
)


_SCALES = {
    **{"thousand": 3, "lakh": 5, "million": 6, "crore": 7, "billion": 9, "trillion": 12},
    **{"mio": 6, "mln": 6, "bn": 9},
}
_SCALED = re.compile(rf"(?<![\w.,])({_NUMBER})[ -]?({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
# A k at its number is a thousand. The others count only beside a currency sign, and not in a
# formula, $5m$: elsewhere 5m are five metres and 5K five kelvin.
_THOUSANDS = re.compile(rf"(?<![\w.,$\u20ac\u00a3])({_NUMBER})k\b(?!\$)")
_MONEY = re.compile(rf"([$\u20ac\u00a3]) ?({_NUMBER})(k|mn?|bn?|tn?)\b(?!\$)", re.IGNORECASE)
_OF_MONEY = {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}


class Number(NamedTuple):
    """A number in a text, from `start` up to `end`."""

    value: float
    start: int
    end: int


def normalise(text: str) -> str:
    r"""The same text in plain signs: minus, times, powers and fractions as `-`, `*`, `^`, `/`.

    Markup and the commands of LaTeX around words and numbers are taken off; runs of spaces are
    one. Fractions of two numbers are computed: \frac{7}{2} and 3½ are 3.5; so are 3 million, $3M.
    """
    text = re.sub(r"[^\S\n\u00a0\u2009\u202f]+", " ", text)
    text = _MONEY.sub(lambda match: f"{match[1]}{match[2]} {_OF_MONEY[match[3][0].lower()]}", text)
    text = _THOUSANDS.sub(r"\1 thousand", text)
    for pattern, plain in _TYPOGRAPHY:
        text = pattern.sub(plain, text)
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    text = _VULGAR.sub(lambda match: _mixed(match[1], unicodedata.numeric(match[2])), text)
    text = unicodedata.normalize("NFKC", text)
    text = re.sub("[\u2010-\u2015\u2212]", "-", text)
    text = re.sub("[\u00d7\u22c5\u00b7\u2217]", "*", text.replace("\u00f7", "/"))
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = _FRACTION.sub(_fraction, text)
    for pattern, custom in (*_CUSTOMS, *_MARKUP):
        text = pattern.sub(custom, text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return _SCALED.sub(_scaled, _MIXED.sub(_mixed_number, text))


def _scaled(match: re.Match[str]) -> str:
    value = to_float(match[1]) * 10 ** _SCALES[match[2].lower()]
    return f"{value:.0f}" if value.is_integer() else repr(value)


def _mixed(whole: str | None, part: float) -> str:
    return repr(float(whole or 0) + part)


def _mixed_number(match: re.Match[str]) -> str:
    sign, whole, above, below = match.groups()
    if not 0 < int(above) < int(below):
        return match[0]
    return sign + _mixed(whole, int(above) / int(below))


def _fraction(match: re.Match[str]) -> str:
    whole, above, below = match[1], match[2] or match[4], match[3] or match[5]
    try:
        part = to_float(above) / to_float(below)
    except (ValueError, ZeroDivisionError):
        return f"{whole or ''}(({above})/({below}))"
    if whole is None:
        return repr(part)
    return _mixed(whole, part) if 0 < part < 1 else f"{whole}*{part!r}"


def find_numbers(text: str) -> list[float]:
    """Every number in the text that is not part of a word or a unit, in order.

    The ends of a range (22.9-23.1) and bounds (<3) are none, nor are dates.
    """
    return [number.value for number in scan(text)]


def scan(text: str) -> list[Number]:
    """As `find_numbers`, with their places."""
    for pattern in (_NO_NUMBER, _RANGE):
        text = pattern.sub(_masked, text)
    return [
        Number(to_float(match[0]), match.start(), match.end())
        for match in _ALONE.finditer(text)
        if not _GOES_ON.match(text, match.end())
    ]


def _masked(match: re.Match[str]) -> str:
    is_difference = match.re is _RANGE and not is_range(match[0])
    masked = "#" * len(match[0])
    if match[0][0] == "\u221a":  # what stands before a root is no number either
        masked = "\u221a" + masked[1:]
    return match[0] if is_difference else masked


def is_range(text: str) -> bool:
    """Whether the text is two numbers with a dash between them, the smaller one first."""
    match = _RANGE.fullmatch(text)
    return match is not None and to_float(match[1]) < to_float(match[2])


def to_float(text: str) -> float:
    """One number: thousands separators and powers of ten as people write them.

    Raises:
        ValueError: It is none.
    """
    plain = re.sub(r"[\s,()]", "", text)
    power = re.fullmatch(r"(?:(.+?)(?:x|\*))?(-?)10\^([+-]?\d+)", plain)
    return float(f"{power[2]}{power[1] or 1}e{power[3]}") if power else float(plain)


def parse_expression(text: str) -> float | None:
    """The value of an arithmetic expression, None if it is not one.

    It has numbers, pi as its letter, + - * / ^, square roots and brackets.
    """
    tokens: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) == _MOST_TOKENS:
            return None
        tokens.append(match[1])
        position = match.end()
    try:
        value, rest = _sum(tokens)
    except (IndexError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return value if not rest and math.isfinite(value) else None


# Recursive descent: each function takes the tokens, returns a value and the tokens left.


def _sum(tokens: list[str]) -> tuple[float, list[str]]:
    value, rest = _product(tokens)
    while rest and rest[0] in "+-":
        term, after = _product(rest[1:])
        value, rest = (value + term if rest[0] == "+" else value - term), after
    return value, rest


def _product(tokens: list[str]) -> tuple[float, list[str]]:
    value, rest = _power(tokens)
    while rest and rest[0] in "*/\u221a\u03c0":
        # A number right before a root or pi is multiplied by it.
        factor, after = _power(rest[1:] if rest[0] in "*/" else rest)
        value, rest = (value / factor if rest[0] == "/" else value * factor), after
    return value, rest


def _power(tokens: list[str]) -> tuple[float, list[str]]:
    if tokens[0] == "-":
        value, rest = _power(tokens[1:])
        return -value, rest
    if tokens[0] == "\u221a":
        value, rest = _power(tokens[1:])
        return math.sqrt(value), rest
    value, rest = _atom(tokens)
    if rest and rest[0] == "^":
        exponent, rest = _power(rest[1:])
        if abs(exponent) > _MOST_EXPONENT or (value < 0 and exponent != int(exponent)):
            raise ValueError("not a power we compute")
        value = value**exponent
    return value, rest


def _atom(tokens: list[str]) -> tuple[float, list[str]]:
    if tokens[0] == "(":
        value, rest = _sum(tokens[1:])
        if rest[0] != ")":
            raise ValueError("bracket not closed")
        return value, rest[1:]
    return math.pi if tokens[0] == "\u03c0" else to_float(tokens[0]), tokens[1:]
