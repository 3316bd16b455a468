"""What a link in a run or in its study leads to is not exported, deleted or written."""

import errno
import os
import shutil
import time

import pytest
from in_process import talr_here
from synthetic_study import scored, write_study

from talr_cli.cli import _save_traceback
from talr_cli.errors import UserError, attach_run
from talr_cli.runs.checkpoints import remove_unusable
from talr_cli.runs.run_directory import RunDirectory

CONFIG = {
    "model": {"path": "some/model", "random_init": None, "template_arguments": {}},
    "dataset": {"name": "rows"},
    "trainer": {"epochs": 1.0, "batch_size": 8},
}


@pytest.fixture
def run(tmp_path):
    write_study(tmp_path / "runs", [scored("sft", [1, 0], {"task": [1, 0]}, model="m", id="1")])
    (path,) = tmp_path.glob("runs/s/*/sft-*")
    directory = RunDirectory(path)
    directory.prepare(CONFIG, ["lr=1e-6"], "f" * 64)
    directory.model.mkdir()
    (directory.model / "config.json").write_text("{}")
    (directory.model / "model.safetensors").write_bytes(b"weights")
    return directory


@pytest.fixture
def secret(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "key").write_text("SECRET")
    return folder


def export(run, cwd):
    return talr_here("export", f"run={run.path}", "out=new", cwd=cwd)


def test_links_within_the_run_are_copied_as_files(run, tmp_path):
    (run.model / "also.json").symlink_to("config.json")
    code, said = export(run, tmp_path)
    assert code == 0, said
    assert (tmp_path / "new" / "also.json").read_text() == "{}"
    assert not (tmp_path / "new" / "also.json").is_symlink()


