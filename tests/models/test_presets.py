"""Every model that conf/model names: composed, and trained for a step as a tiny random one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from conftest import config
from optimizer_step import rows, stub_tokenizer, trainer_gradient
from safetensors.torch import load_file, save_file
from small_models import CONFIGS, LAYERS, SIZE

from talr_cli.methods.adapters import Lora
from talr_cli.methods.objectives import Talr
from talr_cli.models import loading, saving, sources
from talr_cli.models.checks import check_loads
from talr_cli.models.shape import shape_of

HYBRID = {
    "head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2,
}  # fmt: skip
OWN = {
    "smollm3": lambda: hf.SmolLM3Config(**SIZE),
    "olmo3": lambda: hf.Olmo3Config(**SIZE, sliding_window=8, layer_types=LAYERS),
    "qwen2": lambda: hf.Qwen2Config(**SIZE),
    "qwen3_5": lambda: hf.Qwen3_5TextConfig(**SIZE, **HYBRID),
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
    "qwen3.5-0.8b": "qwen3_5",
    "qwen3.5-2b": "qwen3_5",
    "qwen3.5-4b": "qwen3_5",
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


def test_the_text_model_of_qwen35_is_loaded_without_its_vision_tower(tmp_path):
    """As its checkpoints on the hub are laid out."""
    torch.manual_seed(0)
    vision = hf.Qwen3_5VisionConfig(
        depth=1, hidden_size=16, intermediate_size=32, num_heads=2, patch_size=4,
        out_hidden_size=SIZE["hidden_size"], num_position_embeddings=16,
    )  # fmt: skip
    settings = hf.Qwen3_5Config(text_config=OWN["qwen3_5"](), vision_config=vision)
    whole = hf.Qwen3_5ForConditionalGeneration(settings).eval()
    whole.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    # Beside the vision tower there are layers that predict several tokens at once.
    save_file({**load_file(file), "mtp.fc.weight": torch.ones(4, 4)}, file, {"format": "pt"})
    named = replace(config("train", "model=qwen3.5-0.8b").model, path=str(tmp_path))
    alone = loading.load_model(sources.directory_source(tmp_path), named, torch.float32, "cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(alone.eval()(ids).logits, whole(ids).logits)
    assert not any("visual" in name for name, _ in alone.named_parameters())
    shape = shape_of(sources.directory_source(tmp_path))
    assert shape.weights == sum(one.numel() for one in alone.parameters())
    assert shape.others == 0
    typed = shape_of(sources.directory_source(tmp_path), type(whole).__name__)
    assert typed.weights == shape.weights
    assert typed.others == sum(one.numel() for one in whole.parameters()) - shape.weights > 0
