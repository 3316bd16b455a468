"""A folder is whole or what is wrong with it is named."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from talr_cli.errors import UserError
from talr_cli.runs.atomic import atomic_folder
from talr_cli.runs.manifest import MANIFEST, check, find_damage, seal


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "checkpoint-6"
    (made / "optimizer_0").mkdir(parents=True)
    save_file({"a": torch.arange(1000.0)}, made / "model.safetensors")
    (made / "optimizer_0" / "__1_0.distcp").write_bytes(bytes(range(256)))
    (made / "scheduler.pt").write_bytes(b"")
    seal(made)
    return made


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)


def half_zeros(file):
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2] + bytes(size - size // 2))


def torn(file):
    os.truncate(file, file.stat().st_size // 2)


def gone(file):
    file.unlink()


def test_a_sealed_folder_is_whole(folder):
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert {name: entry["bytes"] for name, entry in listed.items()} == {
        "model.safetensors": (folder / "model.safetensors").stat().st_size,
        "optimizer_0/__1_0.distcp": 256,
        "scheduler.pt": 0,
    }
    # XXH3_128bits of no input, from the reference implementation's own test vectors.
    assert listed["scheduler.pt"]["xxh3_128"] == "99aa06d3014798d86001c324468d497f"
    assert find_damage(folder) is None
    (folder / "notes.txt").write_text("mine")
    assert find_damage(folder) is None


@pytest.mark.parametrize("harm", [flipped, half_zeros, torn, gone])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer_0/__1_0.distcp"])
def test_any_damage_is_named(folder, name, harm):
    harm(folder / name)
    assert Path(name).name in find_damage(folder)
    assert find_damage(folder).endswith(" is missing") == (harm is gone)
    with pytest.raises(UserError, match=rf"checkpoint-6 is damaged: .*{Path(name).name}.*; do it"):
        check(folder, "do it")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": []}', '{"files": {"a": 1}}', "\x00"])
def test_a_damaged_manifest_is_damage(folder, text):
    (folder / MANIFEST).write_text(text)
    assert find_damage(folder) is not None


def test_a_manifest_does_not_lead_out_of_its_folder(folder):
    (folder / MANIFEST).write_text('{"files": {"../secret": {"bytes": 1, "xxh3_128": "x"}}}')
    assert "cannot be parsed" in find_damage(folder)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_damage_and_is_not_read(folder, make):
    (folder / "scheduler.pt").unlink()  # it had no bytes, as a pipe and a device have
    make(folder / "scheduler.pt")
    assert find_damage(folder) == "scheduler.pt is no file"


def test_a_folder_without_a_manifest_is_unfinished_but_not_refused(folder):
    (folder / MANIFEST).unlink()
    assert MANIFEST in find_damage(folder)
    check(folder, "")  # a model from elsewhere has none


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_are_as_readable_as_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "model") as building:
            save_file({"a": torch.zeros(3)}, building / "model.safetensors")
            (building / "deep").mkdir(mode=0o700)
            (building / "deep" / "tokenizer.json").touch(mode=0o600)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    folders = mode | (mode & 0o444) >> 2
    assert modes == {
        **{"model": folders, "deep": folders},
        **dict.fromkeys(("model.safetensors", "tokenizer.json", MANIFEST), mode),
    }


def test_folders_are_written_without_modes_and_fsync_of_folders(tmp_path, monkeypatch):
    """As FAT and SMB have none, and some of networks and in user space cannot."""
    fsync, seen = os.fsync, []

    def of_files(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        seen.append(file)
        fsync(file)

    def refuse(self, mode):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(self))

    monkeypatch.setattr(os, "fsync", of_files)
    monkeypatch.setattr(Path, "chmod", refuse)
    with atomic_folder(tmp_path / "model") as building:
        (building / "deep").mkdir()
        (building / "deep" / "tokenizer.json").touch(mode=0o600)
    assert find_damage(tmp_path / "model") is None
    assert len(seen) == 2  # the file and the manifest


def test_an_old_folder_is_replaced_and_kept_where_the_new_one_fails(tmp_path):
    for number in (1, 2):
        with atomic_folder(tmp_path / "model") as building:
            (building / f"{number}.txt").write_text("x")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model") as building:
        (building / "3.txt").write_text(f"{1 / 0}")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"2.txt", MANIFEST}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOSPC])
def test_the_old_folder_returns_where_the_new_one_cannot_take_its_place(
    tmp_path, monkeypatch, number
):
    with atomic_folder(tmp_path / "model") as building:
        (building / "1.txt").write_text("x")
    rename = Path.rename

    def refuse(self, target):
        if target == tmp_path / "model" and (self / "2.txt").exists():
            raise OSError(number, os.strerror(number), str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(UserError, match="cannot write"),
        atomic_folder(tmp_path / "model") as building,
    ):
        (building / "2.txt").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert find_damage(tmp_path / "model") is None
    assert (tmp_path / "model" / "1.txt").exists()


MAKE = """
import sys, time
from pathlib import Path
from talr_cli.runs.atomic import atomic_folder
with atomic_folder(Path(sys.argv[1])) as building:
    (building / "half.txt").write_text("x")
    print("making", flush=True)
    time.sleep(120)
"""


def test_what_a_killed_maker_leaves_goes_and_what_a_living_one_makes_stays(tmp_path):
    makers = []
    try:
        for _ in range(2):
            makers.append(
                subprocess.Popen(
                    [sys.executable, "-c", MAKE, str(tmp_path / "model")], stdout=subprocess.PIPE
                )
            )
            assert makers[-1].stdout.readline()
        makers[0].send_signal(signal.SIGKILL)
        makers[0].wait()
        assert len(list(tmp_path.glob(".building-*/half.txt"))) == 2
        with atomic_folder(tmp_path / "model") as building:
            (building / "whole.txt").write_text("x")
        assert len(list(tmp_path.glob(".building-*/half.txt"))) == 1
        assert find_damage(tmp_path / "model") is None
    finally:
        for maker in makers:
            maker.kill()
            maker.wait()
