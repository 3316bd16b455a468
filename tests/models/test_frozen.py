"""A base under an adapter: held in fewer bytes, trained and merged as in fp32."""

import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from command_line import same, train, weights
from conftest import config
from optimizer_step import rows, stub_tokenizer, trainer_gradient
from small_models import made

from talr_cli.errors import UserError
from talr_cli.methods.adapters import Lora, warn_of_low_lr
from talr_cli.methods.objectives import Sft
from talr_cli.models import loading, saving, sources
from talr_cli.models.frozen import check_base_dtype, is_fp32, load_frozen
from talr_cli.training.points import gather_model


@pytest.fixture
def stored_in_bf16(tiny_config, tmp_path):
    """(source, config) of a model that is stored in bf16."""

    def store(kind):
        saving.save_model(
            saving.cast_weights(made(kind), torch.bfloat16), stub_tokenizer(), 2, tmp_path
        )
        named = replace(tiny_config, path=str(tmp_path), package=None, random_init=None)
        return sources.directory_source(tmp_path), named

    return store


@pytest.mark.parametrize("kind", ["llama", "gemma3", "granite"])
def test_a_base_in_half_precision_gives_the_adapters_the_gradient_of_fp32(
    kind, stored_in_bf16, tmp_path
):
    source, named = stored_in_bf16(kind)
    gradients = []
    for base_dtype in ("auto", "float32"):
        base = load_frozen(source, named, base_dtype, torch.bfloat16, "cpu")
        assert is_fp32(base) == (base_dtype == "float32")
        torch.manual_seed(0)
        adapted = Lora(rank=4).wrap(base, "some/base")
        for name, parameter in adapted.named_parameters():
            assert not parameter.requires_grad or parameter.dtype == torch.float32, name
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        step = trainer_gradient(adapted, rows(4), Sft(), tmp_path / "out", 4, bf16=True)
        gradients.append(step[0])
    assert torch.equal(*gradients)


def test_gradients_go_through_a_base_of_four_bits(stored_in_bf16):
    """Also after it was tried out in eval mode, as every model is before its training."""
    four_bit = pytest.importorskip("bitsandbytes").functional.dequantize_4bit
    source, named = stored_in_bf16("llama")
    base = load_frozen(source, named, "nf4", None, "cpu")
    rounded = load_frozen(source, named, "float32", None, "cpu")
    for name, module in base.named_modules():
        if hasattr(module, "quant_state"):
            whole = four_bit(module.weight.data, module.weight.quant_state)
            rounded.get_submodule(name).weight.data = whole.float()
    ids, gradients = torch.tensor([[5, 6, 7, 8]]), []
    for model in (base, rounded):
        with torch.no_grad():
            model.eval()(input_ids=ids)
        states = model.get_input_embeddings()(ids).detach().requires_grad_()
        model.train()(inputs_embeds=states).logits.log_softmax(-1)[..., 9].sum().backward()
        gradients.append(states.grad)
    torch.testing.assert_close(*gradients)


def test_without_autocast_the_base_is_fp32(stored_in_bf16):
    source, named = stored_in_bf16("llama")
    assert is_fp32(load_frozen(source, named, "auto", None, "cpu"))


def test_an_adapter_is_merged_in_fp32_whatever_its_base_was_held_in(stored_in_bf16):
    source, named = stored_in_bf16("llama")
    whole, held = (
        Lora(rank=4).wrap(load_frozen(source, named, kind, torch.bfloat16, "cpu"), "some/base")
        for kind in ("float32", "auto")
    )
    torch.manual_seed(0)
    for one, other in zip(whole.parameters(), held.parameters(), strict=True):
        if one.requires_grad:
            other.data = one.data = 0.01 * torch.randn_like(one)

    def load_plain():
        return Lora(rank=4).wrap(
            loading.load_model(source, named, torch.float32, "cpu"), "some/base"
        )

    trainer = SimpleNamespace(model=held, accelerator=Accelerator(cpu=True))
    copy = gather_model(trainer, load_plain)
    assert is_fp32(copy)
    merged = copy.merge_and_unload().state_dict()
    assert same(whole.merge_and_unload().state_dict(), merged)


def test_the_dtype_of_the_base_counts_for_the_identity():
    from talr_cli.run.identity import identity

    of = {
        kind: identity(config("train", "method=lora", f"adapter.base_dtype={kind}"), "model")
        for kind in ("auto", "float32", "nf4")
    }
    assert len(set(of.values())) == 3


def test_nf4_without_bitsandbytes_or_under_fsdp2_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[bnb\]'"):
        check_base_dtype("nf4", sharded=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match="does not go with distributed=fsdp2"):
        check_base_dtype("nf4", sharded=True)
    check_base_dtype("nf4", sharded=False)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_qlora_saves_the_checkpoints_own_weights_and_the_adapters(tiny_config, tmp_path):
    """The 4-bit base is trained on and nothing more: it is in nothing that is saved."""
    common = ("method=lora", "lr=1e-2", "eval=false", "trainer.precision=bf16", "adapter.rank=4")
    run = train(*common, "adapter.base_dtype=nf4", cwd=tmp_path)
    adapter = sources.directory_source(run / "adapter")
    merged = loading.load_model(adapter, tiny_config, "auto", "cpu").state_dict()
    for name, tensor in weights(run).items():
        torch.testing.assert_close(merged[name], tensor)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    plain = train(*common, cwd=tmp_path)
    assert not same(weights(plain), weights(run))


def test_a_learning_rate_too_low_for_lora_is_warned_of(caplog):
    warn_of_low_lr(2e-4)
    assert not caplog.text
    warn_of_low_lr(2e-5)
    assert "lr=2e-5 is a rate for training all weights" in caplog.text
    assert "try lr=2e-4" in caplog.text
