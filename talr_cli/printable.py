"""Makes text safe to print, and formats learning rates.

Names and answers may contain escape sequences that recolour or rewrite a terminal, newlines that
break a table, marks that change the direction of writing, or lone surrogates that cannot be
encoded. Such characters are replaced by visible escapes.
"""

import re
import shlex
import unicodedata
from collections.abc import Sequence

_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, line and paragraph separators
_INVISIBLE = set("\u00ad\u200b\u2060\ufeff")  # names that differ only in these look the same
_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    r"""The text as one line, with invisible characters as escapes such as `\n` or `\x1b`."""
    if text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def printable_lines(text: str) -> str:
    """The same as `printable`, but newlines and tabs stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def command_line(words: Sequence[str]) -> str:
    """The words as a command line for bash, with newlines and the like as escapes."""
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if printable(word) != word:
        plain = word.replace("\\", "\\\\").replace("'", "\\'")
        return f"$'{printable(plain)}'"
    # shlex writes each ' as '"'"', which is hard to read. Within " only these are special.
    if "'" in word and not re.search(r'["$`\\!]', word):
        return f'"{word}"'
    return shlex.quote(word)


def rate_text(rate: float) -> str:
    """A learning rate as it is written everywhere: `1e-4`, `2.5e-5`, and from 0.01 on `0.02`."""
    if not 0 < abs(rate) < 0.01:
        return f"{rate:g}"
    digits, exponent = f"{rate:.5e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def _escape(character: str) -> str:
    if character in _DIRECTIONS | _INVISIBLE or unicodedata.category(character) in _CATEGORIES:
        return character.encode("unicode_escape").decode("ascii")
    return character
