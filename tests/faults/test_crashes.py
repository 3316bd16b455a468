"""What nobody foresaw is one line too: its kind, its message, and the file with the traceback."""

import re
from pathlib import Path

import pytest
from bad_inputs import TINY
from in_process import talr_here

from talr_cli import cli
from talr_cli.errors import UserError
from talr_cli.models.sources import cache_dir

PENALTY = """
from dataclasses import dataclass
from pathlib import Path
from talr_cli.methods.base import Regulariser

@dataclass
class Penalty(Regulariser):
    def start(self, model, load_base): ...
    def loss(self, model, inputs, hidden):
        if not Path("mended").exists():
            raise LookupError("nothing to \\x1b[31mhold on to")
"""


@pytest.fixture
def failing(tmp_path):
    """A command whose training fails in code of the user's."""
    (tmp_path / "penalty_a.py").write_text(PENALTY)
    regularisers = tmp_path / "mine" / "regulariser"
    regularisers.mkdir(parents=True)
    (regularisers / "own.yaml").write_text("_target_: penalty_a.Penalty\n")
    return ("train", *TINY, "--config-dir", "mine", "regulariser=own")


def test_a_run_keeps_the_traceback_until_it_is_begun_again(failing, tmp_path):
    code, said = talr_here(*failing, cwd=tmp_path)
    line = said.splitlines()[-1]
    assert code == 1
    assert "Traceback" not in said
    assert line.startswith(r"talr: LookupError: nothing to \x1b[31mhold on to at ")
    assert f"{tmp_path}/penalty_a.py:11 (where it comes from: in " in line
    (run,) = tmp_path.glob("runs/*/*/*")
    kept = run / "traceback.txt"
    assert str(kept.relative_to(tmp_path)) in line
    assert "penalty_a.py" in kept.read_text()
    assert "\x1b" not in kept.read_text()

    (tmp_path / "mended").touch()
    code, said = talr_here(*failing, cwd=tmp_path)
    assert code == 0, said
    assert not kept.exists()


@pytest.mark.parametrize("place", ["before", "among"])
def test_v_shows_the_traceback(failing, place, tmp_path):
    command, *rest = failing
    words = ("-v", command, *rest) if place == "before" else (command, "-v", *rest)
    code, said = talr_here(*words, cwd=tmp_path)
    assert code == 1
    assert said.count("Traceback") == 1
    assert "penalty_a.py" in said
    assert said.splitlines()[-1].endswith("(where it comes from: above)")


def test_v_shows_the_traceback_of_a_mistake_too(tmp_path):
    code, said = talr_here("train", "-v", "lr=0", cwd=tmp_path)
    assert code == 2
    assert "Traceback" in said
    assert "outside" in said.splitlines()[-1]


def test_without_a_run_the_traceback_is_a_temporary_file(tmp_path, monkeypatch):
    def fails(command, arguments):
        raise ZeroDivisionError("a\nb" + "c" * 1000)

    monkeypatch.setattr(cli, "_run", fails)
    code, said = talr_here("report", cwd=tmp_path)
    assert code == 1
    (line,) = said.splitlines()
    assert line.startswith("talr: ZeroDivisionError: a bccc")
    assert len(line) < 500
    file = Path(re.search(r"in (\S+\.txt),", line)[1])
    assert "ZeroDivisionError" in file.read_text()
    file.unlink()


def test_where_no_file_can_be_made_the_traceback_is_printed(tmp_path, monkeypatch):
    def fails(command, arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_run", fails)
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    code, said = talr_here("report", cwd=tmp_path)
    assert code == 1
    assert "Traceback" in said
    place = f"{__file__}:{fails.__code__.co_firstlineno + 1}"
    assert said.splitlines()[-1] == (
        f"talr: ZeroDivisionError at {place} (where it comes from: above)"
    )


def test_a_folder_that_was_deleted_and_a_user_without_a_home_are_one_line(
    tmp_path, monkeypatch, capsys
):
    for name in ("TALR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert cache_dir() == Path.home() / ".cache" / "talr"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME
    with pytest.raises(UserError, match="set HOME"):
        cache_dir()

    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("sys.argv", ["talr", "list"])
    assert cli.main() == 2
    said = capsys.readouterr().err
    assert said == "talr: the current folder has been deleted: cd to another one\n"
