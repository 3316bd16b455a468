"""Computes small arithmetic expressions written by a model; they are parsed, never run as code.

Knows text that went through `numbers.normalise`.
"""

import math
import re

from talr_cli.scorers.numbers import NUMBER, to_float

_TOKEN = re.compile(rf"\s*({NUMBER}|[-+*/^()\u221a\u03c0])")
_MOST_TOKENS = 100


def parse_expression(text: str) -> float | None:
    """The value of an arithmetic expression; None if the text is not one.

    It may have numbers, the letter pi, + - * / ^, square roots and brackets.
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


# Recursive descent: each function takes tokens and returns (value, remaining tokens).


def _sum(tokens: list[str]) -> tuple[float, list[str]]:
    value, rest = _product(tokens)
    while rest and rest[0] in "+-":
        term, after = _product(rest[1:])
        value, rest = (value + term if rest[0] == "+" else value - term), after
    return value, rest


def _product(tokens: list[str]) -> tuple[float, list[str]]:
    value, rest = _power(tokens)
    while rest and rest[0] in "*/\u221a\u03c0":
        # A number directly before a root or pi is a factor.
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
        if value < 0 and exponent != int(exponent):
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
