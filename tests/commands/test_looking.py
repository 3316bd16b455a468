"""list, show, clean, doctor: what they say of a study that was never run, and what they leave."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from synthetic_study import BASE, results, write_config, write_study

from talr_cli import streams
from talr_cli.commands import clean, compare, doctor, recommend, report, show
from talr_cli.commands import list as list_command
from talr_cli.config import composition
from talr_cli.errors import UserError
from talr_cli.fields import plain
from talr_cli.runs.lease import hold
from talr_cli.runs.listing import find_run, format_size
from talr_cli.runs.run_directory import LOCK
from talr_cli.runs.study import scored_runs
from talr_cli.statistics.pairs import name_of
from talr_cli.sweep import machine

SFT, TALR = results("sft", id="11111111"), results("talr", 2e-4, domain=(0.5, 0.03), id="22222222")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The base, a run that is done with all that one leaves, and one that failed; {method: run}."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TALR_CACHE", str(tmp_path / "cache"))
    write_study(Path("runs"), [BASE, SFT, TALR])
    done = find_run("talr", Path("runs"), "s").directory
    config = composition.load(
        "train", ["model=tiny", "dataset=facts-mini", "dataset.train_rows=9", "lr=2e-4"]
    )
    write_config(done.path, plain(config))
    done.overrides.write_text("[model=tiny, lr=2e-4]\n")
    done.training.write_text('{"training": {}, "weights": {}}')
    done.write_status("evaluated")
    for folder, size in (("model", 3000), ("checkpoints/checkpoint-9", 2000), ("samples", 0)):
        (done.path / folder).mkdir(parents=True)
        (done.path / folder / "content").write_bytes(bytes(size))
    answer = {"id": "bmi-1", "messages": [{"role": "user", "content": "BMI?"}], "output": "23"}
    (done.samples / "domain.jsonl").write_text(
        json.dumps(answer | {"parsed": "23", "correct": True}) + "\n" + "{torn"
    )
    failed = find_run("sft", Path("runs"), "s").directory
    failed.results.unlink()
    failed.write_status("failed", "Traceback\nValueError: no")
    (failed.path / "results.json.damaged").write_bytes(bytes(100))
    (failed.checkpoints / "checkpoint-3").mkdir(parents=True)
    return {"talr": done, "sft": failed}


def said(command, capsys, *arguments):
    capsys.readouterr()
    command.main(list(arguments))
    return capsys.readouterr().out


def as_json(command, capsys, *arguments):
    answer = json.loads(said(command, capsys, *arguments, "json=-"))
    assert (answer["schema"], answer["talr"]) == (1, "0.1.0")
    return answer


def test_runs_in_renamed_folders_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = [results("sft", id=f"{n}" * 8) for n in (1, 2, 3)]
    write_study(tmp_path / "runs", made)
    for one, name in zip(made, ("best", "my-first", "my-second"), strict=True):
        path = find_run(name_of(one), Path("runs"), "s").path
        path.rename(path.with_name(name))
    listed = said(list_command, capsys)
    assert "│ best " in listed
    assert "are called" not in listed


def test_runs_of_one_name_are_said_to_differ_and_in_what(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = [results("sft", id=f"{n}" * 8) | {"setting": f"s{n}"} for n in (1, 2)]
    write_study(tmp_path / "runs", made)
    names = [name_of(one) for one in made]
    assert "2 runs are called sft-lr1e-6-s0 and differ in a value or in their" in said(
        list_command, capsys
    )
    assert "the runs have the same name, but they differ in more than rate and seed" in said(
        compare, capsys, *names
    )
    for one, data in zip(made, "ab", strict=True):
        one["trained_on"] = data
        find_run(name_of(one), Path("runs"), "s").directory.write_results(one)
    assert "differ in their training data" in said(list_command, capsys)
    told = as_json(compare, capsys, *names)["made_otherwise"]
    assert told == "they were trained on other data"


def test_list_has_every_run_scored_or_not(study, capsys):
    text = said(list_command, capsys)
    assert "s: 3 runs" in text
    assert "0.500 ± 0.030" in text
    by_name = {one["run"]: one for one in as_json(list_command, capsys, "study=s")["runs"]}
    failed, done = (by_name[study[name].path.name] for name in ("sft", "talr"))
    assert (failed["state"], failed["reason"], failed["domain"]) == (
        "failed",
        "ValueError: no",
        None,
    )
    assert (done["state"], done["domain"], done["domain_stderr"]) == ("evaluated", 0.5, 0.03)
    files = [path for path in study["talr"].path.rglob("*") if path.is_file()]
    assert done["bytes"] == sum(path.stat().st_size for path in files)


def test_a_folder_without_runs_gives_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    none = "there is no run in runs: `talr train` makes one"
    with pytest.raises(UserError, match=f"^{none}"):
        list_command.main([])
    with pytest.raises(UserError, match=f"^tlar is not a run directory, and {none}"):
        show.main(["tlar"])
    assert not list(tmp_path.iterdir())


def test_a_name_may_be_typed_without_its_identity(study):
    beside = study["talr"].path.with_name("talr-lr2e-4-s0-at0.5-33333333")
    shutil.copytree(study["talr"].path, beside)
    assert find_run("talr-lr2e-4-s0", Path("runs"), None).path == study["talr"].path
    assert find_run("talr-lr0.0002-s0", Path("runs"), "s").path == study["talr"].path
    assert find_run("talr-lr2e-4-s0-at", Path("runs"), None).path == beside
    with pytest.raises(UserError, match="2 runs begin with talr-lr2e-4") as several:
        find_run("talr-lr2e-4", Path("runs"), None)
    named = str(several.value).rpartition("choose one of ")[2].split(", ")
    assert [find_run(one, Path("runs"), None).path for one in named] == [
        study["talr"].path,
        beside,
    ]


def test_fold_line_wraps_words_and_never_breaks_paths(monkeypatch):
    path = "runs/demo/" + "x" * 60
    line = f"  why      {'a word and ' * 9}{path}"
    assert streams.fold_line(line) == line  # where there is no terminal
    monkeypatch.setattr(streams, "terminal_width", lambda: 40)
    first, *others = streams.fold_line(line, hang=9).splitlines()
    assert first.startswith("  why      a word")
    assert all(other.startswith(" " * 11) for other in others)
    assert [one for one in (first, *others) if len(one) > 40] == [" " * 11 + path]
    assert " ".join((first, *others)).split() == line.split()


def test_show_says_what_was_chosen_and_what_came_out(study, capsys):
    text = said(show, capsys, "talr-lr2e-4", "samples=1")
    assert "made by  talr train model=tiny lr=2e-4" in text
    assert "  lr=2e-4  (1e-5)\n" in text
    assert "  dataset.train_rows=9  (" in text
    assert "trainer.epochs" not in text  # as by default
    assert "bmi-1: True, read as 23" in text
    assert "+0.290 ± " in text  # from the base of the same study
    answer = as_json(show, capsys, str(study["talr"].path))
    assert answer["values"]["lr"] == {"value": 2e-4, "default": 1e-5}
    assert answer["results"]["domain"]["score"] == 0.5
    assert answer["files"]["model"] == 3000
    assert [one["id"] for one in answer["samples"]] == ["bmi-1"]


def test_show_works_for_a_run_that_cannot_be_compared_with_its_base(study, capsys):
    run = study["talr"]
    scores = json.loads(run.results.read_text())
    scores["domain"]["answer_by"] = "likelihood"
    run.write_results(scores)
    assert "0.500 ± 0.030" in said(show, capsys, "talr")
    assert "0.500 ± 0.030" not in said(show, capsys, "base")  # it is of another run


def test_a_run_without_scores_or_config_is_shown_too(study, capsys):
    text = said(show, capsys, "sft")
    assert "state    failed" in text
    assert "reason   ValueError: no" in text
    assert "scores: none yet" in text
    with pytest.raises(UserError, match=r"3 runs begin|no run begins with x"):
        show.main(["x"])
    with pytest.raises(UserError, match=r"^/nope is not a run directory: `talr list`"):
        show.main(["/nope"])  # a place is no name, wherever runs lie


def test_of_many_runs_some_are_named_and_of_a_study_its_own(tmp_path):
    for place in [f"a/m__d/sft-lr1e-{n}-s0-0" for n in range(30)] + ["tickets/m__d/talr-0"]:
        folder = tmp_path / "runs" / place
        folder.mkdir(parents=True)
        (folder / "status.json").write_text("{}")
    for name, expected in (
        (
            "x",
            r"no run begins with x in \S+: there are (a/m__d/\S+, ){19}\S+ and 11 more",
        ),
        ("sft", r"30 runs begin with sft in \S+: choose one of .* and 10 more"),
        ("tickets", r"tickets is a study, of the runs tickets/m__d/talr-0"),
    ):
        with pytest.raises(UserError, match=f"{expected}$"):
            find_run(name, tmp_path / "runs", None)


def files_left(study):
    return {
        path.relative_to(run.path).as_posix()
        for run in study.values()
        for path in run.path.rglob("*")
    }


def test_clean_deletes_what_nothing_needs_and_no_more(study, capsys):
    before = files_left(study)
    items = as_json(clean, capsys, "--dry-run")["items"]
    assert files_left(study) == before
    assert {Path(one["path"]).name: one["bytes"] for one in items} == {
        "checkpoints": 2000,
        "results.json.damaged": 100,
    }
    assert "2.1 KiB freed" in said(clean, capsys)
    gone = {"checkpoints", "checkpoints/checkpoint-9", "checkpoints/checkpoint-9/content"}
    # The failed run goes on from its own.
    assert study["sft"].checkpoints.exists()
    assert before - files_left(study) == {*gone, "results.json.damaged"} - {"checkpoints"}
    assert not study["talr"].checkpoints.exists()


def test_clean_deletes_models_only_when_asked(study, capsys):
    said(clean, capsys)
    assert study["talr"].model.exists()
    said(clean, capsys, "models=true", "study=s")
    assert not study["talr"].model.exists()
    assert study["talr"].read_results()["domain"]["score"] == 0.5
    assert "evaluated" in said(list_command, capsys)


def test_clean_says_when_there_is_nothing_to_delete(study, capsys):
    said(clean, capsys)
    assert said(clean, capsys, "--dry-run") == "there is nothing to delete: all files are needed\n"


def test_clean_leaves_a_run_in_use_alone(study, capsys):
    with hold(study["talr"].path / LOCK):
        items = as_json(clean, capsys, "models=true")["items"]
    assert [Path(one["path"]).name for one in items] == ["results.json.damaged"]
    assert study["talr"].model.exists()


def test_clean_deletes_cache_entries_that_were_not_read_for_long(study, tmp_path, capsys):
    days = {"digests/old": 40, "digests/new": 1, "models/random-2": 40, "base_losses/old": 31}
    for name, age in days.items():
        path = tmp_path / "cache" / name
        file = path / "model.safetensors" if name.startswith("models") else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(10))
        for one in {file, path}:
            os.utime(one, 2 * (time.time() - age * 86400,))
    said(clean, capsys, "study=s")
    assert (tmp_path / "cache/digests/old").exists()  # not of the study
    said(clean, capsys)
    found = {p.relative_to(tmp_path / "cache").as_posix() for p in (tmp_path / "cache").glob("*/*")}
    assert found == {"digests/new", "models/random-2"}
    said(clean, capsys, "models=true", "unused_days=50")
    assert (tmp_path / "cache/models/random-2").exists()
    said(clean, capsys, "models=true")
    assert not (tmp_path / "cache/models/random-2").exists()


def test_reading_commands_give_the_numbers_they_show(study, tmp_path, capsys):
    rows = as_json(report, capsys, "study=s")["runs"]
    assert [(one["method"], one["domain"]) for one in rows] == [("base", 0.21), ("talr", 0.5)]
    parts = as_json(compare, capsys, "base", "talr", "study=s")["parts"]
    assert {one["part"]: one["b"] for one in parts} == {"domain": 0.5, "general": 0.4}
    said(compare, capsys, "base", "talr", "study=s", "json=out.json")
    assert json.loads(Path("out.json").read_text())["parts"] == parts
    with pytest.raises(UserError, match=r"json=no/out.json: no is not a directory"):
        report.main(["study=s", "json=no/out.json"])
    with pytest.raises(UserError):  # no items, so that nothing is recommended
        recommend.main(["study=s", "json=-"])
    assert json.loads(capsys.readouterr().out)["failed"]


def test_doctor_names_what_would_stop_an_experiment(study, tmp_path, monkeypatch, capsys, no_hub):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("talr_cli.sweep.machine.choices_of", lambda *_: ["paper/medcalc"])
    checks = {one["name"]: one for one in as_json(doctor, capsys)["checks"]}
    assert checks["packages"]["state"] == "ok"
    assert checks["W&B"]["detail"] == "WANDB_MODE=offline"
    assert checks["hub"]["state"] == "note"
    stopped = checks["experiment=paper/medcalc"]
    assert stopped["state"] == "problem"
    assert "ncbi/MedCalc-Bench-v1.0 is not in the cache" in stopped["detail"]
    assert "suite=paper" in stopped["detail"]


@pytest.mark.parametrize("address", ["http://two words", "http://hub:port", "hub", "http://[::1"])
def test_an_invalid_address_of_the_hub_is_reported_as_unreachable(address, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    found = machine.check_hub()
    assert found.state == "problem"
    assert f"{address} cannot be reached" in found.detail


def test_sizes_have_two_digits_at_least():
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 KiB", 20 * 2**10: "20 KiB", 3 * 2**31: "6.0 GiB"}
    assert {size: format_size(size) for size in sizes} == sizes


def test_a_study_without_scores_names_those_that_have_some(study):
    with pytest.raises(UserError, match="` first; studies with scores: s"):
        scored_runs(Path("runs"), "default")
