"""The formula of memory against what a step of the real trainer holds, counted tensor by tensor."""

import copy
import gc
import random
from functools import cache

import pytest
import torch
import transformers as hf
from live_memory import ATTENTION, CONFIGS, SIZE, LiveBytes
from optimizer_step import stub_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from talr_cli.config import composition
from talr_cli.data.rendering import Rendered
from talr_cli.models.frozen import load_frozen
from talr_cli.models.loading import load_model
from talr_cli.models.shape import shape_of
from talr_cli.models.sources import ModelSource
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training import loop
from talr_cli.training.arithmetic import Arithmetic, MicroBatch
from talr_cli.training.cpu_memory import allocate_state, set_sparse_embedding
from talr_cli.training.memory import minimum_bytes, step_memory

TOKENS, TARGETS, ROWS = 128, 48, 4
KINDS = CONFIGS | {
    "granitemoe": lambda: hf.GraniteMoeConfig(**SIZE, num_local_experts=8, num_experts_per_tok=4),
    "gpt2": lambda: hf.GPT2Config(vocab_size=8192, n_embd=192, n_layer=6, n_head=6),  # dropout
    "seed_oss": lambda: hf.SeedOssConfig(**SIZE, head_dim=32),  # dropout, keys of fewer heads
    "starcoder2": lambda: hf.Starcoder2Config(  # an MLP without a gate
        **SIZE, embedding_dropout=0, residual_dropout=0, sliding_window=None
    ),
    "apertus": lambda: hf.ApertusConfig(**SIZE),
    "llama4": lambda: hf.Llama4TextConfig(
        **SIZE, head_dim=32, intermediate_size_mlp=512, num_local_experts=8, num_experts_per_tok=1
    ),
    "ernie4_5_moe": lambda: hf.Ernie4_5_MoeConfig(
        **SIZE, moe_num_experts=8, moe_k=4, moe_intermediate_size=128, moe_num_shared_experts=1
    ),
    "deepseek_v3": lambda: hf.DeepseekV3Config(
        **{**SIZE, "num_key_value_heads": 6},
        n_routed_experts=8,
        num_experts_per_tok=4,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=128,
        kv_lora_rank=64,
        q_lora_rank=64,
        v_head_dim=32,
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        first_k_dense_replace=1,
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """By its kind a random model, stored in bf16."""

    @cache
    def made(kind):
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(KINDS[kind]())
        model.to(torch.bfloat16).save_pretrained(folder)
        return ModelSource(folder, "random", "a test")

    return made


def measured(source, config, folder):
    """Most bytes alive in the second optimizer step, which has the optimizer's state."""
    draw = random.Random(0)
    rows = []
    for _ in range(2 * ROWS):
        ids = [draw.randrange(1, 49) for _ in range(TOKENS)]
        rows.append(Rendered(ids, [-100] * (TOKENS - TARGETS) + ids[TOKENS - TARGETS :]))

    def load(dtype=None):
        return load_model(source, config.model, dtype or "auto", "cpu")

    peaks = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            gc.collect()
            live.most = live.now

        def on_step_end(self, *args, **kwargs):
            peaks.append(live.most)

    gc.collect()
    with LiveBytes() as live:
        model = load(torch.float32)
        if config.adapter is not None:
            adapter = config.parts.adapter
            half = torch.bfloat16 if config.trainer.precision == "bf16" else None
            model = load_frozen(source, config.model, adapter.base_dtype, half, "cpu")
        for parameter in model.parameters():
            live.count(parameter)
        trainer = loop.make_trainer(
            loop.Setting(
                config.trainer,
                config.optimizer,
                config.schedule,
                1e-4,
                0,
                config.distributed,
                "cpu",
            ),
            model,
            stub_tokenizer(),
            config.parts,
            loop.TrainingData(rows, [], []),
            RunDirectory(folder),
            source,
            load,
            str(source.directory),
        )
        assert not trainer.args.ddp_find_unused_parameters  # of a model of text nothing is unused
        trainer.add_callback(Watch())
        trainer.train()
    return peaks[-1]


BF16 = "trainer.precision=bf16"
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "micro", "again", "typed"),
    [
        ("llama", 4, False, ("method=sft",)),
        ("llama", 2, True, ("method=l2",)),
        ("llama", 4, False, ("method=lora",)),
        ("llama", 4, False, ("method=oft",)),
        ("llama", 2, True, ("method=ema",)),
        ("llama", 4, True, ("method=dora", BF16)),
        ("vocabulary", 4, False, ("method=sft",)),
        ("gemma3", 1, True, ("method=sft", "optimizer=adafactor")),
        ("qwen3_5", 2, False, ("method=sft",)),
        ("gpt_oss", 2, False, ("method=lora", BF16)),
        ("qwen3_moe", 2, True, ("method=lora", BF16)),
        pytest.param("llama", 4, True, ("method=sft", "optimizer=muon"), marks=SLOW),
        pytest.param("llama", 1, True, ("method=sft",), marks=SLOW),
        pytest.param("llama", 1, True, ("method=eaft",), marks=SLOW),
        pytest.param("vocabulary", 2, False, ("method=sft",), marks=SLOW),
        pytest.param("vocabulary", 2, False, ("method=kl",), marks=SLOW),
        pytest.param("vocabulary", 4, True, ("method=kl", BF16), marks=SLOW),
        pytest.param("capped", 2, False, ("method=kl",), marks=SLOW),
        pytest.param("capped", 4, True, ("method=kl", BF16), marks=SLOW),
        pytest.param("capped", 2, False, ("method=eaft",), marks=SLOW),
        pytest.param("capped", 4, True, ("method=eaft", BF16), marks=SLOW),
        pytest.param("vocabulary", 2, False, ("method=eaft",), marks=SLOW),
        pytest.param("vocabulary", 4, True, ("method=eaft", BF16), marks=SLOW),
        pytest.param("llama", 4, False, ("method=l2", BF16), marks=SLOW),
        pytest.param("llama", 4, True, ("method=lora", BF16), marks=SLOW),
        pytest.param("llama", 4, False, ("method=oft", BF16), marks=SLOW),
        pytest.param("llama", 4, False, ("method=dora",), marks=SLOW),
        pytest.param("llama", 2, False, ("method=kl",), marks=SLOW),
        pytest.param("gemma3", 4, False, ("method=sft",), marks=SLOW),
        pytest.param("gemma3", 4, False, ("method=sft", BF16), marks=SLOW),
        pytest.param("gemma4", 4, False, ("method=sft",), marks=SLOW),
        pytest.param("granitemoe", 2, False, ("method=sft",), marks=SLOW),
        ("seed_oss", 4, False, ("method=sft",)),
        ("llama4", 4, False, ("method=sft",)),
        pytest.param("gpt2", 4, False, ("method=sft",), marks=SLOW),
        pytest.param("gpt2", 4, False, ("method=sft", BF16), marks=SLOW),
        pytest.param("starcoder2", 4, False, ("method=sft",), marks=SLOW),
        pytest.param("apertus", 4, False, ("method=sft",), marks=SLOW),
        pytest.param("ernie4_5_moe", 4, False, ("method=sft",), marks=SLOW),
        pytest.param("deepseek_v3", 4, False, ("method=sft",), marks=SLOW),
        pytest.param("qwen3_5", 1, True, ("method=sft", BF16), marks=SLOW),
        pytest.param("qwen3_moe", 2, False, ("method=sft",), marks=SLOW),
    ],
)
def test_memory_of_a_step_is_within_a_tenth_of_the_formula(
    source, tmp_path, kind, micro, again, typed
):
    source = source(kind)
    given = (
        "trainer.precision=fp32", *typed, "model=tiny", "logger=none", "trainer.max_steps=2",
        f"trainer.batch_size={ROWS}", f"trainer.micro_batch_size={micro}",
        f"trainer.gradient_checkpointing={again}", "trainer.checkpoint_every_epoch=false",
        f"model.attention={ATTENTION.get(kind, 'sdpa')}",
    )  # fmt: skip
    config = composition.load("train", list(given))
    one = MicroBatch(micro * TOKENS, micro * TARGETS, TOKENS, again, accumulates=micro < ROWS)
    eager = config.model.attention == "eager"
    half = config.trainer.precision == "bf16"
    how = Arithmetic("cpu", half, config.optimizer, eager=eager)
    expected = step_memory(shape_of(source), config.parts, how, one)
    assert expected.total == pytest.approx(measured(source, config, tmp_path), rel=0.1)
    assert expected.total > minimum_bytes(shape_of(source), config.parts, how)


