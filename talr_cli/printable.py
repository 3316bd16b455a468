"""What is written for people: text of others, where what acts unseen is spelt out, and rates.

A name or an answer may hold escape sequences that recolour or rewrite a terminal, line ends that
break a table, marks that turn the direction of writing, halves of characters that no file can hold.
"""

import re
import shlex
import unicodedata
from collections.abc import Sequence

_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}  # controls, halves of characters, line and paragraph ends
_UNSEEN = set("\u00ad\u200b\u2060\ufeff")  # two names that differ by them would look alike
_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    r"""The text in one line; of what cannot be seen the escape sequence, such as `\n` or `\x1b`."""
    if text.isprintable():
        return text
    return "".join(_spelt(character) for character in text)


def printable_lines(text: str) -> str:
    """As `printable`, where line ends and tabs stay what they are."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def command_line(words: Sequence[str]) -> str:
    """The words as a line for bash, in which line ends and the like are spelt out."""
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if printable(word) != word:
        plain = word.replace("\\", "\\\\").replace("'", "\\'")
        return f"$'{printable(plain)}'"
    # shlex writes each ' as '"'"', which nobody can read; these characters act between ".
    if "'" in word and not re.search(r'["$`\\!]', word):
        return f'"{word}"'
    return shlex.quote(word)


def rate_text(rate: float) -> str:
    """A learning rate as it is written everywhere: `1e-4`, `2.5e-5`; from a hundredth on `0.02`."""
    if not 0 < abs(rate) < 0.01:
        return f"{rate:g}"
    digits, exponent = f"{rate:.5e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def _spelt(character: str) -> str:
    if character in _DIRECTIONS | _UNSEEN or unicodedata.category(character) in _CATEGORIES:
        return character.encode("unicode_escape").decode("ascii")
    return character
