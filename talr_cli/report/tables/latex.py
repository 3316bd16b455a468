"""A table in LaTeX, for \\input in a paper.

Knows LaTeX's special characters and the booktabs rules, but nothing about the content.
"""

import re

from talr_cli.report.tables.cells import Cell, Cells

PAGE = 45  # rows; a longer table is broken over pages
_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a row, [ and * would be read as its options
    "*": "{*}",
    "–": "--",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "×": r"$\times$",
}
_PLAIN = r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?"
_NUMBER = re.compile(rf"{_PLAIN}( ± {_PLAIN}| \[{_PLAIN}, {_PLAIN}\])?( ≈ 0)?")
_EXPONENT = re.compile(r"e([+-]?)0*(\d+)")


def as_latex(cells: Cells) -> str:
    """A tabular, or a longtable if it is longer than a page."""
    columns, rows = cells.shown()
    layout = "".join("r" if column.number else "l" for column in columns)
    header = _line([Cell(column.title) for column in columns])
    body = "".join(_line(row) for row in rows)
    if len(rows) <= PAGE:
        return (
            "% needs \\usepackage{booktabs}\n"
            f"\\begin{{tabular}}{{{layout}}}\n\\toprule\n{header}\\midrule\n{body}"
            "\\bottomrule\n\\end{tabular}\n"
        )
    return (
        "% needs \\usepackage{booktabs} and \\usepackage{longtable}\n"
        f"\\begin{{longtable}}{{{layout}}}\n\\toprule\n{header}\\midrule\n\\endhead\n"
        f"\\bottomrule\n\\endfoot\n{body}\\end{{longtable}}\n"
    )


def _line(row: list[Cell]) -> str:
    return " & ".join(_text(cell.text) for cell in row) + " \\\\\n"


def _text(text: str) -> str:
    if _NUMBER.fullmatch(text):
        number = _EXPONENT.sub(_power, text).replace("±", r"\pm").replace("≈", r"\approx")
        number = number.replace(" [", r"\ [")  # a blank, which math has not between a number and [
        return f"${number}$"
    return "".join(_CHARACTERS.get(character, character) for character in text)


def _power(match: re.Match[str]) -> str:
    sign = "-" if match[1] == "-" else ""
    return rf" \times 10^{{{sign}{match[2]}}}"
