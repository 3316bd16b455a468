"""What is refused before a run is begun: what does not fit its model."""

import importlib.util

import pytest
from conftest import config, jsonl

from talr_cli.errors import UserError
from talr_cli.models.checks import check_top_k
from talr_cli.run.prepare import _check_adapter, _check_training, prepare


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ("[nosuch]", r"cannot be put on tiny: .*'nosuch'"),
        ("[q_proj,v_prj]", "tiny has no module 'v_prj'"),
        ("[q_proj,q_pro]", "tiny has no module 'q_pro'"),
        ("[proj]", "cannot be put on tiny: "),
        ("5", "cannot be put on tiny: "),
        ("'[*'", "cannot be put on tiny: "),  # no regular expression
        ("[lm_head]", "names the model's head"),
        ("[q_proj]", None),
        ("[self_attn.q_proj,model.layers.1.mlp.up_proj]", None),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_line(modules, said, tiny_source):
    asked = config("train", "model=tiny", "adapter=lora", f"adapter.target_modules={modules}")
    if said is None:
        _check_adapter(asked, tiny_source)
        return
    with pytest.raises(UserError, match=said) as error:
        _check_adapter(asked, tiny_source)
    assert "\n" not in str(error.value)


def test_more_of_the_likeliest_tokens_than_the_model_has_are_refused(tmp_path, tokenizer):
    typed = ("model=tiny", "method=eaft", "device=cpu", "logger=none", f"runs_dir={tmp_path}")
    with pytest.raises(
        UserError, match=f"top_k={len(tokenizer) + 1}: the model has {len(tokenizer)}"
    ):
        prepare(config("train", *typed, f"objective.top_k={len(tokenizer) + 1}"))
    assert not [*tmp_path.iterdir()]
    check_top_k({"text_config": {"vocab_size": 20}}, 20)
    check_top_k({"vocab_size": 20}, None)
    with pytest.raises(UserError):
        check_top_k({"text_config": {"vocab_size": 20}}, 21)


def test_an_optimizer_that_compiles_its_update_is_refused_without_a_compiler(monkeypatch):
    """Else it fails in its first step, after the model was loaded and a batch went through it."""
    asked = config("train", "model=tiny", "optimizer=adamw-bf16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    _check_training(asked, "cuda", "bf16")
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = "^optimizer=adamw-bf16 needs a compiler for C.., .* or use optimizer=adamw$"
    with pytest.raises(UserError, match=said):
        _check_training(asked, "cuda", "bf16")


def test_overlap_is_that_of_the_rows_that_are_scored(tmp_path, caplog):
    """Of ten test rows two are scored, and the one of them that is trained on is half of them."""
    rows = [{"prompt": str(n), "completion": "x"} for n in range(20)]
    (tmp_path / "test.jsonl").write_text(jsonl(rows[:10]))
    typed = ["model=tiny", "device=cpu", "logger=none", f"runs_dir={tmp_path}", "dataset=jsonl"]
    typed += [f"dataset.{one}={tmp_path}/{one}.jsonl" for one in ("train", "test")]
    typed += ["domain.limit=2"]
    (tmp_path / "train.jsonl").write_text(jsonl([*rows[3:7], *rows[10:]]))  # neither 2 nor 7
    prepare(config("train", *typed))
    assert "occur in training" not in caplog.text
    (tmp_path / "train.jsonl").write_text(jsonl([rows[2], *rows[10:]]))
    with pytest.raises(UserError, match="1 of 2 test prompts also occur in training"):
        prepare(config("train", *typed))
