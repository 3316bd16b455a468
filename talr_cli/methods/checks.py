"""Whether an objective answers as it should, before a model is loaded for it.

It is asked once about made-up targets. A part that a user wrote fails here in a second, and not
with the first batch; and one that answers with something else than weights is never trained with.
"""

from __future__ import annotations

from talr_cli.errors import UserError
from talr_cli.fields import target_of
from talr_cli.methods.base import Objective, Step, TargetTokens


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
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"objective: {name} failed on made-up targets with {reason}; -v shows where"
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
