"""The pages of the project: links that lead somewhere, commands that exist, one version."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from talr_cli import __version__
from talr_cli.cli import COMMANDS
from talr_cli.config import composition
from talr_cli.config.commands import COMMANDS as CONFIGS
from talr_cli.printable import rate_text

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


def test_a_heading_stands_after_a_blank_line():
    joined = [
        f"{page.name}: {found}"
        for page in PAGES
        for found in re.findall(r"[^\n]\n(#+ .*)", CODE.sub("", page.read_text(encoding="utf-8")))
    ]
    assert not joined


def test_a_list_stands_after_a_blank_line():
    """The site shows others as a paragraph."""
    item = re.compile(r"(?:- |\d+\. )")
    joined = []
    for page in PAGES:
        lines = CODE.sub("\n", page.read_text(encoding="utf-8")).splitlines()
        joined += [
            f"{page.name}: {line}"
            for above, line in itertools.pairwise(lines)
            if item.match(line) and above.strip() and not item.match(above) and above[0] != " "
        ]
    assert not joined


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


def typed_commands():
    """(command, its words) of the pages, a command of several lines as one; comments left out."""
    line = re.compile(r"^ {4}(?:[A-Z_]+=\S+ )?(talr (?:.*\\\n)*.*)$", re.MULTILINE)
    for page in PAGES:
        if page.name.startswith("walk-"):
            continue  # test_walks.py runs them
        for found in line.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            words = shlex.split(found.replace("\\\n", " "), comments=True)
            for stop in (";", "|", "&"):
                words = words[: words.index(stop)] if stop in words else words
            yield tuple(word.rstrip(";") for word in words[1 : _end(words)])
    for page in PAGES:
        text = CODE.sub("", page.read_text(encoding="utf-8"))
        for found in re.findall(r"`talr ([a-z]+ [^`]+)`", text):
            words = found.split() if "'" not in found else shlex.split(found)
            # Within a sentence a command may stand for many: `talr train ...`, `study=STUDY`.
            if not re.search(r"\.\.\.|--help|--config-dir|[|&]|\b[A-Z_]{2,}\b", found):
                yield tuple(words)


def _end(words):
    """A line may hold several commands."""
    return next((n + 1 for n, word in enumerate(words) if word.endswith(";")), len(words))


POSITIONAL = {"compare": ("a", "b"), "show": ("run",), "logs": ("run",)}
OF_RUNS = {"sweep": "train", "search": "train", "fetch": "train"}
FILES_OF_A_PAGE = ("--config-dir", "dataset.scorer=extraction.fields", "dataset.scorer=team.judge")


def composed(command, words):
    """What the words come to, of a grid its first run."""
    if command in OF_RUNS:
        words = [word for word in words if word != "--dry-run"]
        given = composition.split_grid_arguments(command, CONFIGS[command], words)
        composed(OF_RUNS[command], [first(word) for word in given.of_runs])
        return
    keys = iter(POSITIONAL.get(command, ()))
    words = [word if "=" in word else f"{next(keys)}={word}" for word in words]
    composition.compose_config(command, words)


def first(word):
    """The override, or of a list the first."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    if override.is_interval_sweep():
        return f"{override.key_or_group}={override.value().start}"
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize("command", sorted(CONFIGS))
def test_commands_that_are_shown_compose(command, tmp_path, monkeypatch):
    """Those of files that a page brings along are run by the page's own test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, *words in sorted(set(typed_commands())):
        if name == command and not set(words) & set(FILES_OF_A_PAGE):
            own = [word for word in words if not word.lstrip("+").startswith("hydra.launcher")]
            composed(
                name,
                [{"--dry-run": "dry_run=true"}.get(one, one) for one in own]
                if name == "clean"
                else own,
            )


def names_in_code(*left_out):
    """(page, word) of all that is set in code within a line of the pages."""
    for page in PAGES:
        if page.name in left_out:
            continue
        text = CODE.sub("", page.read_text(encoding="utf-8"))
        for code in re.findall(r"`([^`\n]+)`", text):
            for word in code.split():
                yield page.name, word.strip("'")


def choices():
    """{group: names} of conf/ and of the files that pages bring along."""
    files = [path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")]
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    files += [Path(own) for text in texts for own in re.findall(r"mine/(\S+?\.yaml)", text)]
    found = {}
    for file in files:
        group, _, name = file.with_suffix("").as_posix().partition("/")
        found.setdefault(group, set()).add(name)
    return {group: names for group, names in found.items() if names != {""}}


def test_values_and_choices_that_are_named_exist():
    """CHANGELOG.md names values that are no more."""
    table = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    values = set(re.findall(r"^\| `([\w.]+)`", table, re.MULTILINE))
    groups = choices()
    # What begins so is a config value; `domain.` and `model.` begin keys and files of runs too.
    parts = {value.partition(".")[0] for value in values if "." in value} - {"domain", "model"}
    unknown = []
    for page, word in names_in_code("config.md", "CHANGELOG.md"):
        key, equals, value = word.lstrip("+").partition("=")
        if not re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)*", key) or value.startswith('"'):
            continue
        known = key in values or key.startswith(("suite.metrics.", "hydra.launcher."))
        if key in groups and equals:
            names = [name for name in value.split(",") if re.fullmatch(r"[a-z][\w./-]*", name)]
            unknown += [f"{page}: {word}" for name in names if name not in groups[key]]
        elif equals or ("." in key and key.partition(".")[0] in parts):
            unknown += [] if known or (not equals and key in groups) else [f"{page}: {word}"]
    assert not unknown


def test_files_modules_and_targets_that_are_named_exist():
    rooms = ("tests", "scripts", "talr_cli", "conf", "docs")
    house = {path.name for path in (ROOT / "talr_cli").iterdir() if path.is_dir()}
    missing = []
    for page, word in names_in_code():
        path = re.split(r"[:,]", word)[0]
        first = path.partition("/")[0]
        if "/" not in path or re.search(r"[*{<]|NAME", path):
            continue
        if first in rooms and not (ROOT / path).exists():
            missing.append(f"{page}: {word}")
        if first in house and path.endswith(".py") and not (ROOT / "talr_cli" / path).exists():
            missing.append(f"{page}: {word}")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE):
            missing += [] if target in targets else [f"{page.name}: make {target}"]
    assert not missing


def test_learning_rates_in_run_names_are_written_as_on_disk():
    rates = {
        (page.name, rate)
        for page in PAGES
        for rate in re.findall(r"-lr(\d[\d.e-]*\d)\b", page.read_text(encoding="utf-8"))
    }
    assert rates
    assert not {(page, rate) for page, rate in rates if rate_text(float(rate)) != rate}


def test_citation_and_changelog_have_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["license"] == "Apache-2.0"
