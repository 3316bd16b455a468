"""What is said of work that goes on: to a terminal, to a log, to those who watch from outside."""

import json
import logging
import os
import pty
import re
import sys
import threading
import time
from contextlib import suppress

import pytest

from talr_cli import cli, progress

COLUMNS = 80


@pytest.fixture
def shown(monkeypatch):
    """What is shown, afresh and fast."""
    monkeypatch.setattr(progress, "_shown", progress._Shown())
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "WRITE", 0.0)
    return progress._shown


def test_nested_shares_add_up_to_the_whole_work(shown):
    with progress.work("evaluation", total=40) as work:
        with progress.share(10, label="arithmetic"):
            for batch in (2, 4, 4):
                with progress.share(batch, of=10):
                    progress.reach(0.5)
                    half = work.done
            assert half == pytest.approx(8)  # six of ten, and half of the last four
        assert (work.done, work.label) == (10, "arithmetic")
        with progress.share(30, label="domain"):
            with suppress(MemoryError), progress.share(16, of=32):
                progress.reach(0.9)
                raise MemoryError
            assert work.done == 10, "what failed is done again, in smaller pieces"
            with progress.share(8, of=32):
                pass
            assert work.done == pytest.approx(10 + 30 * 8 / 32)
        assert work.done == 40
    with progress.share(1, of=2):  # nobody watches: nothing happens
        progress.reach(0.5)


def test_work_left_open_by_an_error_ends_with_its_parent(shown):
    def rows():
        yield from progress.each("rendering rows", [1, 2, 3])

    with progress.work("talr train"):
        left = rows()
        next(left)
        assert [one.what for one in shown.works] == ["talr train", "rendering rows"]
    assert not shown.works
    assert not [one for one in threading.enumerate() if one.name == "progress"]
    left.close()


def test_nothing_is_drawn_while_another_process_has_the_terminal(shown, monkeypatch):
    drawn = []
    monkeypatch.setattr(progress, "is_live", lambda: True)
    monkeypatch.setattr(shown, "draw", drawn.append)
    with progress.work("planning"):
        with progress.shown_by_another_process() as quiet:
            assert not quiet
            time.sleep(0.2)
            drawn.clear()  # of a look that had begun before
            time.sleep(0.1)
            assert not drawn
        deadline = time.monotonic() + 60
        while not drawn:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_time_left_is_estimated_from_the_steps_of_this_process():
    work = progress.Work("training", total=100, done=60.0)  # gone on from step 60
    work.started -= 1000
    assert work.left is None
    work.done = 80
    assert work.left == pytest.approx(1000, abs=60)  # a machine may be slow
    assert progress.clock(3723.4) == "1:02:03"
    assert progress.clock(59.6) == "1:00"


def test_a_log_has_a_line_at_each_tenth_and_after_a_silence(shown, caplog, monkeypatch):
    monkeypatch.setattr(progress, "MIN_INTERVAL", 0.0)
    caplog.set_level(logging.INFO, logger="talr_cli")
    with progress.work("training", total=20) as work:
        for step in range(1, 21):
            work.done, work.label = step, f"loss {step}"
            time.sleep(0.05)
    lines = [record.getMessage() for record in caplog.records]
    assert 2 <= len(lines) <= 11
    assert re.fullmatch(r"training: 20/20, loss 20, 0:0\d", lines[-1])
    assert all(re.match(r"training: \d+/20, ", line) for line in lines)
    monkeypatch.undo()
    work = progress.Work("rendering rows", total=2, done=1)
    work.tenth = 0
    assert not work.plain_is_due(), "it is over in a moment"
    work.printed_at -= progress.MIN_INTERVAL
    assert work.plain_is_due()
    work = progress.Work("loading the model")
    assert not work.plain_is_due()
    work.printed_at -= progress.FIRST_SILENCE + 1
    assert work.plain_is_due()
    work.printed_at -= progress.FIRST_SILENCE + 1
    assert not work.plain_is_due(), "the pauses grow"


