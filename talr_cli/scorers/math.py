r"""Scores final answers to mathematical problems: numbers as in GSM8K, LaTeX as in MATH.

Knows how an answer is stated and when two are equal; does not know where the problems come from.
Numbers are parsed here. LaTeX is compared by math-verify, in a separate process with a deadline and
a memory limit: a model may write 9^{9^{9^9}}, and the signal by which math-verify would stop waits
until the power is computed. Only math-verify's reader of LaTeX is used, which has a grammar and
gives sympy single numbers. Its reader of plain text ends in sympy's `parse_expr`, which calls
Python's `eval`.
"""

import importlib.util
import logging
import math
import multiprocessing
import re
import signal
import unicodedata
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from talr_cli.errors import UserError, install_command
from talr_cli.runs.process import LONGEST, wait_for
from talr_cli.scorers.base import Verdict
from talr_cli.scorers.numbers import find_numbers, normalise
from talr_cli.scorers.values import final_number

log = logging.getLogger(__name__)

DEADLINE = 10.0  # seconds of a comparison on an idle machine; nearly all take hundredths of one
_MEMORY = 4 << 30  # bytes of address space of the process
_LONGEST = 500  # the most characters of an answer

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # a brace after a backslash is text
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|[^\s{$.,]+)")
# The endings of MetaMath and of GSM8K. GSM8K's #### may also be a heading, unless a number is alone
# behind it or it is at the very end.
_CLOSING = re.compile(
    r"(?:\bthe (?:final )?answer is[ \t]*:?|^\W{0,9}(?:final )?answer\W{0,4}:\W{0,4}?)[ \t]*"
    r"((?:(?!\bthe (?:final )?answer is)[^\n])*)",
    re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(
    r"(?<!#)####[ \t]*(\$?-?\$?[\d.,]*\d(?=[ \t]*$)|[^\n#]*[^\s#](?=[\s#]*\Z))", re.MULTILINE
)
_TAGGED = re.compile(r"<answer>\s*([^<>]{1,500})", re.IGNORECASE)
# After `the answer is`, such words (`clearly shown`) are a remark if anything else is stated.
_REMARK = re.compile(r"[a-z]{2,}(?: [a-z',-]+)+[.!]?", re.IGNORECASE)
_ORDINAL = re.compile(r"(?<=\d) ?\^ ?\{ ?\\(?:text|mathrm|rm|textrm) ?\{(?:st|nd|rd|th)\} ?\}")
_INLINE = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]|\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$")
_LISTED = re.compile(r"\s*(?:[,;]\s*)?(?:\b(?:and|or)\b\s*)?")  # $1$ and $2$
_DENIED = re.compile(r"(?:\bnot|n['\u2019]t)\b")
_TEXT = re.compile(r"\\(?:text|textbf|mbox|mathrm) ?\{([^{}]*)\}")
_UNICODE: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+"),
     lambda match: f"^{{{unicodedata.normalize('NFKC', match[0])}}}"),
    (re.compile("[\u00bc-\u00be\u2150-\u215e]"),
     lambda match: rf"\frac{{{unicodedata.normalize('NFKC', match[0])}}}".replace("\u2044", "}{")),
    (re.compile("\u221a\\s*(?:(\\w+)|\\(([^()]*)\\))"), r"\\sqrt{\1\2}"),
    (re.compile(r"(?<=\d)\\[,;:! ](?=\d{3}(?!\d))"), ""),
)  # fmt: skip
_SIGNS = str.maketrans({
    "\u2044": "/", "\u2012": "-", "\u2013": "-", "\u2212": "-", "\u00d7": "\\times ",
    "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u00f7": "\\div ", "\u00b0": "^\\circ ",
    "\u221e": "\\infty ", "\u222a": "\\cup ", "\u2229": "\\cap ",
})  # fmt: skip


class Gsm8kScorer:
    """Compares the number stated last, or else the last number, with {"answer": "1200"}.

    What follows the last statement does not count.
    """

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        found = final_number(output)
        if found is None:
            return Verdict(False, None)
        truth = find_numbers(str(reference["answer"]))[-1]
        return Verdict(math.isclose(found, truth, rel_tol=1e-12), _format(found))


