"""Places that cannot be written are one line, on real file systems that are full or read-only."""

import errno
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from namespaces import run_inside

from talr_cli.errors import UserError
from talr_cli.runs.atomic import append_json_line, atomic_folder, write_json
from talr_cli.runs.disk import explain_write_errors
from talr_cli.runs.lease import hold
from talr_cli.runs.manifest import find_damage, seal

# In a namespace of its own: a disk of 1 MiB, one that cannot be written, one without an inode left.
MOUNT = """
set -e
mkdir -p full fixed crowded
mount -t tmpfs -o nr_inodes=1 tmpfs crowded
mount -t tmpfs -o size=1m tmpfs full
mount -t tmpfs tmpfs fixed
echo '{"host": "h", "kernel": "k", "processes": "p", "pid": 1, "start": "1", "token": "t"}' \
    > fixed/.lock.owner
mount -o remount,ro fixed
exec "$0" -c "$1"
"""
TRY = """
import gc
from pathlib import Path
import torch
from safetensors.torch import save_file
from talr_cli.errors import UserError
from talr_cli.runs.atomic import append_json_line, atomic_folder, write_bytes, write_json
from talr_cli.runs.disk import explain_write_errors
from talr_cli.runs.lease import hold, owner
large = torch.zeros(2**19)

def made(how):
    with atomic_folder(Path("full/model")) as building:
        how(building)

def checkpoint():
    with explain_write_errors(Path("full/checkpoint-1")):
        torch.save(large, "full/optimizer.pt")

def held():
    with hold(Path("fixed/run/.lock")):
        pass

def attempt(name, action):
    try:
        action()
    except UserError as error:
        print(f"{name}: {error}")

attempt("safetensors", lambda: made(lambda to: save_file({"a": large}, to / "a.safetensors")))
attempt("torch", checkpoint)
Path("full/optimizer.pt").unlink(missing_ok=True)
attempt("bytes", lambda: write_bytes(Path("full/a.bin"), bytes(2**21)))
attempt("crowded", lambda: write_json(Path("crowded/status.json"), {}))
attempt("fixed", lambda: write_json(Path("fixed/status.json"), {}))
attempt("fixed made", lambda: atomic_folder(Path("fixed/model")).__enter__())
attempt("line", lambda: append_json_line(Path("fixed/metrics.jsonl"), {}))
attempt("lock", held)
print("owner:", owner(Path("fixed/.lock")))
gc.collect()  # a file that was given up in an error takes room until it is closed
print("left:", [path.name for path in Path("full").iterdir()])
made(lambda to: save_file({"a": torch.zeros(3)}, to / "a.safetensors"))
print("again:", sorted(path.name for path in Path("full/model").iterdir()))
"""


def test_full_and_read_only_disks_are_named_and_keep_nothing_half_written(tmp_path):
    told = run_inside("sh", "-c", MOUNT, sys.executable, TRY, cwd=tmp_path, timeout=120)
    said = dict(line.split(": ", 1) for line in told.splitlines())
    for name, path in {
        "safetensors": "full/model",
        "torch": "full/checkpoint-1",
        "bytes": "full/a.bin",
    }.items():
        assert said[name].startswith(f"cannot write {path}: the disk is full: free some space"), (
            name
        )
    for name, path in {
        "fixed": "fixed/status.json",
        "fixed made": "fixed/model",
        "line": "fixed/metrics.jsonl",
        "lock": "fixed/run/.lock",
    }.items():
        assert said[name].startswith(f"cannot write {path}: its file system is read-only"), name
    crowded = "cannot write crowded/status.json: the disk has room, but none for more files"
    assert said["crowded"].startswith(crowded)
    assert said["owner"] == "pid 1 on h"  # of another machine, which touched it a moment ago
    assert said["left"] == "[]"
    assert said["again"] == "['a.safetensors', 'talr.manifest']"


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path / "a.json", {}),
        lambda path: append_json_line(path / "a.jsonl", {}),
        lambda path: atomic_folder(path).__enter__(),
        lambda path: atomic_folder(path / "deep" / "model").__enter__(),
        lambda path: hold(path / ".lock").__enter__(),
    ],
    ids=["json", "line", "folder", "deep", "lock"],
)
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, write):
    path = tmp_path / "taken"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*taken: it is a file, not a folder"):
        write(path)
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json: it is a folder, not a file"):
        write_json(tmp_path / "a.json", {})
    with pytest.raises(UserError, match="the folder does not exist"):
        write_json(tmp_path / "absent" / "a.json", {})


