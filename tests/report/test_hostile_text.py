"""Names and answers of others are shown as text wherever they are written, and act nowhere."""

import ast
import io
import json
import re
import shlex
import subprocess
import unicodedata
from pathlib import Path

import matplotlib
import pytest
from rich.console import Console
from synthetic_study import results, scored, write_study

from talr_cli.printable import command_line, printable
from talr_cli.report.claims.text import as_document, as_lines
from talr_cli.report.claims.verdicts import Finding
from talr_cli.report.figures.looks import wrapped
from talr_cli.report.flips import as_text, flipped_items
from talr_cli.report.markdown import code, escaped
from talr_cli.report.model_card import _data_name, _usage, model_card
from talr_cli.report.show import show
from talr_cli.report.study_report import write_report
from talr_cli.report.tables.cells import Cell, Cells, Column, as_csv, as_markdown
from talr_cli.report.tables.latex import as_latex
from talr_cli.report.tables.screen import fitted
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import load_runs
from talr_cli.statistics.groups import comparable, left_out_lines

ESCAPES = "\x1b[31mred\x1b[0m\x07\x9b2J"
EVIL = f"a|b\nc\r{ESCAPES} [link](http://x) <img src=x> `c` *d* _e_ $f$ \u202eg\u2028h \ud800"


def acts(text, but=""):
    """What a terminal or an editor would obey rather than show."""
    kinds = ("Cc", "Cs", "Zl", "Zp")
    return [c for c in text if (unicodedata.category(c) in kinds or c == "\u202e") and c not in but]


def test_what_cannot_be_seen_is_spelt_out_and_the_rest_stays():
    assert printable("größe 漢字 👩\u200d🚀 Δ ± \\n") == "größe 漢字 👩\u200d🚀 Δ ± \\n"
    assert printable("a\nb\x1b[0m\u202e\ud800") == r"a\nb\x1b[0m\u202e\ud800"
    assert acts(EVIL)
    assert not acts(printable(EVIL))
    assert printable("a\u200bb\u00adc\ufeff") == r"a\u200bb\xadc\ufeff"


TABLE = Cells([Column("x", EVIL), Column("y", "y", number=True)], [[Cell(EVIL, EVIL), Cell("1")]])


@pytest.mark.parametrize("write", [as_markdown, as_csv, as_latex])
def test_a_table_keeps_its_lines_and_cells(write):
    text = write(TABLE)
    assert not acts(text, but="\n")
    text.encode("utf-8")
    lines = {as_markdown: 3, as_csv: 2, as_latex: 8}[write]
    assert len(text.splitlines()) == lines


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)"])
def test_a_spreadsheet_computes_no_name(name):
    """Numbers stay what they are: -0.5 begins like a formula."""
    cells = Cells(
        [Column("x", name), Column("y", "y", number=True)], [[Cell(name, name), Cell("", -0.5)]]
    )
    assert as_csv(cells).splitlines()[1].lstrip('"').startswith(f"'{name[0]}")
    assert as_csv(cells).splitlines()[1].endswith(",-0.5")


def test_markdown_shows_markup_as_text():
    *_, row = as_markdown(TABLE).splitlines()
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert r"[link\](http://x)" in row
    assert r"\<img src=x\> \`c\` \*d\* \_e\_ \$f\$" in row
    for plain in ("mini_knowledge, acc_norm", "+0.1 [-0.2, +0.3]", "p ≥ 0.2", "averaging α=0.5"):
        assert escaped(plain) == plain


def test_code_is_not_ended_by_what_stands_in_it():
    assert code("org/model") == "`org/model`"
    assert code("a`b") == "``a`b``"
    assert code("``") == "``` `` ```"


def test_latex_has_no_line_end_within_a_cell():
    (line,) = (line for line in as_latex(TABLE).splitlines() if "img" in line and "& $1$" in line)
    assert line.endswith(r"\\")
    assert r"\textbackslash{}x1b{[}31m" in line


def test_the_terminal_gets_no_escape_sequence_of_a_name():
    console = Console(width=400, file=io.StringIO(), force_terminal=False)
    console.print(fitted(TABLE, 400))
    assert not acts(console.file.getvalue(), but="\n")
    one = results(EVIL, model=EVIL, dataset=EVIL, id="1")
    other = results(EVIL, model=EVIL, dataset=EVIL, id="2")
    other["domain"]["scorer"] = EVIL
    base = results("base", model=EVIL, dataset=EVIL, id="3")
    for line in left_out_lines(comparable([base, one, other])):
        assert not acts(line)
    finding = Finding(1, printable(EVIL), "d", "not testable here", reason=EVIL)
    assert not acts("".join(as_lines([finding])))
    assert not acts(as_document([finding], None), but="\n")


