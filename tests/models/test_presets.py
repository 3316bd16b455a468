"""Every model that conf/model names: composed, and trained for a step as a tiny random one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from conftest import config
from optimizer_step import rows, stub_tokenizer, trainer_gradient
from small_models import CONFIGS, LAYERS, SIZE

from talr_cli.methods.adapters import Lora
from talr_cli.methods.objectives import Talr
from talr_cli.models import loading, saving, sources
from talr_cli.models.checks import check_loads

OWN = {
    "smollm3": lambda: hf.SmolLM3Config(**SIZE),
    "olmo3": lambda: hf.Olmo3Config(**SIZE, sliding_window=8, layer_types=LAYERS),
    "qwen2": lambda: hf.Qwen2Config(**SIZE),
}
ARCHITECTURE = {
    "gemma3-1b": "gemma3",
    "gemma3-270m": "gemma3",
    "gemma3-4b": "gemma3",
    "gpt-oss-20b": "gpt_oss",
    "llama3.2-1b": "llama",
    "llama3.2-3b": "llama",
    "olmo3-7b": "olmo3",
    "qwen2.5-3b": "qwen2",
    "qwen3-0.6b": "qwen3",
    "qwen3-1.7b": "qwen3",
    "qwen3-4b": "qwen3",
    "qwen3-8b": "qwen3",
    "smollm2-135m": "llama",
    "smollm3-3b": "smollm3",
    "tiny": "llama",
}
CONF = Path(__file__).parents[2] / "conf" / "model"


@pytest.mark.parametrize("preset", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_a_preset_loads_and_trains_a_model_of_its_architecture(preset, tmp_path):
    named = config("train", f"model={preset}").model
    assert named.name == preset
    assert named.made_for == named.path
    torch.manual_seed(0)
    kind = ARCHITECTURE[preset]
    tiny = hf.AutoModelForCausalLM.from_config({**CONFIGS, **OWN}[kind]())
    saving.save_model(tiny, stub_tokenizer(), 49, tmp_path / "model")
    source = sources.directory_source(tmp_path / "model")
    here = replace(named, path=str(tmp_path / "model"), package=None, random_init=None)
    check_loads(source, here, to_train=True)
    model = loading.load_model(source, here, torch.float32, "cpu")
    adapted = Lora(rank=2).wrap(model, "some/base") if kind == "gpt_oss" else model
    gradient, loss = trainer_gradient(adapted, rows(4), Talr(), tmp_path / "out", 4)
    assert 0 < loss < 10
    assert gradient.isfinite().all()
    assert gradient.norm() > 0
