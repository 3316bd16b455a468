"""Runs programs that a model wrote: `outside` starts them, `inside` and `calls` contain them."""

from talr_cli.evaluation.sandbox.outside import (
    Limits,
    Outcome,
    available_sandbox,
    run_all,
    run_program,
)

__all__ = ["Limits", "Outcome", "available_sandbox", "run_all", "run_program"]