def test_an_export_to_a_file_system_without_modes(run, tmp_path, monkeypatch):
    (run.model / "deep").mkdir(mode=0o700)
    (run.model / "deep" / "file").touch(mode=0o600)

    def refuse(path, mode, **more):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(os, "chmod", refuse)
    code, said = export(run, tmp_path)
    assert code == 0, said
    copied = {path.name for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert copied == {"config.json", "model.safetensors", "file", "README.md", "talr.manifest"}


@pytest.mark.parametrize("where", ["file", "folder", "deep", "chain", "relative", "nowhere"])
def test_a_link_out_of_the_model_is_refused_by_name(where, run, secret, tmp_path):
    link = run.model / "extra"
    if where == "file":
        link.symlink_to(secret / "key")
    elif where == "folder":
        link.symlink_to(secret)
    elif where == "deep":
        link = run.model / "a" / "b" / "extra"
        link.parent.mkdir(parents=True)
        link.symlink_to(secret / "key")
    elif where == "chain":
        (run.path / "between").symlink_to(secret)
        link.symlink_to(run.path / "between" / "key")
        link = run.path / "between"
    elif where == "relative":
        link.symlink_to(os.path.relpath(secret / "key", run.model))
    else:
        link.symlink_to("/no/such/file")
    code, said = export(run, tmp_path)
    assert code == 2
    assert f"{link} is a link out of the run" in said
    assert not (tmp_path / "new").exists()
    assert [one.name for one in tmp_path.iterdir() if "building" in one.name] == []


@pytest.mark.parametrize("name", ["model", "results.json", "config.yaml", "overrides.yaml"])
def test_a_part_of_the_run_that_lies_elsewhere_is_refused(name, run, tmp_path):
    part = run.path / name
    part.rename(tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    code, said = export(run, tmp_path)
    assert code == 2
    assert f"{part} is a link out of the run" in said
    assert not (tmp_path / "new").exists()


def test_a_folder_that_appears_during_an_export_is_not_replaced(run, tmp_path, monkeypatch):
    def copy(source, target):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "thesis.tex").write_text("mine")
        return really(source, target)

    really = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", copy)
    code, said = export(run, tmp_path)
    assert code == 2
    assert "new: something was put there meanwhile" in said
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["thesis.tex"]


def test_a_pipe_in_the_model_is_refused(run, tmp_path):
    os.mkfifo(run.model / "pipe")
    code, said = export(run, tmp_path)
    assert code == 2
    assert "pipe is neither a file nor a folder" in said


def test_a_run_that_was_typed_through_a_link_is_that_run(run, tmp_path):
    (tmp_path / "short").symlink_to(run.path)
    code, said = talr_here("export", "run=short", "out=new", cwd=tmp_path)
    assert code == 0, said


@pytest.mark.parametrize("out", ["{run}/new", "{run}/model/new"])
def test_nothing_is_exported_into_the_run(out, run, tmp_path):
    code, said = talr_here(
        "export", f"run={run.path}", f"out={out.replace('{run}', str(run.path))}", cwd=tmp_path
    )
    assert code == 2
    assert "is inside the run itself" in said


@pytest.mark.parametrize("section", [{"trainer": {}}, {"dataset": 3}, {"model": None}])
def test_a_config_of_another_shape_is_named(section, run, tmp_path):
    run.config.unlink()
    run.prepare({**CONFIG, **section}, [], "f" * 64)
    code, said = export(run, tmp_path)
    assert code == 2, said
    assert f"{run.config} does not fit" in said
    assert not (tmp_path / "new").exists()


@pytest.fixture
def home(tmp_path):
    """A folder of the user, with files that nobody has read for a year, and what is in it."""
    folder = tmp_path / "home"
    (folder / "checkpoint-5").mkdir(parents=True)
    for name in ("thesis.tex", ".draft.tmp", "table.csv", "checkpoint-5/model.safetensors"):
        (folder / name).write_text("mine")
        os.utime(folder / name, (time.time() - 400 * 86400,) * 2)
    return folder


def content(folder):
    return {str(file): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_clean_deletes_nothing_that_a_link_leads_to(run, home, tmp_path):
    before = content(home)
    links = {run.path.parents[1] / "scores": home, run.samples: home, run.checkpoints: home}
    for link, target in links.items():
        link.symlink_to(target)
    own = run.path / ".a.tmp"
    own.touch()
    code, said = talr_here("clean", "models=true", cwd=tmp_path)
    assert (code, own.exists()) == (0, False), said
    with run.lock():
        remove_unusable(run.checkpoints)
    assert content(home) == before


def test_clean_leaves_a_run_of_another_study_alone(run, tmp_path):
    run.training.write_text("{}")
    other = tmp_path / "runs" / "theirs" / "m__medcalc"
    other.mkdir(parents=True)
    (other / run.path.name).symlink_to(run.path)
    talr_here("clean", "models=true", "study=theirs", cwd=tmp_path)
    assert run.model.exists()
    talr_here("clean", "models=true", "study=s", cwd=tmp_path)
    assert not run.model.exists()


def test_a_report_replaces_no_files_behind_a_link(run, home, tmp_path):
    before = content(home)
    report = run.path.parents[1] / "report"
    report.symlink_to(home)
    code, said = talr_here("report", "study=s", cwd=tmp_path)
    assert code == 2
    assert "runs/s/report: it is a link out of the study" in said
    assert content(home) == before


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("made"), os.mkfifo])
def test_nothing_is_appended_to_what_a_link_or_a_pipe_leads_to(make, run):
    run.metrics.unlink()
    make(run.metrics)
    with pytest.raises(UserError, match=r"metrics\.jsonl: it is .* move it away"):
        run.append_metrics(1, {"loss": 1.0})
    (run.path / ".lock").symlink_to("made")
    with pytest.raises(UserError, match=r"\.lock: it is a link"), run.lock():
        pass
    assert not (run.path / "made").exists()


def test_a_traceback_is_not_written_to_what_a_link_leads_to(run, home):
    (run.path / "traceback.txt").symlink_to(home / "thesis.tex")
    error = KeyError("a\nb")
    attach_run(error, run.path)
    assert "KeyError" in _save_traceback(error).read_text()
    assert (home / "thesis.tex").read_text() == "mine"
