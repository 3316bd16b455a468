"""Output that cannot be written, or not in its characters, ends no run and shows no traceback."""

import os
import subprocess
import sys

import pytest
from synthetic_study import results, write_study

from talr_cli.printable import printable_lines

TALR = f"{sys.executable} -m talr_cli.cli"


def shell(line, cwd, **environment):
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        capture_output=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    runs = [results("größe", id=str(number), seed=number) for number in range(3)]
    write_study(folder / "runs", runs)
    return folder


# The reader is gone before a line is written.
GONE = "exec 3> >(true); sleep 0.2; {} >&3"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (GONE.format(f"{TALR} --help"), 141, ""),
        (GONE.format(f"{TALR} train --help"), 141, ""),
        (f"{TALR} --help > /dev/full", 2, "cannot write to the standard output: No space left"),
        (f"{TALR} --help >&-", 0, ""),
        (f"{TALR} train lr=0 2>&-", 2, ""),
        (f"{TALR} train lr=0 2> /dev/full", 2, ""),
        (f"{TALR} --version <&- >&- 2>&-", 0, ""),
    ],
    ids=["pipe", "pipe of a command", "full", "closed", "error closed", "error full", "all closed"],
)
def test_lost_output_gives_an_exit_code_and_no_traceback(line, code, said, tmp_path):
    found, _, errors = shell(line, tmp_path)
    assert found == code, errors
    assert "Traceback" not in errors
    assert said in errors
    assert len(errors.splitlines()) == bool(said)


def test_a_report_is_written_though_nobody_reads_it(study):
    code, _, errors = shell(GONE.format(f"{TALR} report study=s"), study)
    assert code == 141
    assert errors == ""
    assert (study / "runs" / "s" / "report" / "report.html").is_file()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_output_lacks_are_escaped(encoding, study):
    code, said, errors = shell(f"{TALR} report study=s", study, PYTHONIOENCODING=encoding)
    assert code == 0, errors
    assert b"gr\\xf6\\xdfe" in said or "größe".encode("latin-1") in said
    assert "Traceback" not in errors


def test_a_training_is_not_failed_by_its_printing(tmp_path):
    code = """
import sys
from unittest import mock
from talr_cli import cli, streams
def made(command, arguments):
    import logging
    logging.getLogger("talr_cli").info("step 1")
    print("run directory: x" * 10000)
    sys.stderr.write("y" * 10000)
    return 0
cli._run = made
sys.argv = ["talr", sys.argv[1]]
sys.exit(cli.main())
"""
    for output in ("> /dev/full 2> /dev/full", "3> >(true) >&3 2>&3", ">&- 2>&-"):
        line = f"{sys.executable} -c '{code}'"
        assert shell(f"{line} train {output}", tmp_path)[0] == 0, output
    assert shell(f"{line} recommend > /dev/full", tmp_path)[0] == 2


def test_log_lines_keep_their_line_ends_and_nothing_else():
    assert printable_lines("a\n\tb\x1b[31m\rc") == "a\n\tb\\x1b[31m\\rc"
