"""Completion: the words that a line may go on with, and Tab pressed in real shells."""

import os
import pty
import select
import shutil
import signal
import sys
import time

import pytest

from talr_cli.config.completion import words

PATIENCE = 120.0  # seconds


@pytest.mark.parametrize(
    ("line", "expected"),
    {
        "talr tra": ["train"],
        "talr completion z": ["zsh"],
        "talr clean --d": ["--dry-run"],
        "talr train meth": ["method="],
        "talr train method=lo": ["method=lora"],
        "talr train 'method=lo": ["method=lora"],
        "talr sweep method=sft,lo": ["method=sft,lora"],
        "talr train experiment=paper/m": ["experiment=paper/medcalc"],
        "talr train trainer.epo": ["trainer.epochs="],
        "talr train train": ["trainer.", "trainer="],
        "talr train lr=x method=talr objective.w_": [],  # of no method that it would have been
        "talr train method=talr objective.w_": ["objective.w_min="],
        "talr train adapter=null lr": ["lr="],
        "talr train eval=": ["eval=true", "eval=false"],
        "talr sweep keep=": ["keep=final", "keep=ends", "keep=best", "keep=none"],
        "talr report study=d": ["study=demo"],
        "talr report runs_dir=r": ["runs_dir=runs/"],
        "talr show talr-": ["talr-lr1e-5-s0-ab"],
        "talr train dataset=jsonl dataset.train=my": ["dataset.train=my rows.jsonl"],
        "talr nothing x": [],
    }.items(),
)
def test_words_that_complete_a_line(line, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/demo/m__d/talr-lr1e-5-s0-ab"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    (tmp_path / "my rows.jsonl").touch()
    assert words(line) == expected


def test_an_own_folder_adds_its_choices(tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "long.yaml").touch()
    assert words(f"talr train --config-dir {tmp_path} trainer=l") == ["trainer=long"]


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(talr completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'eval "$(talr completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "talr completion fish | source"),
}


class Terminal:
    """A program that believes to be used by somebody."""

    def __init__(self, command, cwd, environment):
        self.process, self.screen = pty.fork()
        if self.process == 0:
            os.chdir(cwd)
            os.execvpe(command[0], command, environment)

    def type(self, keys):
        os.write(self.screen, keys.encode())

    def wait_for(self, text):
        seen, end = "", time.monotonic() + PATIENCE
        while text not in seen:
            ready, _, _ = select.select([self.screen], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} does not come after {seen!r}"
            seen += os.read(self.screen, 4096).decode(errors="replace")
        return seen

    def close(self):
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.screen)


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_in_a_real_shell(shell, tmp_path):
    command, install = SHELLS[shell]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{shell} is not here")
    program = tmp_path / "talr"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m talr_cli.cli "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TERM": "dumb" if shell == "bash" else "xterm",
        "HOME": str(tmp_path),
    }
    terminal = Terminal(command, tmp_path, environment)
    try:
        terminal.type(f"{install} && echo re''ady\r")
        terminal.wait_for("ready")
        terminal.type("talr train meth\t")
        terminal.wait_for("od=")
        terminal.type("lo\t")
        terminal.wait_for("ra")
        terminal.type("trainer.epo\t")
        terminal.wait_for("chs=")
        # The line as the shell has it now, given to a program.
        terminal.type("5\x01printf '<%s>' \r")
        assert "<train><method=lora><trainer.epochs=5>" in terminal.wait_for("epochs=5>")
    finally:
        terminal.close()
