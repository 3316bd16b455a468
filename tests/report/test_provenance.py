"""How the runs of a study were made, as the page says it: commands, rows, versions, time."""

import json
import os
import shlex

import yaml
from synthetic_study import BASE, results, training, write_config, write_study

from talr_cli.report.provenance import asks_for_claims, commands, data_cells, made_with
from talr_cli.report.tables.cells import as_markdown
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.stored_overrides import current_overrides
from talr_cli.runs.study import load_runs
from talr_cli.statistics.groups import comparable


def study(folder, points, base=("model=small",)):
    """Runs of (method, rate as it was typed, seed)."""
    runs = [BASE]
    for place, (method, rate, seed) in enumerate(points):
        runs.append(results(method, float(rate), seed, id=f"{place:08x}"))
    write_study(folder, runs, steps=2)
    found = load_runs(folder, "s")
    for path, one in found.items():
        run = one["run"]
        typed = list(base)
        if run["lr"] is not None:
            rate = next(r for m, r, s in points if (m, float(r), s) == tuple(map(run.get, AXES)))
            typed = ["experiment=a b", f"method={run['method']}", f"lr={rate}"]
            typed.append(f"seed={run['seed']}")
        (path / "overrides.yaml").write_text(yaml.safe_dump(typed))
    return found


AXES = ("method", "lr", "seed")


def test_a_whole_grid_is_one_sweep_in_the_order_of_its_values(tmp_path):
    points = [(m, r, s) for m in ("talr", "sft") for r in ("0.0002", "2e-05") for s in (1, 0)]
    assert commands(study(tmp_path, points)) == [
        "talr eval model=small",
        "talr sweep 'experiment=a b' method=sft,talr lr=2e-5,2e-4 seed=0,1",
    ]


def test_runs_that_are_no_grid_are_told_method_by_method(tmp_path):
    points = [("sft", "1e-5", 0), ("sft", "1e-4", 0), ("talr", "1e-4", 0), ("l2", "1e-4", 1)]
    points.append(("l2", "1e-5", 0))
    assert sorted(commands(study(tmp_path, points))[1:]) == [
        "talr sweep 'experiment=a b' method=sft lr=1e-5,1e-4 seed=0",
        "talr train 'experiment=a b' method=l2 lr=1e-4 seed=1",
        "talr train 'experiment=a b' method=l2 lr=1e-5 seed=0",
        "talr train 'experiment=a b' method=talr lr=1e-4 seed=0",
    ]


def test_rates_with_the_same_seeds_are_one_command(tmp_path):
    points = [("sft", rate, seed) for rate in ("1e-5", "2e-5", "6e-5") for seed in (0, 1)]
    points.append(("sft", "2e-5", 2))
    assert sorted(commands(study(tmp_path, points))[1:]) == [
        "talr sweep 'experiment=a b' method=sft lr=1e-5,6e-5 seed=0,1",
        "talr sweep 'experiment=a b' method=sft lr=2e-5 seed=0,1,2",
    ]


def test_needless_quotes_are_left_out(tmp_path):
    base = ("study='facts'", "suite.tasks=['a','null']", "x='1'", "y='a b'")
    (line,) = commands(study(tmp_path, [], base))
    typed = ["talr", "eval", "study=facts", "suite.tasks=[a,'null']", "x='1'", "y='a b'"]
    assert shlex.split(line) == typed
    (file,) = tmp_path.rglob("overrides.yaml")
    assert current_overrides(RunDirectory(file.parent)) == typed[2:]


def test_rows_say_where_they_are_from(tmp_path):
    runs = study(tmp_path, [("sft", "1e-5", 0), ("sft", "2e-5", 0)])
    for path, one in runs.items():
        rate = one["run"]["lr"]
        trained = {"rows": 48, "rows_hash": "abababababab"} if rate == 1e-5 else {"rows": 4}
        one["training"] = rate and {**training(), **trained}
        file = "data/few.jsonl" if rate == 2e-5 else "data/rows.jsonl"
        settings = {"_target_": "a.B", "name": "medcalc", "train": file, "test": None}
        write_config(path, {"dataset": settings})
    lines = as_markdown(data_cells(comparable(runs.values()), runs)).splitlines()[2:]
    assert lines == [
        "| training | 4 | – | medcalc (train=data/few.jsonl) |",
        "| training | 48 | abababab | medcalc (train=data/rows.jsonl) |",
        "| domain test | 72 | d0d0d0d0 | medcalc (train=data/rows.jsonl) |",
    ]


def test_versions_and_time_are_those_of_all_runs(tmp_path):
    runs = study(tmp_path, [("sft", "1e-5", 0), ("talr", "1e-5", 0)])
    for hour, (path, one) in enumerate(runs.items(), 10):
        times = {"evaluated": f"2026-05-03T{hour}:20:30+00:00"}
        (path / "status.json").write_text(json.dumps({"state": "evaluated", "times": times}))
        environment = {"python": "3.11.7", "gpus": [], "cpu": "a CPU", "git_commit": "f" * 40}
        (path / "env.json").write_text("{" if hour == 11 else json.dumps(environment))
        one["versions"]["torch"] = f"2.{hour}"
    told = dict(made_with(runs))
    assert told["made"] == "2026-05-03 10:20 to 2026-05-03 12:20 UTC"
    assert told["torch"] == "2.10, 2.11, 2.12"
    assert (told["python"], told["machine"], told["commit"]) == ("3.11.7", "a CPU", "f" * 12)


def test_runs_of_which_nothing_is_known_are_no_error(tmp_path):
    write_study(tmp_path, [BASE, results("sft")], steps=2)
    runs = load_runs(tmp_path, "s")
    assert commands(runs) == []
    assert len(data_cells(comparable(runs.values()), runs).rows) == 2


def test_pipes_in_the_place_of_files_are_not_waited_for(tmp_path):
    write_study(tmp_path, [results("sft")])
    runs = load_runs(tmp_path, "s")
    (path,) = runs
    for name in ("env.json", "config.yaml", "overrides.yaml", "status.json"):
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)
    assert made_with(runs)
    assert commands(runs) == []
    assert not asks_for_claims(runs)
    (path / "status.json").unlink()
    (path / "status.json").write_text('{"times": ["2026"]}')
    assert "made" not in dict(made_with(runs))