def test_sparse_embedding_gradients_and_early_optimizer_state_change_no_step():
    """An embedding that is the head, with repeated tokens: gradients and AdamW's second step."""
    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(**{**SIZE, "vocab_size": 64, "num_hidden_layers": 1}))
    spared = copy.deepcopy(plain)
    set_sparse_embedding(spared, sparse=True)
    ids = torch.tensor([[5, 9, 5, 5, 63, 9, 0, 5]])
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
        for model in (plain, spared)
    ]
    allocate_state(optimizers[1])
    for _ in range(2):
        for model, optimizer in zip((plain, spared), optimizers, strict=True):
            optimizer.zero_grad()
            for _ in range(2):  # two passes, added up
                model(input_ids=ids, labels=ids).loss.backward()
        gradients = [one.get_input_embeddings().weight.grad for one in (plain, spared)]
        assert gradients[1].layout == torch.strided
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)
        # As the rounding of a sum that is nearly 0 would decide the sign of an update.
        for one, other in zip(plain.parameters(), spared.parameters(), strict=True):
            other.grad.copy_(one.grad)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(plain.parameters(), spared.parameters(), strict=True):
        assert torch.equal(one, other)
    states = [one.state_dict()["state"] for one in optimizers]
    assert states[0].keys() == states[1].keys()
    assert {name: one.dtype for name, one in states[0][0].items()} == {
        name: one.dtype for name, one in states[1][0].items()
    }
