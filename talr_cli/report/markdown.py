"""Untrusted text in Markdown: shown literally, without links, and safe in a table."""

import re

from talr_cli.printable import printable

# Underscores within a word are not markup, nor are brackets without a target.
_MARKUP = re.compile(r"[\\`*<>|~$&#]|(?<![^\W_])_|_(?![^\W_])|\](?=\()|!(?=\[)")


def escaped(text: str) -> str:
    """The text, escaped for a line or a cell of a table."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def code(text: str) -> str:
    """The text as inline code, between more backticks than it contains in a row."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"
