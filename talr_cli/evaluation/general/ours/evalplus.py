"""The metric of mbpp_evalplus.yaml. Programs run in the sandbox alone: code_eval.py's metric."""

from __future__ import annotations

from collections.abc import Sequence

from talr_cli.evaluation.sandbox.code_eval import CODE_EVAL


def pass_at_1(references: Sequence[str], predictions: Sequence[str]) -> float:
    """Share of programs that come to the end of their tests; text after a code block is talk."""
    programs = [[answer.partition("```")[0]] for answer in predictions]
    return CODE_EVAL.compute(references, programs, k=[1])[0]["pass@1"]
