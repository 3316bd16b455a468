"""Tokenizes the text of a row, with labels on its trained turns.

Knows texts and token ids; does not know templates, or what else a row is checked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from talr_cli.data.template_text import RowText
from talr_cli.models.tokenizer import IGNORED

Tokenize = Callable[[str], list[int]]


def encode_row(
    row: RowText, known: Mapping[str, list[int]], tokenize: Tokenize
) -> tuple[list[int], list[int], bool]:
    """(ids, labels, whether a prompt and its answer were tokenized separately).

    The text is tokenized as a whole. But generation starts from the tokens of the prompt, so if a
    token would span the end of a prompt, the two sides are tokenized separately.

    Args:
        known: The tokens of some texts.
    """
    return _encode_turns(row, known, tokenize) or _encode_prefixes(row, tokenize)


def _encode_turns(
    row: RowText, known: Mapping[str, list[int]], tokenize: Tokenize
) -> tuple[list[int], list[int], bool] | None:
    """As `_encode_prefixes`, in linear time; None if the turns' tokens are not those of the text.

    After a prompt and answer that are tokenized separately, the rest is as if they were not.
    """
    ids: list[int] = []
    labels: list[int] = []
    whole: list[int] = []
    apart = False
    tokens = {text: known.get(text) or tokenize(text) for text in row.parts}
    for (token, prompt, turn), (start, end) in zip(row.turns, row.spans, strict=True):
        before, asked, both = tokens.get(token, []), tokens[prompt], tokens[turn]
        count = len(before)
        if not asked[:count] == both[:count] == before:
            return None
        asked, both = asked[count:], both[count:]
        whole += both
        answer = both[len(asked) :]
        if both[: len(asked)] != asked:
            answer, apart = tokenize(row.text[start:end]), True
        ids += asked + answer
        labels += [IGNORED] * len(asked) + answer
    return (ids, labels, apart) if whole == tokens[row.parts[-1]] else None


def _encode_prefixes(row: RowText, tokenize: Tokenize) -> tuple[list[int], list[int], bool]:
    """From the tokens of all texts up to the end of each prompt and answer."""
    ids: list[int] = []
    labels: list[int] = []
    apart, read = False, 0
    for start, end in row.spans:
        for cut, is_target in ((start, False), (end, True)):
            longer = tokenize(row.text[:cut])
            if longer[: len(ids)] != ids:
                longer = ids + tokenize(row.text[read:cut])
                apart = True
            new = longer[len(ids) :]
            labels += new if is_target else [IGNORED] * len(new)
            ids, read = longer, cut
    return ids, labels, apart
