"""Replaces the metric `code_eval` of the `evaluate` library by one that uses the sandbox.

lm-eval's code tasks load that metric from the hub and try it when their module is imported. Here
they get this one instead, without hub, HF_ALLOW_CODE_EVAL or a program in this process.
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

from talr_cli.evaluation.sandbox.outside import Limits, run_all

LIMITS = Limits()
LIBRARY = "evaluate"


class CodeEval:
    """The metric, with the method `compute` that the harness calls."""

    def __init__(self) -> None:
        self.allow_unsafe = False

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """({"pass@k": score}, {problem: [(candidate, its outcome)]}).

        Args:
            references: For each problem the tests that are appended to a candidate.
            predictions: For each problem its candidates.
            k: A value is left out if a problem has fewer candidates.
        """
        programs = [
            [f"{candidate}\n{tests}" for candidate in candidates]
            for tests, candidates in zip(references, predictions, strict=True)
        ]
        # EvalPlus's tests compare numbers by numpy; without it all of them would fail.
        limits = replace(LIMITS, numpy=any("numpy" in tests for tests in references))
        outcomes = iter(
            run_all(list(itertools.chain.from_iterable(programs)), limits, self.allow_unsafe)
        )
        by_problem = [list(itertools.islice(outcomes, len(candidates))) for candidates in programs]
        totals = [len(candidates) for candidates in by_problem]
        passed = [sum(outcome.passed for outcome in candidates) for candidates in by_problem]
        scores = {
            f"pass@{tries}": math.fsum(map(pass_at_k, totals, passed, itertools.repeat(tries)))
            / len(totals)
            for tries in k
            if min(totals) >= tries
        }
        details = {
            problem: [
                (number, {"passed": outcome.passed, "result": outcome.reason or "passed"})
                for number, outcome in enumerate(candidates)
            ]
            for problem, candidates in enumerate(by_problem)
        }
        return scores, details


def pass_at_k(total: int, passed: int, k: int) -> float:
    """The probability that one of k candidates, drawn from `total` with `passed` passes, passes.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374).
    """
    return 1 - math.comb(total - passed, k) / math.comb(total, k)


# There is one per process, as the harness caches the modules that refer to it.
CODE_EVAL = CodeEval()


@contextmanager
def sandboxed_code_eval(allow_unsafe: bool) -> Iterator[None]:
    """Within this context `evaluate.load("code_eval")` returns the sandboxed metric.

    The library itself, whose import takes seconds, is imported only if anything else is used.
    """
    before = sys.modules.pop(LIBRARY, None)
    stand_in = ModuleType(LIBRARY)

    def library() -> Any:
        nonlocal before
        if before is None:
            del sys.modules[LIBRARY]
            before = importlib.import_module(LIBRARY)
            sys.modules[LIBRARY] = stand_in
        return before

    def load(path: str, *arguments: Any, **settings: Any) -> Any:
        return CODE_EVAL if path == "code_eval" else library().load(path, *arguments, **settings)

    vars(stand_in).update(load=load, __getattr__=lambda name: getattr(library(), name))
    sys.modules[LIBRARY] = stand_in
    CODE_EVAL.allow_unsafe = allow_unsafe
    try:
        yield
    finally:
        del sys.modules[LIBRARY]
        if before is not None:
            sys.modules[LIBRARY] = before
        CODE_EVAL.allow_unsafe = False
