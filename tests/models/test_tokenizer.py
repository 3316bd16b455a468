"""The tokenizer of a model: its template, its end token, a clock that stands still."""

import json

import pytest
from omegaconf import OmegaConf

from talr_cli.data.rendering import Renderer
from talr_cli.errors import UserError
from talr_cli.models import sources
from talr_cli.models.tokenizer import load_tokenizer

MESSAGES = [{"role": "user", "content": "Hi"}]


def saved(tokenizer, source, folder, template=None, **changes):
    """A copy of a model's folder with another template or other special tokens."""
    for file in source.directory.iterdir():
        if file.name in ("config.json", "model.safetensors"):
            (folder / file.name).symlink_to(file)
    copy = type(tokenizer).from_pretrained(source.directory)
    copy.chat_template = template
    for name, value in changes.items():
        setattr(copy, name, value)
    copy.save_pretrained(folder)
    return sources.directory_source(folder)


def changed(config, **changes):
    return OmegaConf.merge(config, changes)


def test_a_model_without_a_template_takes_the_users_file(
    tokenizer, tiny_source, tiny_config, tmp_path
):
    source = saved(tokenizer, tiny_source, tmp_path)
    with pytest.raises(UserError, match=r"model\.chat_template=FILE"):
        load_tokenizer(source, tiny_config)
    file = tmp_path / "mine.jinja"
    config = changed(tiny_config, chat_template=str(file))
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(source, config)
    file.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert Renderer(load_tokenizer(source, config), {}).prompt(MESSAGES) == "user: Hi assistant: "


def test_a_template_in_chat_template_json_is_read(tokenizer, tiny_source, tiny_config, tmp_path):
    """As models that read pictures too have it."""
    source = saved(tokenizer, tiny_source, tmp_path)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}bot: "
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_tokenizer(source, tiny_config).chat_template == template
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(UserError, match=r"chat_template\.json is damaged"):
        load_tokenizer(source, tiny_config)


def test_a_tokenizer_that_draws_tokens_at_random_draws_none(
    tokenizer, tiny_source, tiny_config, tmp_path, caplog, monkeypatch
):
    """Else rows would be encoded otherwise in each process; it is saved without it too."""
    source = saved(tokenizer, tiny_source, tmp_path, tokenizer.chat_template)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["dropout"] = 0.5
    file.write_text(json.dumps(content))
    text, expected = "a tokenizer with dropout", tokenizer("a tokenizer with dropout").input_ids
    drawing = type(tokenizer).from_pretrained(tmp_path)
    assert any(drawing(text).input_ids != expected for _ in range(50))
    loaded = load_tokenizer(source, tiny_config)
    assert "at random (a dropout of 0.5)" in caplog.text
    loaded.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert all(one(text).input_ids == expected for one in (loaded, again) for _ in range(50))
    again.sp_model_kwargs = {"enable_sampling": True, "alpha": 0.1}  # as sentencepiece's have them
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: again)
    with pytest.raises(UserError, match="take enable_sampling out of sp_model_kwargs"):
        load_tokenizer(source, tiny_config)


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer, tiny_source, tiny_config, tmp_path):
    source = saved(tokenizer, tiny_source, tmp_path, "{{ messages }}", eos_token=None)
    with pytest.raises(UserError, match="no end token"):
        load_tokenizer(source, tiny_config)


def test_a_template_prints_the_configured_date(tokenizer, tiny_source, tiny_config, tmp_path):
    template = (
        "{% macro head() %}{{ strftime_now('%A, %d %B %Y, %Y-%m-%d %H:%M') }}{% endmacro %}"
        "{% if strftime_now is defined %}{{ head() }}{% endif %}|"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    source = saved(tokenizer, tiny_source, tmp_path, template)
    config = changed(tiny_config, date="2024-02-29")
    loaded = load_tokenizer(source, config)
    expected = "Thursday, 29 February 2024, 2024-02-29 00:00|Hi"
    assert Renderer(loaded, {}).prompt(MESSAGES) == expected
    # Saved and loaded again, under whatever date, it is what it was trained with.
    loaded.save_pretrained(tmp_path)
    again = load_tokenizer(sources.directory_source(tmp_path), tiny_config)
    assert Renderer(again, {}).prompt(MESSAGES) == expected
    with pytest.raises(UserError, match=r"model\.date=yesterday"):
        load_tokenizer(source, changed(tiny_config, date="yesterday"))