class MathScorer:
    r"""Compares the answer stated last, or else the last number, with {"answer": "\\frac{1}{2}"}.

    They may be equal as text without white space, or as mathematics by math-verify's rules: 0.5 is
    \frac{1}{2}, (x+1)^2 is x^2+2x+1, lists may have any order, x=5 is 5; degrees, units in \text
    and percent signs are ignored. A comparison that exceeds DEADLINE counts as wrong and is logged.
    An answer that is longer than any in MATH is wrong without a comparison.

    Raises:
        UserError: math-verify is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                f"scoring answers in LaTeX needs the package math-verify: {install_command('math')}"
            )
        self._comparer: _Comparer | None = None

    def __call__(self, output: str, reference: Mapping[str, Any]) -> Verdict:
        truth = str(reference["answer"])
        stated = stated_answer(output)
        if stated is not None:
            found = _ORDINAL.sub("", _extract_latex(stated))
        else:
            numbers = find_numbers(normalise(output))
            found = _format(numbers[-1]) if numbers else ""
        if not found:
            return Verdict(False, None)
        right = self._is_same(truth, found)
        if not right and "%" in truth + found:
            right = self._is_same(*(re.sub(r"\\{0,2}%", "", text) for text in (truth, found)))
        return Verdict(right, found)

    def _is_same(self, truth: str, found: str) -> bool:
        same = _text(truth) == _text(found)
        return same or self._is_equal(_latex(truth), _latex(found))

    def _is_equal(self, truth: str, found: str, is_second: bool = False) -> bool:
        if len(found) > _LONGEST:
            return False
        if self._comparer is None:
            self._comparer = _Comparer()
            try:
                self._comparer.is_equal("1", "1", LONGEST)
            except (TimeoutError, EOFError, OSError) as error:
                raise UserError(
                    "the process that compares formulas does not start: a script of your own has "
                    "to be a file, and what it does has to stand below `if __name__ == "
                    '"__main__":`'
                ) from error
        try:
            return self._comparer.is_equal(truth, found, DEADLINE)
        except (TimeoutError, EOFError, OSError) as error:
            late = isinstance(error, TimeoutError)
            if not late and not is_second and self._comparer.was_killed():
                self._comparer = None
                return self._is_equal(truth, found, is_second=True)
            reason = str(error) or "the process died"
            log.warning("not compared with %s (%s), so wrong: %s", truth, reason, found)
            self._comparer.kill()
            self._comparer = None
            return False


class _Comparer:
    """The separate process, which compares one pair of formulas at a time."""

    def __init__(self) -> None:
        # Spawned, as forking a process that uses a GPU or threads is not safe.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def is_equal(self, truth: str, found: str, seconds: float) -> bool:
        """Whether two formulas are equal by math-verify.

        Raises:
            TimeoutError: It takes more than `seconds`, as `wait_for` counts them.
            EOFError, OSError: The process is dead.
        """
        self._pipe.send((truth, found))
        if not wait_for(self._pipe, self._process.pid or 0, seconds):
            raise TimeoutError(f"not done in {seconds:g} s")
        return self._pipe.recv()

    def was_killed(self) -> bool:
        """Whether another process killed it, or the system, to which memory was short."""
        self._process.join(timeout=1)
        return self._process.exitcode == -signal.SIGKILL

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def stated_answer(output: str) -> str | None:
    r"""What the output states last: in \boxed{}, after "The answer is" or ####; None if nothing."""
    stated = [
        (match.start(), match[1].strip())
        for form in (_CLOSING, _HASHES, _TAGGED)
        for match in form.finditer(output)
    ]
    told = [one for one in stated if not _REMARK.fullmatch(one[1])]
    stated = [*told, *_last_box(output)] or stated
    return max(((place, text) for place, text in stated if text), default=(0, None))[1]


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed{}; None if there is none."""
    return next((content for _, content in _last_box(text)), None)


def _last_box(text: str) -> list[tuple[int, str]]:
    """[(position, content)] of the last box that is closed and not empty; [] if there is none."""
    closed_by: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closed_by[opened.pop()] = brace.start()
    for match in reversed(list(_BOX.finditer(text))):
        content = match[1]
        if content == "{":
            content = text[match.end() : closed_by.get(match.start(1), match.end())]
        if content.strip():
            return [(match.start(), content.strip())]
    return []


def _extract_latex(stated: str) -> str:
    """The formulas between dollar signs with which a list begins, else the first sentence."""
    formulas: list[str] = []
    end = 0
    for inline in _INLINE.finditer(stated[: 4 * _LONGEST]):
        if formulas and not _LISTED.fullmatch(stated, end, inline.start()):
            break
        if not formulas and _DENIED.search(stated, 0, inline.start()):
            break
        formulas.append(next(group for group in inline.groups() if group).strip().rstrip("."))
        end = inline.end()
    if formulas:
        return ", ".join(formulas)
    sentence = re.split(r"\.(?:\s|$)", stated, maxsplit=1)[0]
    return sentence.strip(" \t*$")


def _text(formula: str) -> str:
    r"""The formula without \text{}, white space and a full stop at its end."""
    return "".join(_TEXT.sub(r"\1", formula).split()).rstrip(".")


def _latex(formula: str) -> str:
    """The formula with signs of Unicode as LaTeX, and without space between thousands."""
    for pattern, latex in _UNICODE:
        formula = pattern.sub(latex, formula)
    return unicodedata.normalize("NFKC", formula).translate(_SIGNS)


def _format(value: float) -> str:
    return f"{value:.15g}"


# The following functions run in the separate process.


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the main process ends this one
    _limit_memory()
    while True:
        try:
            truth, found = pipe.recv()
        except EOFError:  # the main process has ended
            return
        pipe.send(_math_verify(truth, found))


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Unix: the deadline must suffice
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _math_verify(truth: str, found: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    # It warns that its own time limits are off, but there is ours.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold, answer = (
        parse(
            rf"\boxed{{{text}}}",
            [LatexExtractionConfig()],
            # "any_match" would use a part of a formula if it cannot read all of it.
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        for text in (truth, found)
    )
    return bool(verify(gold, answer, timeout_seconds=None))
