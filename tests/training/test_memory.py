"""The formula of memory against what a step of the real trainer holds, counted tensor by tensor."""

import copy
import gc
import random
import weakref

import pytest
import torch
from optimizer_step import stub_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from talr_cli.config import composition
from talr_cli.data.rendering import Rendered
from talr_cli.models.shape import shape_of
from talr_cli.models.sources import ModelSource
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.training import loop
from talr_cli.training.cpu_memory import make_state, set_sparse
from talr_cli.training.memory import Arithmetic, Pass, least, step_memory

TOKENS, TARGETS, ROWS = 128, 48, 4
SIZE = {
    "vocab_size": 8192,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


class LiveBytes(TorchDispatchMode):
    """Adds up the storages of all tensors that are alive, and remembers the most there were."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def count(self, value):
        if not isinstance(value, torch.Tensor):
            return
        if value.layout == torch.sparse_coo:
            self.count(value._indices())
            self.count(value._values())
            return
        storage = value.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, key, size)

    def forget(self, key, size):
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        for value in tree_iter(made):
            self.count(value)
        return made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A random model, stored in bf16."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZE)).to(torch.bfloat16).save_pretrained(folder)
    return ModelSource(folder, "random", "a test")


def measured(source, config, folder):
    """Most bytes alive in the second optimizer step, which has the optimizer's state."""
    draw = random.Random(0)
    rows = []
    for _ in range(2 * ROWS):
        ids = [draw.randrange(1, 49) for _ in range(TOKENS)]
        rows.append(Rendered(ids, [-100] * (TOKENS - TARGETS) + ids[TOKENS - TARGETS :]))

    def load(dtype=None):
        return LlamaForCausalLM.from_pretrained(source.directory, dtype=dtype or "auto")

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


@pytest.mark.parametrize(
    ("typed", "micro", "again"),
    [
        (("method=sft",), 4, False),
        (("method=l2",), 2, True),
        (("method=lora",), 4, False),
        (("method=oft",), 4, False),
        (("method=ema",), 2, True),
        pytest.param(("method=sft", "optimizer=muon"), 4, True, marks=pytest.mark.slow),
        pytest.param(("method=sft",), 1, True, marks=pytest.mark.slow),
        pytest.param(("method=l2", "trainer.precision=bf16"), 4, False, marks=pytest.mark.slow),
        pytest.param(("method=lora", "trainer.precision=bf16"), 4, True, marks=pytest.mark.slow),
        pytest.param(("method=oft", "trainer.precision=bf16"), 4, False, marks=pytest.mark.slow),
        pytest.param(("method=kl",), 2, False, marks=pytest.mark.slow),
    ],
)
def test_a_step_takes_what_the_formula_says(source, tmp_path, typed, micro, again):
    given = (
        "trainer.precision=fp32", *typed, "model=tiny", "logger=none", "trainer.max_steps=2",
        f"trainer.batch_size={ROWS}", f"trainer.micro_batch_size={micro}",
        f"trainer.gradient_checkpointing={again}", "trainer.checkpoint_every_epoch=false",
    )  # fmt: skip
    config = composition.load("train", list(given))
    one = Pass(micro * TOKENS, micro * TARGETS, TOKENS, again, accumulates=micro < ROWS)
    how = Arithmetic("cpu", config.trainer.precision == "bf16", config.optimizer)
    expected = step_memory(shape_of(source), config.parts, how, one)
    assert expected.total == pytest.approx(measured(source, config, tmp_path), rel=0.15)
    assert expected.total > least(shape_of(source), config.parts, how)


def test_a_tied_embedding_and_early_state_change_no_step():
    """An embedding that is the head, with repeated tokens: gradients and AdamW's second step."""
    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(**{**SIZE, "vocab_size": 64, "num_hidden_layers": 1}))
    spared = copy.deepcopy(plain)
    set_sparse(spared, sparse=True)
    ids = torch.tensor([[5, 9, 5, 5, 63, 9, 0, 5]])
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
        for model in (plain, spared)
    ]
    make_state(optimizers[1])
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
