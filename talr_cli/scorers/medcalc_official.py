r"""MedCalc-Bench's own reading of an answer, and its rule, reimplemented without `eval`.

It follows ncbi-nlp/MedCalc-Bench at 20b10f9: `extract_answer` of evaluation/run.py and
`check_correctness` of evaluation/evaluate.py. The answer is the text after the last `answer":` up
to a closing brace. Depending on the calculator it is a date at the beginning of that text
(mm/dd/yyyy), weeks and days, a whole number (of `3 out of`, else the length of a list of numbers,
else the last number, rounded) or a decimal (before `mL/min/1.73`, else before a percent sign and
divided by 100, else the last number).

The benchmark evaluates numbers, and formulas in `str(...)`, as Python code; here they are parsed.
Formulas may have + - * / **, brackets, min, pow, round, abs, int, float, sqrt and exp. Other
formulas (with numpy or comparisons), and those of more than 300 characters, count as no answer.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

INTEGERS = (4, 15, 16, 17, 18, 20, 21, 25, 27, 28, 29, 32, 33, 36, 43, 45, 48, 51)
# The form of a calculator's answer; all others give a decimal.
_KINDS = {**dict.fromkeys(INTEGERS, "integer"), 13: "date", 68: "date", 69: "weeks_days"}

_FIELD = re.compile(r'[Aa]nswer":')
_LINE = re.compile(r"[Aa]nswer:")
_PLACEHOLDERS = (
    "str(short_and_direct_answer_of_the_question)",
    "str(value which is the answer to the question)",
    "X.XX",
)
_DATE = re.compile(r"(0?[1-9]|1[0-2])/(0?[1-9]|[12][0-9]|3[01])/(\d{4})")
_WEEKS_DAYS = re.compile(
    r"\(?[\"']?(\d+)\s*(?:weeks?)?[\"']?,?\s*[\"']?(\d+)\s*(?:days?)?[\"']?\s*\)?"
)
# The benchmark's patterns, except that a match cannot begin within a run of digits. It would be the
# same match, and searching for it would take quadratic time.
_OUT_OF = re.compile(r"(?<!\d)(\d+) out of")
_LIST = re.compile(r"(?<!\d)\d+(?:, ?-?\d+)+")
_NUMBER = r"((?:-|(?<!\d))\d+(?:\.\d+)?)"
_LAST = re.compile(r"-?\d+(?:\.\d+)?")
_SURFACE = re.compile(rf"{_NUMBER}\s*mL/min/1.73")
_SHARE = re.compile(rf"{_NUMBER}%")
_REPLACED = (
    ("^", "**"), ("is odd", "% 2 == 1"), ("is even", "% 2 == 0"), ("sqrt", "math.sqrt"),
    (".math", ""), ("weight", ""), ("height", ""), ("mg/dl", ""), ("g/dl", ""), ("mmol/L", ""),
    ("kg", ""), ("g", ""), ("mEq/L", ""),
)  # fmt: skip
_LONGEST = 300
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "pow": lambda base, exponent: _power(base, exponent),
    "round": round,
    "abs": abs,
    "int": int,
    "float": float,
    "math.sqrt": math.sqrt,
    "math.exp": math.exp,
    "math.pow": lambda base, exponent: _power(base, exponent),
}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: lambda base, exponent: _power(base, exponent),
}


def judge(output: str, reference: Mapping[str, Any], is_json: bool) -> tuple[str | None, bool]:
    """(the answer that the benchmark reads or None, whether it counts as correct).

    Args:
        reference: See `MedCalcScorer`.
        is_json: Whether the prompt asked for JSON; if not, the last line with `Answer:` is used
            instead of the field.
    """
    said = _field(output) if is_json else _line(output)
    if said is None or said in _PLACEHOLDERS:
        return None, False
    calculator, truth = str(reference.get("calculator") or ""), str(reference["answer"])
    is_number = calculator.isascii() and calculator.isdigit()
    kind = _KINDS.get(int(calculator), "decimal") if is_number else None
    if kind is None or not {kind, reference["form"]} <= {"integer", "decimal"}:
        kind = reference["form"]  # a row of one's own may have any calculator's ID
    if kind == "date":
        return _date(said, truth)
    if kind == "weeks_days":
        return _weeks_days(said, truth)
    value = _integer(said) if kind == "integer" else _decimal(said)
    if value is None:
        return None, False
    if kind == "integer":
        right = math.isfinite(value) and round(value) == float(truth)
    else:
        right = float(reference["lower"]) <= value <= float(reference["upper"])
    return f"{value:g}" if isinstance(value, float) else str(value)[:40], right


def _field(output: str) -> str | None:
    r"""The last match of `[Aa]nswer":\s*(.*?)\}`, which itself would take quadratic time."""
    said, place = None, 0
    while match := _FIELD.search(output, place):
        start = match.end()
        start += len(output[start:]) - len(output[start:].lstrip())
        line_end = output.find("\n", start)
        close = output.find("}", start, line_end if line_end >= 0 else len(output))
        place = match.end()
        if close >= 0:
            said, place = output[start:close], close + 1
    return None if said is None else said.strip().strip('"')


def _line(output: str) -> str | None:
    lines = [line for line in output.splitlines() if _LINE.search(line)]
    return _LINE.split(lines[-1])[-1].strip().strip('"') if lines else None


def _date(said: str, truth: str) -> tuple[str | None, bool]:
    match = _DATE.match(said)
    if match is None:
        return None, False
    found = f"{int(match[1]):02}/{int(match[2]):02}/{match[3]}"
    try:
        day, right = (datetime.strptime(text, "%m/%d/%Y") for text in (found, truth))
    except ValueError:
        return found, False
    return found, day == right


def _weeks_days(said: str, truth: str) -> tuple[str | None, bool]:
    said = re.sub(r"\s+", " ", said)  # the same matches, without the quadratic time
    plain = re.sub("['\"]", "", said.replace("[", "(").replace("]", ")"))
    right, first, match = (_WEEKS_DAYS.search(text) for text in (truth, said, plain))
    if right is None or first is None or match is None:
        return None, False
    found = tuple(_number(text) for text in match.groups())
    if None in found:
        return None, False
    return f"({found[0]:g}, {found[1]:g})", found == tuple(map(float, right.groups()))


def _integer(said: str) -> float | None:
    if match := _OUT_OF.search(said):
        return _number(match[1])
    if match := _LIST.search(said):
        return float(match[0].count(",") + 1)
    return _last(said)


def _decimal(said: str) -> float | None:
    begin, end = said.find("str("), said.rfind(")")
    if 0 <= begin < end:  # as `str\((.*)\)` finds it
        return _formula(said[begin + 4 : end])
    if match := _SURFACE.search(said):
        return _number(match[1])
    shares = _SHARE.findall(said)
    if shares:
        value = _number(shares[-1])
        return None if value is None else value / 100
    return _last(said)


def _last(said: str) -> float | None:
    numbers = _LAST.findall(said)
    return _number(numbers[-1]) if numbers else None


def _number(text: str) -> float | None:
    """A number by Python's syntax: neither 05 nor digits of other scripts are numbers."""
    whole = text.lstrip("-")
    if not text.isascii() or len(text) > 4000:
        return None
    if "." not in text and whole.startswith("0") and whole.strip("0"):
        return None
    return float(text)


def _formula(text: str) -> float | None:
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = text.split("#")[0]
    more = text.count("(") - text.count(")")
    text = "(" * -more + text + ")" * more
    if len(text) > _LONGEST:
        return None
    try:
        value = float(_value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None
    return value if math.isfinite(value) else None


def _value(node: ast.expr) -> Any:
    """The value of a formula's syntax tree; ValueError if it is not arithmetic."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.Call) and not node.keywords:
        name = ast.unparse(node.func)
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(_value, node.args))
    raise ValueError("not arithmetic")


def _power(base: float, exponent: float) -> float:
    return float(base) ** exponent  # floats overflow instead of growing
