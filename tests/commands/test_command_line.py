"""The command line as a user meets it: help, mistakes, and that nothing heavy is imported."""

import subprocess
import sys

import pytest
from command_line import talr
from synthetic_study import BASE, results, write_study

HEAVY = ("torch", "transformers", "trl", "datasets", "lm_eval", "wandb", "matplotlib", "pandas")


def imported_by(*arguments, cwd):
    """The heavy packages that a command line pulled in."""
    code = (
        "import sys; from talr_cli import cli; "
        f"sys.argv = ['talr', *{list(arguments)!r}]\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("train", "--cfg", "job"), ("train", "--help"), ("eval", "--cfg", "job")],
    ids=" ".join,
)
def test_help_and_cfg_import_nothing_heavy(arguments, tmp_path):
    assert imported_by(*arguments, cwd=tmp_path) == []


@pytest.mark.parametrize("arguments", [("list",), ("show", "sft"), ("clean", "--dry-run")])
def test_looking_at_a_study_imports_nothing_heavy(arguments, tmp_path):
    write_study(tmp_path / "runs", [BASE, results("sft")])
    assert imported_by(*arguments, cwd=tmp_path) == []


@pytest.mark.parametrize(
    ("when", "code", "said"),
    [
        # A rank that has lost another one is told to end while it ends: torch sends it SIGTERM.
        ("atexit.register(signal.raise_signal, signal.SIGTERM)", -15, "talr: unknown command"),
        ("cli._print_error = lambda text: signal.raise_signal(15)", 130, "talr: interrupted"),
    ],
    ids=["at its end", "while it prints"],
)
def test_a_signal_to_a_process_that_ends_is_no_traceback(when, code, said):
    script = (
        "import atexit, signal, sys; from talr_cli import cli; sys.argv = ['talr', 'trian']\n"
        f"{when}; sys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert done.stderr.startswith(said)


def test_windows_is_refused_in_one_line():
    """It was a traceback, as Windows knows no SIGHUP."""
    windows = "os.name = 'nt'; del signal.SIGHUP; sys.modules['fcntl'] = None"
    script = f"import os, signal, sys; {windows}; import talr_cli.cli"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "talr runs on Linux and macOS; on Windows install it in WSL\n"


def test_version_and_help(tmp_path):
    assert talr("--version", cwd=tmp_path, logger=None).stdout.startswith("talr 0.")
    shown = talr("--help", cwd=tmp_path, logger=None).stdout
    assert all(name in shown for name in ("train", "eval", "report"))


def test_train_help_lists_groups_and_values(tmp_path):
    shown = talr("train", "--help", cwd=tmp_path, logger=None).stdout
    assert "method: asft, averaging, deft" in shown
    assert "smollm2-135m" in shown
    assert "max_length" in shown


MISTAKES = {
    "command": (("trian",), "unknown command 'trian' (did you mean train?)"),
    "value": (("train", "lrr=1e-6"), "lrr is not a config value (did you mean lr?)"),
    "nested value": (
        ("train", "trainer.epoch=3"),
        "trainer.epoch is not a config value (did you mean trainer.epochs?)",
    ),
    "choice": (("train", "method=tlar"), "method=tlar does not exist (did you mean talr?)"),
    "group": (("train", "modle=tiny"), "modle is not a config value (did you mean model?)"),
    "option": (("train", "--confg-dir", "x"), "(did you mean --config-dir?)"),
    "no value": (("train", "lr"), "'lr' is not of the form key=value"),
    "type": (("train", "lr=fast"), "lr=fast is not a number"),
    "range": (("train", "lr=0"), "lr=0 is outside (0, infinity)"),
    "negative": (("train", "lr=-1e-6"), "lr=-1e-6 is outside"),
    "two at once": (("train", "lr=0", "schedule.warmup_share=2"), "schedule.warmup_share=2.0"),
    "w_min": (("train", "method=talr", "objective.w_min=1.5"), "objective.w_min=1.5 is outside"),
    "tau scope": (("train", "method=talr", "objective.tau_scope=x"), "objective.tau_scope=x"),
    "batch": (("train", "trainer.micro_batch_size=3"), "not a multiple"),
    "required": (("train", "dataset=jsonl"), "dataset.train is required"),
    "empty path": (("train", "dataset=jsonl", "dataset.train="), "dataset.train is empty"),
    "empty checkpoint": (("eval", "ckpt="), "ckpt is empty"),
    "missing file": (("train", "dataset=jsonl", "dataset.train=no.jsonl"), "no.jsonl"),
    "config dir": (("train", "--config-dir", "nowhere"), "nowhere"),
    "empty study": (("report", "study=nothing"), "talr train study=nothing"),
    "model path": (("train", "model.path=./none"), "model.path=./none is not a directory"),
    "grammar": (("train", "lr=[1"), "talr train --help"),
    "completion": (("train", "-sc", "install=bash"), "`talr completion bash`"),
    "no such shell": (("completion", "csh"), "talr completion bash, zsh or fish"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, tmp_path):
    arguments, expected = MISTAKES[mistake]
    done = talr(*arguments, cwd=tmp_path, logger=None)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_a_users_own_group_from_a_config_dir(tmp_path):
    folder = tmp_path / "mine" / "trainer"
    folder.mkdir(parents=True)
    (folder / "long.yaml").write_text("epochs: 20\nbatch_size: 16\n")
    work = tmp_path / "work"
    work.mkdir()
    done = talr("train", "--config-dir", "../mine", "trainer=long", "--cfg", "job", cwd=work)
    assert done.returncode == 0
    assert "epochs: 20" in done.stdout


def test_the_config_dir_value_types_are_checked(tmp_path):
    folder = tmp_path / "mine" / "trainer"
    folder.mkdir(parents=True)
    (folder / "long.yaml").write_text("epochs: many\nbatch_size: 16\n")
    done = talr(
        "train", "lr=1e-6", "--config-dir", str(tmp_path / "mine"), "trainer=long", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "trainer.epochs" in done.stderr
