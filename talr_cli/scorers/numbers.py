r"""Reads numbers in text written by a model; they are parsed, never run as code.

Knows how numbers are written in plain text, in LaTeX and in different countries; does not know
which of them is the answer. docs/scorers.md has a table of the forms.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
NUMBER = (
    rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
    r"(?:[eE][+-]?\d{1,5}(?!\d)|\s?(?:x|\*)\s?10\^\(?[+-]?\d{1,3}\)?)?"
)
# Scripts without spaces between words: a number directly beside their letters is separate.
SPACELESS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
# A separate number: the 2 of m^2, CO2 or m2 is part of a unit, the 4 of FIB-4 part of a name. A
# minus with a space behind it is a sign only where nothing but a number can follow.
_ALONE = re.compile(
    rf"(?<![^\W{SPACELESS}])(?<![\^.])(?<![a-zA-Z]-)(?<!\d,)(?:(?<=[=:(\u2248] )- ?|-)?"
    rf"(?:10\^\(?[+-]?\d{{1,3}}\)?|{NUMBER})"
)
_GOES_ON = re.compile(
    "\\^|[.,]\\d|[eE][+-]?\\d|(?:st|nd|rd|th)\\b|_| ?[\u221a\u03c0]|x(?= ?[-+*/^=}])"
)
_PLAIN = r"\d[\d,]*+(?:\.\d++)?"
_RANGE = re.compile(rf"(?<![\w.^,])(?<![a-zA-Z]-)({_PLAIN}) ?%? ?- ?({_PLAIN})(?! ?[-+*/=^])")
_SHORT = r"-?\d+(?:\.\d+)?"
# The parts of a quantity with two units are not numbers: 5 ft 3 in is neither 5 nor 3.
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
    "|".join(rf"{one}['\"]?,? ?(?:and |['\"])?{_WHOLE} ?{other}" for one, other in _PARTS)
)
_FUNCTION = r"(?:log|ln|lg|a(?:rc)?(?:sin|cos|tan)|sin|cos|tan|cot|exp)(?:_?\d++)?"
MONTH = (
    r"(?-i:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    r"Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
)
# No part of these is a number: dates, times and ratios, bounds and margins, denied numbers, roots,
# functions, tuples, sizes, totals (`out of 5`), other bases, recurring decimals.
_NO_NUMBER = re.compile(
    rf"\b0(?:x[\da-f]++|b[01]++)\b|\d\.\d*+\(\d++\)|{_COMPOUND}|\d{{1,2}} ?h ?\d{{1,2}}\b"
    rf"|(?<![\d.])\d++\.\d*+(?:\\(?:overline|bar|dot|l?dots)\b|\.\.\.)(?: ?\{{?\d++\}}?)?"
    rf"|(?:(?<![\w.,]){_PLAIN} ?)?"
    rf"(?:\\{_FUNCTION}|\b{_FUNCTION}(?= ?\()|\b(?:log|ln)(?:_?\d++)?(?= \d))[ ({{]*+-?{_PLAIN}"
    rf"|(?:(?<![\w.,]){_PLAIN} ?)?\\(?:sqrt ?\[[^\[\]\n]*\]|[dt]?binom ?\{{[^{{}}\n]*\}}) ?"
    rf"(?:\{{[^{{}}\n]*\}}|\d)"
    rf"|\b{MONTH}\.? \d{{1,2}}(?:, ?\d{{4}})?(?!\d)"
    rf"|(?<![\w.,]){_PLAIN} ?x ?(?!10\^){_PLAIN}|\bout of (?:the |a )?{_PLAIN}"
    rf"|(?<=\d) of (?:the |all )?{_PLAIN}"
    rf"|(?<![\d.])\d{{1,4}}([/-])\d{{1,2}}\1\d{{1,4}}(?!\d)"
    rf"|(?<![\d.:]){_SHORT}(?::{_SHORT})+(?!\d)|[<>\u2264\u2265\u00b1]=? ?-?{_PLAIN}"
    rf"|(?:\bnot|n['\u2019]t) (?:equal to )?-?{_PLAIN}(?!\w)"
    rf"|\u221a ?(?:\([^()\n]*\)|[\d.]+)"
    rf"|[(\[{{] ?(?!{_DIGITS} ?[)\]}}]){_SHORT}(?: ?[,;] ?{_SHORT})+ ?[)\]}}]",
    re.IGNORECASE,
)
_SUPERSCRIPTS = str.maketrans(
    "\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "+-0123456789"
)
_SUPERSCRIPT = re.compile("(?<=[\\w)])[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_VULGAR = re.compile(r"(?:(?<![\d.,])(\d{1,9}) ?)?([\u00bc-\u00be\u2150-\u215e])")
_MIXED = re.compile(r"(?<![\w./,^-])(-?)(\d{1,6}) (\d{1,2})/(\d{1,3})(?![\d/^]|\.\d)")
_FRACTION = re.compile(
    r"(?:(?<![\d.,])(\d{1,9}) ?)?\\{1,2}[dtc]?frac ?"
    r"(?:\{([^{}]{1,80})\} ?\{([^{}]{1,80})\}|(\d) ?(\d))"
)
_WEEKS = re.compile(r" ?(?:weeks?|wks?|w)\b", re.IGNORECASE)
_HTML = (
    (re.compile(r"<sup>([-+]?\d{1,9})</sup>", re.IGNORECASE), r"^\1"),
    (re.compile(r"<sub>(\w{1,9})</sub>", re.IGNORECASE), r"_\1"),
    *(
        (re.compile(rf"</?(?:{tags})(?: [^<>\n]{{0,80}})?>", re.IGNORECASE), plain)
        for tags, plain in (("b|i|u|em|strong|mark|span|code", ""), ("t[dh]", " "))
    ),
    (
        re.compile(r"<br ?/?>|</?(?:p|div|tr|li|h[1-6])(?: [^<>\n]{0,80})?>", re.IGNORECASE),
        "\n",
    ),
)
_LATEX = (
    (re.compile(r"\^ ?\{ ?([-+]?[\d.]{1,10}) ?\}"), r"^(\1)"),
    (re.compile(r"_ ?\{ ?(\d{1,3}) ?\}"), r"_\1"),  # of another base, or a logarithm's
    (re.compile(r"(?<=\d)!(?=[}$])"), "_!"),  # a factorial; in prose the sentence is loud
    (re.compile(r" ?\^ ?\{?\\{1,2}circ\}?|\\{1,2}degree\b"), "\u00b0"),
    (re.compile(r"\\{1,2}(?:text|mathrm|mbox|operatorname)(?:bf|it|rm)? ?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\{1,2}(?:textbf|textit|mathbf|boldsymbol|bm) ?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\{1,2}(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\{1,2}div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\{1,2}approx(?![a-zA-Z])"), "\u2248"),
    (re.compile(r"\\{1,2}pm(?![a-zA-Z])"), "\u00b1"),
    (re.compile(r"\\{1,2}pi(?![a-zA-Z])|(?<=\d)(?: |\*)?pi\b"), "\u03c0"),
    (re.compile(r"\\{1,2}sqrt ?\{([^{}\n]*)\}|\bsqrt ?\(([^()\n]*)\)"), "\u221a(\\1\\2)"),
    (re.compile(r"\\{1,2}sqrt ?(?=\d)"), "\u221a"),
    (re.compile(r"\\{1,2}(?:leq?|leqslant|lt)(?![a-zA-Z])"), "\u2264"),
    (re.compile(r"\\{1,2}(?:geq?|geqslant|gt)(?![a-zA-Z])"), "\u2265"),
    (re.compile(r"\\{1,2}(?:left|right)(?=[()\[\]])"), ""),
    (re.compile(r"\\{1,2}(?=%)"), ""),
    (re.compile(r"\\[,;:! ()\[\]]|[`$]|\\(?=\$)"), ""),
)
# Invisible characters, which break words or change the direction of text.
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufe0f]")
_TYPOGRAPHY = (
    (re.compile(r"\b(?:US|CA|AU|NZ|HK|NT|[ACRS])\$(?=-?[.\d])"), "$"),  # US$5 is no name, as US5
    # Thousands separated by a thin or no-break space or an apostrophe, and LaTeX's 1{,}234.
    (re.compile("(?<=\\d)[\u00a0\u2009\u202f'\u2019](?=\\d{3}(?!\\d))"), ""),
    (re.compile(r"\{([.,])\}"), r"\1"),
    (re.compile(r"(?<=\d)\u066b(?=\d)"), "."),  # beside digits of Arabic and Persian
    (re.compile(r"(?<=\d)\u066c(?=\d)"), ","),
    (re.compile(r"(?<=\d)~(?=\d{3}(?!\d))"), " "),
    # A minus before the currency belongs to the number.
    (
        re.compile(
            "(?<![\\w)])[-\u2212\u2013]((?:[\u20ac\u00a3\u00a5\u20b9]|(?:R|US|CA|A) ?\\$|"
            "(?:USD|EUR|GBP|JPY|INR|CNY|CHF)\\b) ?)(?=[.\\d])"
        ),
        r"\1-",
    ),
    (re.compile("[\u2212\u2796] ?(?=[\\d.])"), "-"),  # these characters are never dashes
)
_CUSTOMS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?<![\w.,/])(\d{1,9}) and (?:a|one)[ -]half\b", re.IGNORECASE), r"\1.5"),
    (re.compile(r"[=-]>|\u21d2"), "\u2192"),
    (re.compile(r"\+ ?/ ?-"), "\u00b1"),
    # India's lakhs and crores, 12,34,567.
    (
        re.compile(r"(?<![\w.,])\d{1,2}(?:,\d\d)+,\d{3}(?!\d|,\d)"),
        lambda match: match[0].replace(",", ""),
    ),
    # Points as thousands separators: 1.234,5 and 1.234.567; commas that cannot be such separators.
    (
        re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3}){1,5}(?:,\d+)(?![\w,])|"
                   r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,5}(?!\d|[.,]\d)"),
        lambda match: match[0].replace(".", "").replace(",", "."),
    ),
    (
        re.compile(r"(?<![\w.,(\[])(?<!\\\{)(?:\d+,\d{1,2}|0,\d+)(?!\d|,\d|\.\d)"),
        lambda match: match[0].replace(",", "."),
    ),
)  # fmt: skip
_MARKUP = (
    (re.compile(r"(?<=[\d)])\*\*(?=[\d(])"), "^"),  # Python's power is not markup
    *(
        (re.compile(rf"(?<=\d) {word} (?=[\d.])", re.IGNORECASE), f" {sign} ")
        for word, sign in (
            ("plus", "+"),
            ("minus", "-"),
            ("(?:times|multiplied by)", "*"),
            ("divided by", "/"),
        )
    ),
    (re.compile(r"~~[^~\n]*~~"), " "),  # struck out
    (re.compile(rf"<(-?{NUMBER})>"), r"\1"),  # a number instead of the placeholder <answer>
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
_MYRIADS = {"\u4e07": 4, "\u842c": 4, "\u4ebf": 8, "\u5104": 8, "\uc5b5": 8, "\ub9cc": 4}
_OF_MYRIADS = re.compile(
    rf"(?<![^\W{SPACELESS}])(?<![.,])({NUMBER}) ?([{''.join(_MYRIADS)}])(?! ?\d)"
)
_SCALED = re.compile(rf"(?<![\w.,])({NUMBER})[ -]?({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
# A k directly after a number means thousand. The other letters count only with a currency sign, and
# not in a formula such as $5m$: elsewhere 5m are five metres and 5K five kelvin.
_THOUSANDS = re.compile(rf"(?<![\w.,$\u20ac\u00a3])({NUMBER})k\b(?!\$)")
_MONEY = re.compile(rf"([$\u20ac\u00a3]) ?({NUMBER})(k|mn?|bn?|tn?)\b(?!\$)", re.IGNORECASE)
_OF_MONEY = {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}


class Number(NamedTuple):
    """A number in a text, from `start` up to `end`."""

    value: float
    start: int
    end: int


def normalise(text: str) -> str:
    r"""The text with plain characters: minus, times, powers and fractions as `-`, `*`, `^`, `/`.

    Markup, and LaTeX commands around words and numbers, are removed, and spaces are merged.
    Fractions of two numbers are computed (\frac{7}{2} and 3½ become 3.5), and so are 3 million or
    $3M.
    """
    text = _UNSEEN.sub("", text)
    text = re.sub(r"[^\S\n\u00a0\u2009\u202f]+", " ", text)
    text = _MONEY.sub(lambda match: f"{match[1]}{match[2]} {_OF_MONEY[match[3][0].lower()]}", text)
    text = _THOUSANDS.sub(r"\1 thousand", text)
    for pattern, plain in (*_HTML, *_TYPOGRAPHY):
        text = pattern.sub(plain, text)
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    text = _VULGAR.sub(lambda match: _mixed(match[1], unicodedata.numeric(match[2])), text)
    text = unicodedata.normalize("NFKC", text)
    text = re.sub("[\u2010-\u2015\u2212]", "-", text)
    text = re.sub("[\u00d7\u22c5\u00b7\u2217]", "*", re.sub("[\u00f7\u2044]", "/", text))
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = _FRACTION.sub(_fraction, text)
    for pattern, custom in (*_CUSTOMS, *_MARKUP):
        text = pattern.sub(custom, text)
    text = re.sub(r"[^\S\n]+", " ", text)
    text = _OF_MYRIADS.sub(_scaled, text)
    return _SCALED.sub(_scaled, _MIXED.sub(_mixed_number, text))


def _scaled(match: re.Match[str]) -> str:
    value = to_float(match[1]) * 10 ** (_SCALES | _MYRIADS)[match[2].lower()]
    return f"{value:.0f}" if value.is_integer() else repr(value)


def _mixed(whole: str | None, part: float) -> str:
    return repr(float(whole or 0) + part)


def _mixed_number(match: re.Match[str]) -> str:
    sign, whole, above, below = match.groups()
    if not 0 < int(above) < int(below) or _is_of_days(match, below):
        return match[0]
    return sign + _mixed(whole, int(above) / int(below))


def _is_of_days(match: re.Match[str], below: str) -> bool:
    """Whether a mixed number stands for weeks and days, as in 17 6/7 weeks."""
    return below == "7" and _WEEKS.match(match.string, match.end()) is not None


def _fraction(match: re.Match[str]) -> str:
    whole, above, below = match[1], match[2] or match[4], match[3] or match[5]
    if whole and _is_of_days(match, below):
        return f"{whole} {above}/{below}"
    try:
        part = to_float(above) / to_float(below)
    except (ValueError, ZeroDivisionError):
        return f"{whole or ''}(({above})/({below}))"
    if whole is None:
        return repr(part)
    return _mixed(whole, part) if 0 < part < 1 else f"{whole}*{part!r}"


def find_numbers(text: str) -> list[float]:
    """All numbers in the text that are not part of a word or unit, in order.

    The ends of a range (22.9-23.1), bounds (<3) and parts of dates are not numbers.
    """
    return [number.value for number in scan_numbers(text)]


def scan_numbers(text: str) -> list[Number]:
    """The same as `find_numbers`, with their positions."""
    for pattern in (_NO_NUMBER, _RANGE):
        text = pattern.sub(_mask, text)
    return [
        Number(to_float(match[0]), match.start(), match.end())
        for match in _ALONE.finditer(text)
        if not _GOES_ON.match(text, match.end())
    ]


def _mask(match: re.Match[str]) -> str:
    is_difference = match.re is _RANGE and not is_range(match[0])
    masked = "#" * len(match[0])
    if match[0][0] == "\u221a":  # a factor before a root is not a number either
        masked = "\u221a" + masked[1:]
    return match[0] if is_difference else masked


def is_range(text: str) -> bool:
    """Whether the text is a range: two numbers with a dash between them, the smaller one first."""
    match = _RANGE.fullmatch(text)
    return match is not None and to_float(match[1]) < to_float(match[2])


def to_float(text: str) -> float:
    """Parse a number, perhaps with thousands separators or a power of ten.

    Raises:
        ValueError: The text is not a number.
    """
    plain = re.sub(r"[\s,()]", "", text)
    power = re.fullmatch(r"(?:(.+?)(?:x|\*))?(-?)10\^([+-]?\d+)", plain)
    return float(f"{power[2]}{power[1] or 1}e{power[3]}") if power else float(plain)
