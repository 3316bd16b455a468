"""The pages of the project: links that lead somewhere, commands that exist, one version."""

import re
from pathlib import Path

import yaml

from talr_cli import __version__
from talr_cli.cli import COMMANDS
from talr_cli.config.commands import COMMANDS as CONFIGS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_links_lead_to_files():
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_commands_that_are_shown_exist():
    shown = {
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(
            r"^ {4}talr ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        if name not in COMMANDS
    }
    assert not shown
    assert COMMANDS.keys() == CONFIGS.keys() | {"completion"}


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["license"] == "Apache-2.0"