def test_forgotten_temporary_files_go_with_the_next_writing(tmp_path):
    old, young, other = (
        tmp_path / f".{name}.{digit * 32}.tmp"
        for name, digit in (("a[1].json", "0"), ("a[1].json", "1"), ("b.json", "2"))
    )
    for file in (old, young, other):
        file.write_text("torn")
    for file in (old, other):
        os.utime(file, (1e9, 1e9))
    write_json(tmp_path / "a[1].json", {})
    assert sorted(tmp_path.iterdir()) == sorted([young, other, tmp_path / "a[1].json"])


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ESTALE, "repeat the command"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "ulimit -n"),
        (errno.ETIMEDOUT, "its file server does not answer"),
        (errno.EBUSY, "another program is using it"),
        (errno.EDQUOT, "your disk quota"),
        (errno.EIO, "an input/output error: check the disk"),
    ],
)
def test_errors_of_network_file_systems_are_explained(tmp_path, monkeypatch, number, said):
    write_json(tmp_path / "a.json", {"old": 1})

    def refuse(self, target):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UserError, match=f"cannot write .*a.json: .*{said}"):
        write_json(tmp_path / "a.json", {"new": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_a_copy_that_cannot_be_written_is_named_by_where_it_goes(tmp_path):
    (tmp_path / "from").mkdir()
    source, copy = tmp_path / "from" / "rows", tmp_path / "to" / "rows"
    source.write_text("rows")
    full = OSError(errno.ENOSPC, "full", str(source), None, str(copy))  # as shutil.copyfile's is
    copy.parent.mkdir()
    with (
        pytest.raises(UserError, match=f"cannot write {copy}: the disk is full"),
        explain_write_errors(copy),
    ):
        raise full


def test_an_error_elsewhere_is_not_explained_as_one_of_writing(tmp_path):
    with (
        tempfile.TemporaryDirectory() as other,
        pytest.raises(IsADirectoryError),
        atomic_folder(tmp_path / "model"),
    ):
        Path(other).read_text()


def as_another_user(action, group):
    """Run `action` as a user that shares only `group` with us; what it raises as text."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([group])
            os.setgid(65534)
            os.setuid(65534)
            os.umask(0o002)
            try:
                action()
            except BaseException as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def shared():
    """A folder of a group, in which new files belong to it; (folder, group)."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        study, group = Path(folder) / "study", 54321
        study.mkdir()
        os.chown(study, 0, group)
        study.chmod(0o2775)
        yield study, group


def test_two_users_of_a_group_share_a_study(shared):
    folder, group = shared
    before = os.umask(0o022)
    try:
        with hold(folder / ".lock"):
            pass
        assert not (folder / ".lock").stat().st_mode & 0o020
    finally:
        os.umask(before)

    def other():
        with hold(folder / ".lock"):
            write_json(folder / "status.json", {})

    assert as_another_user(other, group) == ""
    with hold(folder / ".lock"):
        assert "InUseError" in as_another_user(other, group)


def test_missing_rights_are_named_and_are_no_damage(shared):
    folder, group = shared
    folder.chmod(0o2755)
    made = folder / "checkpoint-1"
    made.mkdir()
    (made / "optimizer.pt").write_bytes(b"x")
    seal(made)
    (made / "optimizer.pt").chmod(0o600)

    def held():
        with hold(folder / ".lock"):
            pass

    said = as_another_user(held, group)
    assert said.startswith(f"UnwritableError: cannot write {folder}/.lock: permission denied")
    said = as_another_user(lambda: find_damage(made), group)
    assert said == f"UserError: cannot read {made}/optimizer.pt: permission denied"
