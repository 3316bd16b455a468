"""The rows on which it is tried out how a model can be run: any tokens, and how many there must be.

Knows the model's config; does not know what is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from talr_cli.models.checks import max_positions

SHORT = 14  # tokens of the longest trial row of a model that treats tokens alike at any distance
ANSWER = 3  # tokens that a trial may add to a row
# Parts of the names of values that say from how many tokens on layers do something else: windows of
# attention, chunks of attention and of recurrent layers, tokens that sparse attention picks.
_LIMITS = re.compile("window(?!_layers)|chunk|block_size|local_att|index_topk|compress_rate|floor")
_LINEAR_CHUNK = 64  # of linear attention in transformers, where no config has a name for it


def trial_row(model: Any, length: int, start: int = 3) -> list[int]:
    """So many tokens of a model's vocabulary; another `start` gives others."""
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    return [(7 * place + start) % vocabulary for place in range(length)]


def trial_length(model: Any, width: int) -> int:
    """How many tokens a trial row needs to show all that a model does in batches of this width."""
    text = model.config.get_text_config(decoder=True).to_dict()
    reached = max((one for one in _limits(text) if SHORT <= one < width), default=0)
    most = max_positions(model.config.to_dict()) or reached + SHORT + ANSWER
    return max(SHORT, min(reached + SHORT, most - ANSWER))


def _limits(settings: Mapping[str, Any], of_limit: bool = False) -> Iterator[int]:
    """The numbers of tokens from which on layers may do something else.

    A value whose name only looks like one makes a trial longer than it need be.
    """
    for name, found in settings.items():
        is_limit = of_limit or _LIMITS.search(str(name)) is not None
        if isinstance(found, Mapping):
            yield from _limits(found, is_limit)
        elif is_limit:
            yield from (
                one for one in (found if isinstance(found, list) else [found]) if type(one) is int
            )
        elif str(name).startswith("linear_"):
            yield _LINEAR_CHUNK
