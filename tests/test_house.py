"""The house: imports go one way, Hydra is known at the edge alone, files stay short."""

import ast
import re
from pathlib import Path

import talr_cli

ROOT = Path(talr_cli.__file__).parent
# From the roof down: a room may import from those in lines below it and from itself.
FLOORS = [
    ["cli", "api"],
    ["commands"],
    ["sweep"],
    ["config"],
    ["run"],
    ["training", "evaluation", "report"],
    ["methods", "statistics"],
    ["data"],
    ["scorers", "models"],
    ["ranks", "tracking"],
    ["fields"],
    ["runs"],
    ["interruption", "progress"],
    ["errors", "printable", "streams"],
]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
LONGEST = 350  # lines
DATA_FILES = {"medcalc_mini_calculators.py"}
SOURCES = sorted(ROOT.rglob("*.py"))


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """(line, room) of every import of ours, in functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("talr_cli"):
            if node.module == "talr_cli":
                for name in node.names:
                    yield node.lineno, name.name
            else:
                yield node.lineno, node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("talr_cli."):
                    yield node.lineno, name.name.split(".")[1]


def test_imports_go_down_the_house():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {room}"
        for path in SOURCES
        if (own := room_of(path)) != "__init__"
        for line, room in imported(path)
        if room in FLOOR and room != own and FLOOR[room] <= FLOOR[own]
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_floor():
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms == set(FLOOR)


def test_only_config_and_the_grid_know_hydra():
    """Beside the room: the grid of a sweep, and the launchers of Hydra that a sweep may use."""
    known = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if re.search(r"DictConfig|OmegaConf|instantiate\(|import instantiate", path.read_text())
    }
    assert {one for one in known if not one.startswith("config/")} <= {
        "sweep/grid.py",
        "commands/sweep.py",
    }


def test_every_config_parameter_has_a_type():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.arg)
        and node.arg == "config"
        and (node.annotation is None or ast.unparse(node.annotation) == "Any")
    ]
    assert not wrong


def test_no_file_is_longer_than_the_limit():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long = {path.name for path, count in lines.items() if count > LONGEST}
    assert long <= DATA_FILES
