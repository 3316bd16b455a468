"""How batches are cut up: what is typed stays, what fits is found, what cannot is said."""

import itertools
import os
from dataclasses import replace
from statistics import mean

import pytest
import torch

from talr_cli.config import composition
from talr_cli.errors import UserError
from talr_cli.methods.optimizers import AdamW
from talr_cli.models import device_memory
from talr_cli.models.shape import Matrix, Shape, shape_of
from talr_cli.training import planner
from talr_cli.training.arithmetic import Arithmetic, MicroBatch, count_trained
from talr_cli.training.layer_memory import activation_bytes, temporary_layer_bytes
from talr_cli.training.memory import minimum_bytes, step_memory
from talr_cli.training.planner import RowLengths, choose_plan

GPU = Arithmetic("cuda", half=True, optimizer=AdamW())
CPU = Arithmetic("cpu", half=False, optimizer=AdamW())
GIB = 2**30
QWEN_MATRICES = {
    "q_proj": (2048, 2048), "k_proj": (2048, 256), "v_proj": (2048, 256), "o_proj": (2048, 2048),
    "gate_proj": (2048, 11008), "up_proj": (2048, 11008), "down_proj": (11008, 2048),
}  # fmt: skip
QWEN = Shape(
    weights=3_085_938_688, stored_bytes=2, layers=36, hidden=2048, heads=16, queries=2048, keys=256,
    inner=11008, vocabulary=151936, normalised=36 * 4096,
    matrices=[Matrix(name, *ends, 36) for name, ends in QWEN_MATRICES.items()], tied=True,
)  # fmt: skip
ALIKE = RowLengths([1000] * 32, [250] * 32, joined=False)


@pytest.fixture(scope="module")
def config():
    return composition.load("train", ["trainer=paper", "model=tiny"])


def plan(config, free, how=GPU, rows=ALIKE, **trainer):
    for name, value in trainer.items():
        setattr(config.trainer, name, value)
    return choose_plan(QWEN, config.parts, config.trainer, how, rows, free * GIB)


@pytest.fixture(autouse=True)
def _as_shipped(config):
    yield
    config.trainer.micro_batch_size = config.trainer.gradient_checkpointing = "auto"


