"""Where programs run that a model wrote: `outside` asks for it, `inside` and `calls` contain it."""

from talr_cli.evaluation.sandbox.outside import Limits, Outcome, kind, run_all, run_program

__all__ = ["Limits", "Outcome", "kind", "run_all", "run_program"]