def test_quiet_logs_nothing_but_still_writes_the_progress_file(
    shown, caplog, tmp_path, monkeypatch
):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    logger = logging.getLogger("talr_cli")
    level = logger.level
    try:
        progress.be_quiet()
        with progress.in_folder(tmp_path), progress.work("training", total=4) as work:
            work.done, work.label = 3, "loss 1.5"
            deadline = time.monotonic() + 60
            while (found := progress.read(tmp_path)) is None or found["done"] < 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert progress.read(tmp_path, since=time.time() + 60) is None, "another process's"
    finally:
        logger.setLevel(level)
    assert (found["what"], found["label"], found["total"]) == ("training", "loss 1.5", 4)
    assert not caplog.records
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[1]", '{"what": 3}', '{"what": "a"}', "\0"])
def test_a_malformed_progress_file_is_ignored(content, tmp_path):
    (tmp_path / progress.FILE).write_text(content)
    assert progress.read(tmp_path) is None
    good = {"what": "a", "label": "", "done": 1, "total": 2, "left": "soon"}
    (tmp_path / progress.FILE).write_text(json.dumps(good))
    assert progress.read(tmp_path)["left"] is None


WORK = """
import logging, time
from talr_cli import progress
progress.TICK = 0.02
progress.MIN_INTERVAL = 0.0
progress.set_up_logging()
log = logging.getLogger("talr_cli")
with progress.work("evaluation", total=8):
    for number in range(8):
        with progress.share(1, label="a task whose name is longer than any terminal " * 3):
            time.sleep(0.1)
        if number == 3:
            log.info("a message of one line")
print("done")
"""


def in_a_terminal(code, kind="xterm"):
    """What a terminal of COLUMNS is sent by Python that runs the code."""
    process, terminal = pty.fork()
    if not process:
        os.environ |= {
            "COLUMNS": str(COLUMNS),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TERM": kind,
        }
        os.execv(sys.executable, [sys.executable, "-c", code])
    said = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # so Linux says that the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(terminal)
    assert os.waitpid(process, 0)[1] == 0, said
    return said.decode()


def screen(said):
    """The lines that are left on a terminal, and what stood in its last line before."""
    lines, live, at = [""], [], 0
    for piece in re.split(r"(\r\n|\r|\x1b\[K)", said):
        if piece == "\r\n":
            lines.append("")
            at = 0
        elif piece == "\r":
            live.append(lines[-1])
            at = 0
        elif piece == "\x1b[K":
            lines[-1] = lines[-1][:at]
        else:
            lines[-1] = lines[-1][:at] + piece + lines[-1][at + len(piece) :]
            at += len(piece)
    return lines, [line for line in live if line]


def test_a_terminal_has_one_live_line_and_messages_stand_above_it():
    lines, live = screen(in_a_terminal(WORK))
    assert live
    assert all(len(line) < COLUMNS for line in live)
    assert re.match(r"evaluation \[#* *\] [1-8]/8 0:0\d left a task whose name", live[-1])
    assert lines[0] == "a message of one line"
    assert re.match(r"evaluation: 8/8, a task .*, 0:0", lines[1])
    assert lines[2:] == ["done", ""]


def test_a_dumb_terminal_gets_plain_lines():
    said = in_a_terminal(WORK, "dumb")
    assert not re.search(r"\x1b|\r(?!\n)", said)
    assert said.count("evaluation: ") > 1


def test_an_interrupted_command_says_how_to_resume():
    said = cli._resume_hint(["sweep", "lr=1e-6,2e-5", "study=my study"])
    assert said == "; to go on: talr sweep lr=1e-6,2e-5 'study=my study'"
    assert cli._resume_hint(["sweep", "lr=1e-6", "--dry-run"]) == ""
    assert cli._resume_hint(["report", "study=s"]) == ""
    assert cli._resume_hint([]) == ""


def test_the_resume_hint_survives_hydra_replacing_sys_argv(monkeypatch, capsys):
    """Hydra reads sys.argv, which is replaced for it."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("talr_cli.commands.train.make_runs", interrupted)
    monkeypatch.setattr("sys.argv", ["talr", "train", "model=tiny", "lr=1e-5"])
    assert cli.main() == 130
    assert capsys.readouterr().err == (
        "talr: interrupted; to go on: talr train model=tiny lr=1e-5\n"
    )