@pytest.mark.parametrize(
    ("tokens", "again", "simulated"),
    [(4096, True, 49.46), (4096, False, 73.41), (1024, False, 57.77)],
)
def test_memory_of_a_3b_model_matches_a_simulation_with_fake_tensors(
    config, tokens, again, simulated
):
    """GiB; AdamW, bf16 autocast, the second of two passes, a quarter of the tokens targets."""
    one = MicroBatch(tokens, tokens // 4, tokens, again, accumulates=True)
    assert step_memory(QWEN, config.parts, GPU, one).total / GIB == pytest.approx(
        simulated, rel=0.02
    )


@pytest.mark.parametrize(
    ("method", "how", "each"),
    [("sft", GPU, 4), ("sft", CPU, 4), ("lora", GPU, 2), ("lora", CPU, 4), ("kl", GPU, 4 + 2)],
)
def test_a_vision_tower_takes_the_bytes_of_its_weights_alone(method, how, each):
    parts = composition.load("train", [f"method={method}", "model=tiny"]).parts
    one = MicroBatch(1000, 250, 1000, True, accumulates=True)
    with_tower = replace(QWEN, others=10**9)
    found = [step_memory(shape, parts, how, one).total for shape in (with_tower, QWEN)]
    assert found[0] - found[1] == each * 10**9
    found = [minimum_bytes(shape, parts, how) for shape in (with_tower, QWEN)]
    assert found[0] - found[1] == each * 10**9


def test_dropout_keeps_its_masks_and_on_a_cpu_all_pairs_of_tokens(config):
    """A mask has a byte an element on a GPU, and the dtype of what is dropped on a CPU."""
    one = MicroBatch(1000, 250, 500, checkpointing=False, accumulates=False)

    def kept(how, **dropout):
        return activation_bytes(replace(QWEN, **dropout), config.parts, how, one)[0]

    for how, each in ((GPU, 1), (CPU, 4)):
        assert kept(how, dropped=2) - kept(how) == 36 * 2 * 2048 * 1000 * each
    assert kept(GPU, attention_dropout=True) == kept(GPU)
    pairs = 36 * 16 * 500 * 1000
    repeated = 36 * 2 * (2048 - 256) * 1000 * 4
    assert kept(CPU, attention_dropout=True) - kept(CPU) == 3 * 4 * pairs + repeated


def test_less_memory_means_fewer_rows_at_once_then_layers_computed_again(config):
    plans = [plan(config, free) for free in (500, 72, 56, 52)]
    assert [one.fits for one in plans] == [True] * 4
    assert (plans[0].rows, plans[0].checkpointing) == (16, False)
    costs = [planner.cost_per_row(one, "cuda", ALIKE) for one in plans]
    assert costs == sorted(costs)
    assert plans[-1].checkpointing
    assert not plan(config, 40).fits


def test_typed_values_are_kept_whether_they_fit_or_not(config):
    one = plan(config, 10, micro_batch_size=8, gradient_checkpointing=False)
    assert (one.rows, one.checkpointing, one.fits) == (8, False, False)
    again = plan(config, 500, micro_batch_size="auto", gradient_checkpointing=True)
    assert again.checkpointing
    rows = plan(config, 500, micro_batch_size=2, gradient_checkpointing="auto")
    assert (rows.rows, rows.checkpointing) == (2, False)


def test_a_batch_that_fits_stays_whole_on_a_cpu(config):
    """Whatever is faster: the bits are those of a batch that was never cut up."""
    ragged = RowLengths([10] * 31 + [4000], [5] * 32, joined=False)
    assert planner.cost_per_row(
        plan(config, 2000, CPU, ragged), "cpu", ragged
    ) > planner.cost_per_row(plan(config, 2000, CPU, ragged, micro_batch_size=1), "cpu", ragged)
    config.trainer.micro_batch_size = "auto"
    one = plan(config, 2000, CPU, ragged)
    assert (one.rows, one.checkpointing) == (16, False)


def test_an_objective_that_looks_at_a_pass_keeps_its_batch_whole(config):
    looking = composition.load("train", ["method=talr", "objective.tau_scope=microbatch"])
    assert looking.parts.objective.depends_on_micro_batch
    one = choose_plan(QWEN, looking.parts, config.trainer, GPU, ALIKE, 60 * GIB)
    assert (one.rows, one.checkpointing) == (16, True)


def test_padding_is_the_mean_over_all_draws():
    lengths = [3, 5, 5, 9]
    for rows in (1, 2, 3):
        draws = itertools.product(lengths, repeat=rows)
        expected = mean(max(draw) for draw in draws)
        assert RowLengths(lengths, [1] * 4, joined=False).mean_tokens(rows) == pytest.approx(
            expected
        )
    assert RowLengths(lengths, [1] * 4, joined=True).mean_tokens(3) == mean(lengths)


def test_the_largest_pass_is_padded_or_joined():
    padded = RowLengths([3, 9, 5], [1, 2, 4], joined=False).largest_micro_batch(2, True, False)
    assert (padded.tokens, padded.targets, padded.longest) == (18, 6, 9)
    assert (
        RowLengths([3, 9, 5], [1, 2, 4], joined=True).largest_micro_batch(2, True, False).tokens
        == 14
    )


def test_replay_rows_taken_along_count_one_by_one():
    """In tokens, and where rows are padded to the longest, whichever that is."""
    along = [[20, 4], [], [7]]
    joined = RowLengths([3, 9, 5], [1, 2, 4], joined=True, along=along)
    assert joined.largest_micro_batch(1, True, False).tokens == 3 + 20 + 4
    assert joined.largest_micro_batch(2, True, False).tokens == 27 + 12
    assert joined.largest_micro_batch(2, True, False).longest == 20
    assert joined.mean_tokens(2) == (27 + 9 + 12) / 3
    padded = RowLengths([3, 9, 5], [1, 2, 4], joined=False, along=along)
    assert padded.largest_micro_batch(1, True, False).tokens == 3 * 20
    assert padded.largest_micro_batch(2, True, False).tokens == 5 * 20
    draws = [max(one) for one in itertools.product([20, 9, 7], repeat=2)]
    assert padded.mean_tokens(2) == pytest.approx(mean(draws) * (3 + 1 + 2) / 3)


def test_sums_in_a_fixed_order_take_more_where_few_heads_share_a_gpu(config):
    """Of the gradient of the queries, in attention's backward pass."""
    small = replace(QWEN, inner=2048, hidden=1024)
    one = MicroBatch(4096, 1024, 4096, True, accumulates=True, varlen=True)
    fixed, free = (
        temporary_layer_bytes(small, config.parts, replace(GPU, deterministic=on), one)
        for on in (True, False)
    )
    assert fixed == 9 * 4 * 2048 * 4096  # 9 parts of 16 heads are what 132 multiprocessors take
    assert free < fixed / 2


def test_memory_of_ddp_and_fsdp2_is_as_measured(config):
    """Of two on a CPU by their resident memory: DDP's second step; FSDP2's copies in bf16."""
    one = MicroBatch(512, 128, 256, checkpointing=True, accumulates=False)
    alone = step_memory(QWEN, config.parts, CPU, one)
    ddp = step_memory(QWEN, config.parts, replace(CPU, ranks=2), one)
    assert ddp.total - ddp.state == 2 * 4 * QWEN.weights > alone.total - alone.state
    kept = replace(one, tokens=8192, checkpointing=False)
    sharded = replace(CPU, half=True, ranks=2, sharded=True)
    of_layers, _ = activation_bytes(QWEN, config.parts, sharded, kept)
    varying = step_memory(QWEN, config.parts, sharded, kept).varying
    assert varying > 2 * QWEN.multiplied + of_layers


def test_an_adapter_on_some_matrices_trains_those_alone():
    for modules, ends in (("[q_proj,v_proj]", 4096 + 2304), ("all-linear", 51968)):
        lora = composition.load("train", ["method=lora", f"adapter.target_modules={modules}"])
        assert count_trained(QWEN, lora.parts) == lora.adapter.rank * ends * 36


def test_a_state_that_cannot_fit_is_refused_with_a_way_out(config):
    with pytest.raises(UserError, match=r"46\.0 GiB.*24\.0 GiB of it.*adapter=lora.*fsdp2"):
        planner.check_minimum("m", QWEN, config.parts, GPU, 24 * GIB, "of it are free")
    planner.check_minimum("m", QWEN, config.parts, GPU, 47 * GIB, "of it are free")
    lora = composition.load("train", ["method=lora"]).parts
    planner.check_minimum("m", QWEN, lora, GPU, 24 * GIB, "of it are free")


@pytest.mark.parametrize(
    ("method", "free", "way"),
    [  # full fine-tuning takes 46.0 GiB, LoRA 8.1, QLoRA 4.3, of rank 8 2.7
        ("sft", 24, "take adapter=lora, take"),
        ("sft", 6, "take adapter=lora adapter.base_dtype=nf4, take"),
        ("sft", 3, "take adapter=lora adapter.base_dtype=nf4 adapter.rank=8, take"),
        ("sft", 1, "free: take a smaller model"),
        ("lora", 6, "free: take adapter.base_dtype=nf4, take"),
        ("lora", 1, "free: take a smaller model"),
        ("oft", 2, "free: take a smaller model"),
    ],
)
def test_an_adapter_is_a_way_out_only_where_it_fits(method, free, way):
    parts = composition.load("train", [f"method={method}"]).parts
    with pytest.raises(UserError) as error:
        planner.check_minimum("m", QWEN, parts, GPU, free * GIB, "of it are free")
    assert way in str(error.value)
    needed = planner.minimum_bytes(QWEN, parts, CPU)
    with pytest.raises(UserError) as error:  # 4 bits are for a GPU
        planner.check_minimum("m", QWEN, parts, CPU, needed - 1, "are free")
    assert "nf4" not in str(error.value)


def test_memory_is_shared_by_the_runs_of_a_sweep(monkeypatch):
    monkeypatch.delenv(device_memory.WORKERS, raising=False)
    alone = device_memory.free_memory("cpu")
    assert 0 < alone < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setenv(device_memory.WORKERS, "1000")
    assert device_memory.free_memory("cpu") < alone / 10


def test_memory_that_a_run_holds_already_counts_in_its_share_of_the_gpu(monkeypatch):
    """Beside three others on 80 GiB it has 20; 6 of them are its model, and 1 lies with torch."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (50 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 7 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 6 * GIB)
    monkeypatch.setenv(device_memory.WORKERS, "4")
    assert device_memory.free_memory("cuda") == pytest.approx(0.92 * 14 * GIB)
    monkeypatch.delenv(device_memory.WORKERS)
    assert device_memory.free_memory("cuda") == pytest.approx(0.92 * 51 * GIB)


def test_the_shape_of_a_model_is_read_from_its_files(tiny_source):
    found = shape_of(tiny_source)
    assert (found.layers, found.hidden, found.heads, found.keys) == (2, 64, 4, 32)
    assert (found.inner, found.tied) == (128, True)
    assert found.normalised == 2 * 128  # of each layer two norms of 64
    assert set(found.matrices) == {
        *(Matrix(name, 64, 64, 2) for name in ("q_proj", "o_proj")),
        *(Matrix(name, 64, 32, 2) for name in ("k_proj", "v_proj")),
        *(Matrix(name, 64, 128, 2) for name in ("gate_proj", "up_proj")),
        Matrix("down_proj", 128, 64, 2),
    }
    assert found.weights == found.head + found.multiplied
