"""Whether an objective and a schedule answer as they should, before a model is loaded for them.

They are asked about made-up targets and steps. So a part that a user wrote fails here within a
second and not at the first batch, and nothing is trained with one that answers nonsense.
"""

from __future__ import annotations

import copy
import math

from talr_cli.errors import UserError, kind_and_reason
from talr_cli.fields import target_of
from talr_cli.methods.base import Objective, Step, TargetTokens
from talr_cli.methods.schedules import Schedule


def check_objective(objective: Objective) -> None:
    """Refuse an objective that fails, or does not give each target a weight of its own.

    Raises:
        UserError: What it did.
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
            objective.kept(-made_up).tolist()
        if objective.weighs_sequences:
            tokens.sequence_weights = objective.sequence_weights(losses)[tokens.sequence]
        has_tau = objective.tau_scope != "none"
        weights = objective.weights(tokens, objective.temperature(losses) if has_tau else None)
        if objective.looks_at_step:
            weights = objective.over_step(weights, tokens, Step(number=0, total=1, seed=0))
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"objective: {name} failed on made-up targets with {kind_and_reason(error)}; "
            "-v shows where"
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
    """Refuse a schedule that fails, or gives no share of the learning rate at some step.

    Raises:
        UserError: What it did.
    """
    name, tried, steps = target_of(type(schedule)), copy.deepcopy(schedule), 4
    for step in range(steps):
        try:
            if tried.follows_loss:
                tried.see(2.0)
            share = tried.share(step, steps)
        except Exception as error:  # whatever the user's code raises
            raise UserError(
                f"schedule: {name} failed at step {step} of {steps} with {kind_and_reason(error)}; "
                "-v shows where"
            ) from error
        if not isinstance(share, int | float) or not (math.isfinite(share) and share >= 0):
            raise UserError(
                f"schedule: {name} gave {share!r} at step {step} of {steps}: a share of lr is a "
                "finite number and not negative"
            )
