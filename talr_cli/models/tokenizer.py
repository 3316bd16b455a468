"""Loads a model's tokenizer, with a chat template whose output does not change with the date."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli.errors import UserError, reason_of
from talr_cli.models.adapter import full_model_source
from talr_cli.models.config import ModelConfig
from talr_cli.models.sources import ModelSource
from talr_cli.runs.atomic import read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

IGNORED = -100  # the label of a token that is not a target
# The files of a tokenizer's vocabulary, for all kinds of tokenizers.
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab*", "merges.txt", "*.tiktoken", "tekken.json")
_CLOCK = "strftime_now"  # the function that transformers provides to templates


def load_tokenizer(source: ModelSource, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token and a chat template with a fixed date.

    Raises:
        UserError: It cannot be read, or it lacks a chat template or an end token.
    """
    from transformers import AutoTokenizer

    has_own = (source.directory / "tokenizer_config.json").exists()
    if not has_own:
        source = full_model_source(source, config)  # an adapter saved without its tokenizer
    lacks = (
        f"{source.directory} holds no tokenizer, as a training saves none that it was not given: "
        "copy tokenizer.json, tokenizer_config.json and the like from the model that it began with"
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.directory, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # a damaged file may cause errors of any kind
        if not _has_vocabulary(source.directory):
            raise UserError(lacks) from error
        reason = reason_of(error, max_chars=200)
        if "tiktoken" in reason:  # transformers' last attempt at a tokenizer.model
            reason += " Most are sentencepiece's: `pip install sentencepiece` reads those."
        raise UserError(f"cannot load the tokenizer of {source.origin}: {reason}") from error
    if tokenizer.vocab_files_names and not _has_vocabulary(source.directory):
        raise UserError(lacks)
    if config.chat_template is not None:
        tokenizer.chat_template = _read_template(Path(config.chat_template).expanduser())
    older = source.directory / "chat_template.json"  # of models that read pictures too
    if tokenizer.chat_template is None and older.is_file():
        tokenizer.chat_template = read_json_object(older, "give model.chat_template=FILE").get(
            "chat_template"
        )
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {source.origin} has no chat template: use an instruct model, "
            "or give one with model.chat_template=FILE"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {source.origin} has no end token, so that no answer would end: "
            "set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    _draw_no_tokens(tokenizer, source)
    tokenizer.chat_template = _fix_date(tokenizer.chat_template, config.date)
    return tokenizer


def _draw_no_tokens(tokenizer: Any, source: ModelSource) -> None:
    """Turn BPE dropout off, and refuse sentencepiece's sampling.

    With either, a row would have other tokens in each process, and a prompt others than in
    training.
    """
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if getattr(model, "dropout", None):
        log.warning(
            "the tokenizer draws the tokens of a text at random (a dropout of %g): that is off "
            "here, and in what is saved",
            model.dropout,
        )
        model.dropout = None
    if getattr(tokenizer, "sp_model_kwargs", {}).get("enable_sampling"):
        raise UserError(
            f"the tokenizer of {source.origin} draws the tokens of a text at random: take "
            "enable_sampling out of sp_model_kwargs in its tokenizer_config.json"
        )


def _has_vocabulary(folder: Path) -> bool:
    """Whether there is a vocabulary; without one transformers may create an empty tokenizer."""
    return any(found for pattern in _VOCABULARIES for found in folder.glob(pattern))


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"model.chat_template={file} cannot be read: {error}") from error


def _fix_date(template: Any, day: str) -> Any:
    """The template, or {name: template}, with the date fixed to `day`.

    With a template that prints today's date, prompts would be different every day. The clock is
    replaced by a macro in the template itself, so that it applies wherever the template is
    rendered, also in lm-eval and in the saved model.
    """
    if isinstance(template, dict):
        return {name: _fix_date(text, day) for name, text in template.items()}
    if _CLOCK not in template:
        return template
    try:
        date = datetime.date.fromisoformat(day)
    except ValueError as error:
        raise UserError(f"model.date={day} is not a day such as 2025-01-31") from error
    replaced = "".join(
        f" | replace('{code}', '{date.strftime(code)}')"
        for code in ("%d", "%-d", "%m", "%Y", "%y", "%B", "%b", "%A", "%a", "%j")
    )
    replaced += "".join(f" | replace('{code}', '00')" for code in ("%H", "%M", "%S"))
    # A template that was saved here has such a macro already, which comes later and overrides this.
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro -%}}{template}"
