"""A model's tokenizer, and which of its tokens count as targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError
from talr_cli.models.sources import ModelSource, resolve_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that is no target


def load_tokenizer(source: ModelSource, config: Any) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token."""
    from transformers import AutoTokenizer

    if not (source.directory / "tokenizer_config.json").exists():
        source = resolve_base(source, config)  # an adapter saved without its tokenizer
    tokenizer = AutoTokenizer.from_pretrained(
        source.directory, trust_remote_code=config.trust_remote_code
    )
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {source.origin} has no chat template: use an instruct model, "
            "or put a chat_template.jinja beside its tokenizer"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
