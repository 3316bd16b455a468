"""The pages of the project: links that lead somewhere, commands that exist, one version."""

import re
from pathlib import Path

import yaml

from talr_cli import __version__
from talr_cli.cli import COMMANDS
from talr_cli.config.commands import COMMANDS as CONFIGS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)


def anchors(page):
    """Of the headings, as GitHub and mkdocs name them."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).strip()
        found.add(re.sub(r" ", "-", words))
    return found


def test_links_lead_to_files_and_headings():
    broken = []
    for page in PAGES:
        for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            place = page.parent / path if path else page
            if not place.exists() or (anchor and anchor not in anchors(place)):
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_every_page_is_on_the_site():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {
        page
        for section in config["nav"]
        for entry in section.values()
        for page in ([entry] if isinstance(entry, str) else entry)
    }
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= listed


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