def test_a_run_that_is_shown_keeps_the_terminal_as_it_is(tmp_path, capsys):
    one = scored("sft", [1, 0], {"a\x1b[31mb": [1, 0]}, model="m", id="1")
    one["general"]["tasks"]["a\x1b[31mb"]["all"] = {"f1\x07,none": 0.5}
    directory = RunDirectory(tmp_path)
    directory.write_results(one)
    show([directory])
    shown = capsys.readouterr().out
    assert r"a\x1b[31mb: acc 0.500" in shown
    assert not acts(shown, but="\n")


def test_a_report_of_hostile_names_is_whole(tmp_path):
    evil = EVIL.replace("\ud800", "")  # JSON on disk is UTF-8, and cannot hold half a character
    runs = [
        results(evil, model=evil, dataset=evil, id="1"),
        results("sft", model=evil, dataset=evil, id="2", seed=1),
    ]
    runs[0]["domain"]["categories"] = {evil: {"score": 0.5, "stderr": None, "n": 2}}
    write_study(tmp_path, runs, steps=4)
    page = write_report(load_runs(tmp_path, "s"), "s", tmp_path / "s" / "report").page
    for file in page.parent.iterdir():
        if file.suffix in (".html", ".md", ".csv", ".tex"):
            assert not acts(file.read_text(encoding="utf-8"), but="\n"), file
    assert "<img src=x>" not in page.read_text(encoding="utf-8")


def test_a_name_in_a_picture_is_no_formula_and_no_line_end():
    shown = wrapped(EVIL, 500)
    assert not acts(shown)
    assert r"\$f\$" in shown
    figure = matplotlib.figure.Figure()
    figure.suptitle(shown)
    figure.savefig(io.BytesIO(), format="svg")


def sample(key, **changes):
    one = {"id": key, "messages": [{"content": f"{ESCAPES} question"}], "output": "answer\x1b[2J"}
    return json.dumps(one | changes)


def test_answers_are_shown_without_what_they_would_do(tmp_path, caplog):
    before, after = (scored("a", right, {"a": [1, 0]}) for right in ([1, 0, 1], [0, 1, 0]))
    (tmp_path / "samples").mkdir()
    lines = [sample("0"), '{"id": "1", "mess', sample("1", output=None), sample("2")]
    (tmp_path / "samples" / "domain.jsonl").write_text("\n".join(lines) + "\n")
    found = flipped_items((tmp_path, before), (tmp_path, after))
    assert [flip["id"] for flip in found] == ["0", "1", "2"]
    assert [flip["output_a"] is None for flip in found] == [False, True, False]
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "samples/domain.jsonl: line 2 and 1 more damaged, left out" in warning
    shown = as_text(found, 3)
    assert r"answer\x1b[2J" in shown
    assert not acts(shown, but="\n")


@pytest.mark.parametrize("argument", ["a b", "it's", "x\ny", "a\\b\n'c'", "größe", "$HOME `id`"])
def test_a_command_of_a_card_is_one_line_that_a_shell_reads_back(argument):
    line = command_line(["printf", "%s", argument])
    assert not acts(line)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == argument
    assert command_line(["talr", "lr=1e-5"]) == shlex.join(["talr", "lr=1e-5"])


def test_a_card_of_hostile_names_is_a_card(tmp_path):
    one = scored("sft", [1, 0], {EVIL[:40]: [1, 0]}, model="m", id="1")
    write_study(tmp_path, [one])
    (path,) = tmp_path.glob("s/*/sft-*")
    evil = EVIL.replace("\ud800", "")
    config = {
        "model": {
            "path": evil,
            "random_init": None,
            "template_arguments": {"a": "```\n", "b=exec('1'), c": 1},
        },
        "dataset": {"name": evil},
        "trainer": {"epochs": 1.0, "batch_size": 8},
    }
    directory = RunDirectory(path)
    directory.prepare(config, [f"model.path={evil}"], "f" * 64)
    text = model_card(directory, 'x"y\n# z')
    assert not acts(text, but="\n")
    assert [line for line in text.splitlines() if line.startswith("# ")] == [r'# x"y\\n\# z']
    assert text.count("```") == 2
    prose = text.split("\n---\n")[1].partition("Commands:")[0].replace(code(evil), "")
    assert "link" in prose
    assert not re.findall(r"(?<!\\)\]\(|(?<!\\)<img", prose)
    code_of_card = text.split("```python\n")[1].split("```")[0]
    calls = [one.func for one in ast.walk(ast.parse(code_of_card)) if isinstance(one, ast.Call)]
    assert "exec" not in [one.id for one in calls if isinstance(one, ast.Name)]
    assert json.dumps('x"y\n# z') in code_of_card


def test_plain_names_stay_as_they_are():
    config = {"dataset": {"name": "medcalc", "hub_id": "org/MedCalc", "path": None}}
    assert _data_name(config) == "medcalc (org/MedCalc)"
    model = {"template_arguments": {"enable_thinking": False}}
    assert 'from_pretrained("shipped")' in _usage({"model": model}, "shipped")
    assert "enable_thinking=False" in _usage({"model": model}, "shipped")
    assert Path(printable("runs/s")) == Path("runs/s")
