"""LaTeX that LaTeX takes, whatever a method is called."""

import re
import shutil
import subprocess

import pytest
from synthetic_study import BASE, results, study

from talr_cli.report.tables.cells import Cell, Cells, Column
from talr_cli.report.tables.latex import as_latex
from talr_cli.report.tables.table import results_cells, study_rows
from talr_cli.statistics.groups import comparable

NASTY = r"a_b%c&d#e$f{g}h~i^j\k<l>m|n[o]*p"
PREAMBLE = r"\documentclass{article}\usepackage{booktabs}\usepackage{longtable}\begin{document}"


def test_special_characters_are_escaped():
    text = as_latex(results_cells(study_rows(comparable([BASE, results(NASTY)]))))
    line = next(line for line in text.splitlines() if "a" in line and r"\_b" in line)
    bare = re.sub(r"\\[_%&#${}]|\\text\w+\{\}|\$[^$]*\$|\\\\$", "", line)
    assert not re.search(r"[_%#$~^\\|<>]", bare)
    assert bare.count("&") == 9  # of ten columns


def test_numbers_are_typeset_as_numbers():
    text = as_latex(
        results_cells(study_rows(comparable([BASE, results("sft", lr=5e-6, general=(0.4, 0.04))])))
    )
    assert r"sft & $5 \times 10^{-6}$ & $0$ & $0.300 \pm 0.030$ & $+0.090 \pm 0.042$ & " in text
    assert r"$-0.060 \pm 0.050 \approx 0$" in text
    assert "–" not in text
    change = as_latex(Cells([Column("a", "a")], [[Cell("-0.064 [-0.094, +1e-05] ≈ 0")]]))
    assert r"$-0.064\ [-0.094, +1 \times 10^{-5}] \approx 0$" in change  # minus signs, not hyphens


def test_a_cell_is_not_read_as_an_option_of_the_line_before():
    text = as_latex(Cells([Column("a", "a")], [[Cell("x")], [Cell("[1cm]")], [Cell("*")]]))
    assert not re.search(r"\\\\\s*[\[*]", text)


@pytest.mark.parametrize("runs", [0, 3, 200])
def test_the_table_compiles(tmp_path, runs):
    engine = shutil.which("tectonic") or shutil.which("pdflatex")
    if engine is None:
        pytest.skip("no LaTeX engine")
    table = as_latex(results_cells(study_rows(comparable([*study(runs, 4), results(NASTY)]))))
    (tmp_path / "table.tex").write_text(table, encoding="utf-8")
    page = tmp_path / "page.tex"
    page.write_text(rf"{PREAMBLE}\input{{table}}\end{{document}}")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []
    done = subprocess.run(
        [engine, *options, page.name], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 1000
