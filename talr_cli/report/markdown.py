"""Text of others in Markdown: it is shown as it is, makes no link and breaks no table."""

import re

from talr_cli.printable import printable

# Underscores within a word are no markup, and brackets are none without a target.
_MARKUP = re.compile(r"[\\`*<>|~$&#]|(?<![^\W_])_|_(?![^\W_])|\](?=\()|!(?=\[)")


def escaped(text: str) -> str:
    """The text for a line or a cell of a table."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def code(text: str) -> str:
    """The text as code, between more backticks than it has in a row."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"
