"""Tries an objective and a schedule on made-up targets and steps, before a model is loaded.

A part that a user wrote fails here within a second instead of at the first batch, and nothing is
trained with a part that returns nonsense.
"""

from __future__ import annotations

import copy
import math

from talr_cli.errors import UserError
from talr_cli.fields import target_of
from talr_cli.methods.base import Objective, Step, TargetTokens
from talr_cli.methods.schedules import Schedule


def check_objective(objective: Objective) -> None:
    """Refuse an objective that raises, or does not give each target a finite weight >= 0.

    Raises:
        UserError: Says what the objective did.
    """
    import torch

    name = target_of(type(objective))
    made_up = torch.tensor([-0.01, -0.5, -3.0, -0.1, -2.0])
    tokens = TargetTokens(
        log_probs=made_up,
        sequence=torch.tensor([0, 0, 0, 1, 1]),
        base_log_probs=made_up,
        **dict.fromkeys(objective.outputs, -made_up),
    )
    if objective.top_k is not None:
        tokens.topk_entropy = -made_up
    try:
        losses = tokens.sequence_losses()
        if objective.masks_targets:
            objective.target_mask(-made_up).tolist()
        if objective.weighs_sequences:
            tokens.sequence_weights = objective.sequence_weights(losses)[tokens.sequence]
        has_tau = objective.tau_scope != "none"
        weights = objective.weights(tokens, objective.temperature(losses) if has_tau else None)
        if objective.looks_at_step:
            weights = objective.step_weights(weights, tokens, Step(number=0, total=1, seed=0))
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"objective: {name} failed on made-up targets with {_reason(error)}; -v shows where"
        ) from error
    shape = getattr(weights, "shape", None)
    if shape != made_up.shape:
        found = type(weights).__name__ if shape is None else f"the shape {list(shape)}"
        raise UserError(
            f"objective: {name} answered {len(made_up)} targets with {found}: `weights` gives a "
            "tensor with a weight for each target"
        )
    if not (weights.isfinite().all() and (weights >= 0).all()):
        raise UserError(
            f"objective: {name} gave the weights {[round(one, 3) for one in weights.tolist()]}: a "
            "weight is a finite number and not negative"
        )


def check_schedule(schedule: Schedule) -> None:
    """Refuse a schedule that raises, or gives a step a share that is not finite and >= 0.

    Raises:
        UserError: Says what the schedule did.
    """
    name, tried, steps = target_of(type(schedule)), copy.deepcopy(schedule), 4
    for step in range(steps):
        try:
            if tried.follows_loss:
                tried.observe(2.0)
            share = tried.share(step, steps)
        except Exception as error:  # whatever the user's code raises
            raise UserError(
                f"schedule: {name} failed at step {step} of {steps} with {_reason(error)}; "
                "-v shows where"
            ) from error
        if not isinstance(share, int | float) or not (math.isfinite(share) and share >= 0):
            raise UserError(
                f"schedule: {name} gave {share!r} at step {step} of {steps}: a share of lr is a "
                "finite number and not negative"
            )


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
