"""What is remembered of the base model, damaged, is made again and said."""

import gzip
import json
import tracemalloc

import pytest
import torch
from optimizer_step import reference, rows, toy
from safetensors.torch import save

from talr_cli.data.rendering import Rendered
from talr_cli.evaluation.general.score_cache import RECORD, read_record, write_record
from talr_cli.runs import atomic
from talr_cli.training.base_losses import BaseModel

ROWS = rows(6)
TARGETS = sum(label != -100 for row in ROWS for label in row["labels"])


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The one file that has the base losses of ROWS."""
    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    losses()
    (file,) = tmp_path.glob("base_losses/*.json.gz")
    return file


def losses():
    rendered = [Rendered(row["input_ids"], row["labels"]) for row in ROWS]
    return BaseModel(toy(), "toy", None, "cpu").losses(rendered)


def packed(value):
    return gzip.compress(json.dumps(value).encode())


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: b"",
        lambda content: content[:-5],
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: packed({"losses": []}),
        lambda content: packed([1.0] * 5),
        lambda content: packed([1.0] * 5 + ["1.0"]),
        lambda content: packed([1.0] * 5 + [None]),
    ],
    ids=["empty", "torn", "flipped", "other type", "too few", "a text", "a null"],
)
def test_damaged_losses_of_rows_are_made_again(cached, harm, caplog):
    content = cached.read_bytes()
    caplog.clear()
    cached.write_bytes(harm(content))
    model = toy()
    expected = [reference(model, row)[0].mean().item() for row in ROWS]
    # Where bf16 is fast the base runs under autocast.
    torch.testing.assert_close(losses(), torch.tensor(expected), rtol=1e-2, atol=0)
    (said,) = caplog.records
    assert str(cached) in said.getMessage()
    assert cached.read_bytes() == content
    caplog.clear()
    losses()
    assert [one.getMessage() for one in caplog.records] == ["base losses: found those of 6 rows"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: b"",
        lambda content: content[:-5],
        lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:],
        lambda content: gzip.compress(b"not weights"),
        lambda content: gzip.compress(save({"others": torch.zeros(9)})),
        lambda content: gzip.compress(save({"losses": torch.zeros(9)})),
        lambda content: gzip.compress(save({"losses": torch.full((TARGETS,), float("nan"))})),
    ],
    ids=["empty", "torn", "flipped", "no tensors", "other tensors", "too few", "no numbers"],
)
def test_damaged_losses_of_targets_are_made_again(tmp_path, monkeypatch, harm, caplog):
    monkeypatch.setenv("TALR_CACHE", str(tmp_path))
    rendered = [Rendered(row["input_ids"], row["labels"]) for row in ROWS]
    model = toy()
    expected = torch.cat([reference(model, row)[0].float() for row in ROWS])

    def found():
        losses = BaseModel(model, "toy", None, "cpu").target_losses(rendered)
        assert [len(one) for one in losses] == [len(row.targets) for row in rendered]
        return torch.cat(losses)

    torch.testing.assert_close(found(), expected)
    (file,) = tmp_path.glob("base_losses/*.safetensors.gz")
    content = file.read_bytes()
    caplog.clear()
    file.write_bytes(harm(content))
    torch.testing.assert_close(found(), expected)
    (said,) = caplog.records
    assert str(file) in said.getMessage()
    assert file.read_bytes() == content
    caplog.clear()
    found()
    said = f"base losses: found those of {TARGETS} targets"
    assert [one.getMessage() for one in caplog.records] == [said]
    # Rows that differ in what is masked only are other rows.
    fewer = [Rendered(row.input_ids, [-100, *row.labels[1:-1], -100]) for row in rendered[1:5]]
    assert sum(map(len, BaseModel(model, "toy", None, "cpu").target_losses(fewer))) < TARGETS
    assert len(list(tmp_path.glob("base_losses/*.safetensors.gz"))) == 2


def test_damaged_scores_are_ignored_with_a_warning(tmp_path, caplog):
    file = tmp_path / "scores" / "task-0.json.gz"
    record = dict.fromkeys(RECORD, 0.5)
    write_record(file, record)
    assert read_record(file) == record
    content = file.read_bytes()
    file.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    assert read_record(file) is None
    assert str(file) in caplog.text
    for other in ([], {"score": 0.5}):
        caplog.clear()
        write_record(file, other)
        assert read_record(file) is None
        assert str(file) in caplog.text


def test_scores_that_unpack_to_more_than_the_memory_are_ignored(tmp_path, caplog, monkeypatch):
    """Of another person's study: 64 KiB, which are 64 MiB of spaces; the limit is lowered here."""
    monkeypatch.setattr(atomic, "LARGEST_UNPACKED", 1 << 22)
    file = tmp_path / "task-0.json.gz"
    file.write_bytes(gzip.compress(b" " * (1 << 23)) * 8)
    tracemalloc.start()
    assert read_record(file) is None
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"{file} cannot be read (it unpacks to more than 4 MiB)" in caplog.text
    assert most < 1 << 24  # bytes
