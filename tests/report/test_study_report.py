"""The page of a study: whole, closed, harmless; in a browser where there is one."""

import base64
import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest
from synthetic_study import METHODS, results, scored, study, write_study

from talr_cli.commands.report import show_report
from talr_cli.errors import UnwritableError
from talr_cli.report.study_report import write_report
from talr_cli.runs.study import load_runs

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = "<script>alert(1)</script>&\"'$x|{y}_%"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Page(html.parser.HTMLParser):
    """Fails on a tag that is not closed; keeps what is on the page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.cells = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


def report(folder, runs, steps=20):
    write_study(folder, runs, steps)
    return write_report(load_runs(folder, "s"), "s", folder / "s" / "report").page


def pictures(page):
    return [
        base64.b64decode(value.partition("base64,")[2]).decode()
        for name, value in page.attributes
        if name == "src"
    ]


@pytest.mark.parametrize("runs", [0, 1, 36])
def test_the_page_is_whole_and_asks_nobody(tmp_path, runs):
    path = report(tmp_path, study(runs, seeds=3, methods=METHODS[:3]))
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "://" not in text
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "srcset")]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    ids = {value for name, value in page.attributes if name == "id"}
    links = [value for name, value in page.attributes if name == "href"]
    assert {link[:1] for link in links} == {"#"}
    assert {link[1:] for link in links} == ids
    for svg in pictures(page):
        assert not re.search(r"(href|src)=\"(?!#)|url\((?!#)|<script|@import", svg)
    assert len(page.cells) >= 9 * (runs + 1)


def test_everything_is_there_once_for_each_pair(tmp_path):
    other = results("sft", model="org/bigger", id="b")
    page = report(tmp_path, [*study(6, methods=["sft", "talr"], seeds=3), other])
    files = {path.name for path in page.parent.iterdir()}
    for name in ("table", "methods", "seeds", "cost"):
        assert {f"{name}.md", f"{name}.csv", f"{name}.tex"} <= files
    for pair in ("small__medcalc", "org-bigger__medcalc"):
        assert {f"{name}-{pair}.svg" for name in ("tradeoff", "score-by-lr", "loss")} <= files
    text = page.read_text(encoding="utf-8")
    assert [text.count(f"<h2>{pair} on medcalc</h2>") for pair in ("small", "org/bigger")] == [1, 1]
    assert text.count("The base model was not scored") == 1
    assert not [name for name in files if name.endswith(".tmp")]


def test_the_page_begins_with_what_its_reader_asks_first(tmp_path):
    base = scored("base", [1, 0, 1, 1, 0, 0] * 5, {"words": [1, 1, 0, 0] * 9})
    tuned = scored("sft", [1] * 30, {"words": [1] * 36}, lr=1e-6, id="one")
    text = report(tmp_path, [base, tuned]).read_text(encoding="utf-8")
    titles = re.findall("<h[23]>(.*?)</h[23]>", text)
    assert titles == [
        "small on medcalc",
        "Which run to ship",
        "What is gained and what is lost",
        "Methods by learning rate",
        "Which abilities were lost",
        "Answers that changed",
        "Curves",
        "Cost",
        "How it was made",
        "Data",
        "Versions and time",
    ]
    assert "<dt>ship</dt><dd>sft-lr1e-6-s0-one</dd>" in text
    assert text.count("Intervals of this part are of one checkpoint") == 1


def test_names_are_text_wherever_they_stand(tmp_path):
    evil = results(EVIL, model=EVIL, dataset=EVIL)
    text = report(tmp_path, [evil, results("sft", model=EVIL, dataset=EVIL, id="1")]).read_text(
        encoding="utf-8"
    )
    page = Page(text)
    assert page.tags.count("script") == 1
    assert EVIL in page.cells


@pytest.mark.parametrize("part", ["domain", "general", "drift", "training", "weights", "versions"])
def test_a_part_that_is_missing_is_no_error(tmp_path, part):
    runs = study(8, methods=["sft", "talr"])
    for one in runs[1:]:
        one[part] = {} if part == "versions" else None
    if part in ("training", "weights"):  # nor the metrics of a training
        runs[0][part] = None
        for one in runs:
            one["training"] = None
    Page(report(tmp_path, runs).read_text(encoding="utf-8"))


def test_the_same_runs_give_the_same_bytes(tmp_path):
    page = report(tmp_path, study(4, methods=["sft", "talr"]))
    before = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    write_report(load_runs(tmp_path, "s"), "s", page.parent)
    assert {path.name: path.read_bytes() for path in page.parent.iterdir()} == before


def test_what_a_study_found_is_printed_where_its_page_cannot_be_written(tmp_path, capsys):
    write_study(tmp_path / "runs", study(40, methods=["sft", "talr"]), steps=2)
    (tmp_path / "runs" / "s" / "report").write_text("mine")
    asked = tmp_path / "asked.json"
    runs = load_runs(tmp_path / "runs", "s")
    with pytest.raises(UnwritableError, match="report: it is a file, not a folder"):
        show_report(tmp_path / "runs", "s", runs, target=str(asked))
    said = capsys.readouterr().out
    assert "┃ method ┃" in said
    assert str(tmp_path) not in said  # no file is named that is not there
    content = json.loads(asked.read_text())
    assert len(content["runs"]) == len(runs)
    assert content["page"] is None


def test_two_hundred_runs_through_the_command(tmp_path):
    write_study(tmp_path / "runs", study(200, seeds=4), 300)
    done = subprocess.run(
        [sys.executable, "-m", "talr_cli.cli", "report", "study=s"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "report: runs/s/report/report.html"
    # Of fifty settings the best of each method, and where the others are.
    assert sum("averaging" in line for line in lines) == 1
    assert len(lines) < 40
    (said,) = (line for line in lines if line.startswith("seeds averaged"))
    assert "of 51 settings; all 201 runs: runs/s/report/table.md" in said
    text = (tmp_path / "runs/s/report/report.html").read_text(encoding="utf-8")
    Page(text)
    assert len(re.findall(r'<td data-value="(True|False)"', text)) == 201  # on the front or not


def browse(page, script, tmp_path):
    """What `script` returns in a headless browser that has loaded the page."""
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome")
    copy = tmp_path / "page.html"
    asked = (
        "<script>addEventListener('load', () => { document.body.dataset.answer = "
        f"JSON.stringify((() => {{ {script} }})()) }})</script></body>"
    )
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", asked), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={tmp_path}/profile", "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "CONSOLE" not in done.stderr, done.stderr  # an error, or something the policy forbids
    answer = re.search(r'data-answer="([^"]*)"', done.stdout)
    assert answer, done.stderr
    return json.loads(html.unescape(answer[1]))


def test_a_browser_shows_every_picture(tmp_path):
    page = report(tmp_path, study(8, methods=["sft", "talr"]))
    widths = browse(page, "return [...document.images].map(one => one.naturalWidth)", tmp_path)
    assert len(widths) == 7  # trade-off, by rate, and five curves
    assert min(widths) > 200


@pytest.mark.parametrize(("clicks", "sign"), [(1, 1), (2, -1)])
def test_a_browser_sorts_by_value_and_keeps_unknown_last(tmp_path, clicks, sign):
    runs = study(8, methods=["sft", "talr"])
    runs[3]["domain"] = None
    for place, score in ((4, -0.5), (5, -1.5), (6, 2.5), (7, 10.5)):  # texts sort otherwise
        runs[place]["domain"]["score"] = score
    page = report(tmp_path, runs)
    script = f"""
        const titles = [...document.querySelectorAll("summary")];
        const title = titles.find(one => one.textContent === "Every run");
        const button = title.parentElement.querySelectorAll("th button")[3];
        for (let i = 0; i < {clicks}; i++) button.click();
        return [...button.closest("table").tBodies[0].rows].map(row => row.cells[3].dataset.value);
    """
    values = browse(page, script, tmp_path)
    expected = sorted((one["domain"]["score"] for one in runs if one["domain"]), reverse=sign < 0)
    assert [float(value) for value in values[:-1]] == pytest.approx(expected)
    assert values[-1] == ""
