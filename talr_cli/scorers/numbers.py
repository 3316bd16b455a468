"""Numbers and small arithmetic in text written by a model: parsed, never evaluated as code."""

from __future__ import annotations

import math
import re
import unicodedata

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = (
    rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,3}}|\s*(?:x|\*)\s*10\^\(?[+-]?\d{{1,3}}\)?)?"
)
# A number that stands on its own: the 2 of m^2, of CO2 or of m2 is part of a unit, the 4 of FIB-4
# part of a name.
_ALONE = re.compile(
    rf"(?<![a-zA-Z]-)(?<![\w^.])(?:(?<!\d,)-?\s?{_NUMBER}(?![\w^])|-?{_NUMBER}(?=[a-zA-Z%°µ]))"
)
_TOKEN = re.compile(rf"\s*({_NUMBER}|[-+*/^()])")
_MOST_TOKENS = 100
_MOST_EXPONENT = 64


def normalise(text: str) -> str:
    """Typographic minus signs, times signs and spaces as plain ones; markup taken off."""
    # Thousands apart by a thin or fixed space, and LaTeX's 1{,}234.
    text = re.sub("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))", "", text).replace("{,}", ",")
    text = unicodedata.normalize("NFKC", text)
    text = re.sub("[\u2010-\u2015\u2212]", "-", text)
    text = text.replace("\u00d7", "*").replace("\u00f7", "/").replace("\\times", "*")
    text = re.sub(r"(?<=[\d)])\*\*(?=[\d(])", "^", text)  # Python's power is no markup
    return re.sub(r"[*_]{2,}|[`$]|\\[,;! ]", "", text)


def find_numbers(text: str) -> list[float]:
    """Every number in the text that is not part of a word or a unit, in order."""
    return [to_float(match.group()) for match in _ALONE.finditer(text)]


def to_float(text: str) -> float:
    """One number: thousands separators and powers of ten as people write them."""
    plain = re.sub(r"[\s,]", "", text)
    power = re.fullmatch(r"(.+?)(?:x|\*)10\^\(?([+-]?\d+)\)?", plain)
    return float(f"{power[1]}e{power[2]}") if power else float(plain)


def parse_expression(text: str) -> float | None:
    """The value of an arithmetic expression (+ - * / ^ and brackets), None if it is not one."""
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
    while rest and rest[0] in "*/":
        factor, after = _power(rest[1:])
        value, rest = (value * factor if rest[0] == "*" else value / factor), after
    return value, rest


def _power(tokens: list[str]) -> tuple[float, list[str]]:
    if tokens[0] == "-":
        value, rest = _power(tokens[1:])
        return -value, rest
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
    return to_float(tokens[0]), tokens[1:]
