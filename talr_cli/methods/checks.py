"""Tries the parts of a method on made-up targets and steps, before a model is loaded.

A part that a user wrote fails here within a second instead of at the first batch, and nothing is
trained with a part that returns nonsense. What the parts return during the training is checked
too, without reading a value: that would make the host wait for the device.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from talr_cli.errors import UserError, failure_of
from talr_cli.fields import target_of
from talr_cli.methods.averaging import Ema
from talr_cli.methods.base import Merge, Objective, Step, TargetTokens
from talr_cli.methods.schedules import Schedule

_OUTPUTS = ("entropy", "topk_entropy", "log_sum_sq_probs")
_CHOICES = {
    "tau_scope": ("none", "microbatch", "step"),
    "tau_estimator": ("none", "exact", "lagged"),
}
_WEIGHT = "a weight is a finite number and not negative"


def check_objective(objective: Objective) -> None:
    """Refuse an objective that raises, or does not give each target a finite weight >= 0.

    Raises:
        UserError: Says what the objective did.
    """
    import torch

    name = target_of(type(objective))
    _check_attributes(objective, name)
    made_up = torch.tensor([-0.01, -0.5, -3.0, -0.1, -2.0])
    given = {
        "log_probs": made_up.clone(),
        "sequence": torch.tensor([0, 0, 0, 1, 1]),
        "base_log_probs": made_up.clone(),
        **dict.fromkeys(objective.outputs, -made_up),
    }
    if objective.top_k is not None:
        given["topk_entropy"] = -made_up
    tokens = TargetTokens(**{key: one.clone() for key, one in given.items()})
    with _failing(f"objective: {name} failed on made-up targets with"):
        losses, tau = tokens.sequence_losses(), None
        if objective.masks_targets:
            checked(objective, "target_mask", objective.target_mask(-made_up), -made_up, torch.bool)
        if objective.weighs_sequences:
            of_rows = objective.sequence_weights(losses.clone())
            checked(objective, "sequence_weights", of_rows, losses)
            tokens.sequence_weights = of_rows[tokens.sequence]
        if objective.tau_scope != "none":
            tau = objective.temperature(losses.clone())
            checked(objective, "temperature", tau, losses.sum())
        weights = checked(objective, "weights", objective.weights(tokens, tau), made_up)
        for key, one in given.items():
            if not torch.equal(getattr(tokens, key), one):
                raise UserError(
                    f"objective: {name} changes tokens.{key}, which others read: compute with a "
                    "copy (tokens.log_probs.exp(), not .exp_())"
                )
        if objective.looks_at_step:
            step = Step(number=0, total=1, seed=0)
            weights = objective.step_weights(weights, tokens, step)
            checked(objective, "step_weights", weights, made_up)
    if not (weights.isfinite().all() and (weights >= 0).all()):
        given_weights = [round(one, 3) for one in weights.tolist()]
        raise UserError(f"objective: {name} gave the weights {given_weights}: {_WEIGHT}")


def checked(objective: Objective, method: str, answer: Any, like: Any, dtype: Any = None) -> Any:
    """What a method of an objective gave, if it is a tensor of the shape of `like`.

    Raises:
        UserError: It is not, or not of this dtype.
    """
    import torch

    wanted = f"a tensor of the shape {list(like.shape)}"
    if not isinstance(answer, torch.Tensor):
        found = type(answer).__name__
    elif answer.shape != like.shape:
        found = f"the shape {list(answer.shape)}"
    elif dtype in (None, answer.dtype):
        return answer
    else:
        found, wanted = str(answer.dtype), str(dtype)
    raise UserError(
        f"objective: {method} of {target_of(type(objective))} gave {found} where {wanted} is wanted"
    )


def check_least_weight(objective: Objective, least: float) -> None:
    """Refuse a step whose smallest weight, -infinity for one that is no number, is none."""
    if least < 0:
        found = "no finite number" if math.isinf(least) else f"{least:.3g}"
        name = target_of(type(objective))
        raise UserError(f"objective: {name} gave a target the weight {found}: {_WEIGHT}")


def checked_penalty(method: str, penalty: Any) -> Any:
    """What `loss` or `add_gradient` of a regulariser gave, if it is a tensor with one number.

    Raises:
        UserError: It is not; or has no gradient, and nothing else of it would reach the weights.
    """
    import torch

    if not isinstance(penalty, torch.Tensor) or penalty.ndim > 0:
        is_tensor = isinstance(penalty, torch.Tensor)
        found = f"the shape {list(penalty.shape)}" if is_tensor else type(penalty).__name__
        raise UserError(
            f"regulariser: {method} gave {found}: a tensor with one number is wanted, or None"
        )
    if method == "loss" and not penalty.requires_grad:
        raise UserError(
            "regulariser: loss gave a number without gradient, which would change "
            "nothing: compute it from the weights or from `hidden`, without detach; or give None"
        )
    return penalty


def check_schedule(schedule: Schedule) -> None:
    """Refuse a schedule that raises, or gives a step a share that is not finite and >= 0.

    Raises:
        UserError: Says what the schedule did.
    """
    tried, steps = copy.deepcopy(schedule), 4
    for step in range(steps):
        if tried.follows_loss:
            with _failing(f"schedule: {target_of(type(schedule))} failed at the loss 2.0 with"):
                tried.observe(2.0)
        share_of_rate(tried, step, steps)


def share_of_rate(schedule: Schedule, step: int, steps: int) -> float:
    """The share of lr that a schedule gives for a step.

    Raises:
        UserError: It fails, or gives none.
    """
    name = target_of(type(schedule))
    with _failing(f"schedule: {name} failed at step {step} of {steps} with"):
        share = schedule.share(step, steps)
    if not isinstance(share, int | float) or not (math.isfinite(share) and share >= 0):
        raise UserError(
            f"schedule: {name} gave {share!r} at step {step} of {steps}: a share of lr is a "
            "finite number and not negative"
        )
    return share


def check_merge(merge: Merge) -> None:
    """Refuse a merge that names no averages, or is not the one of an alpha when it is given that.

    Raises:
        UserError: What is wrong.
    """
    if isinstance(merge, Ema):
        return
    name: str = target_of(type(merge))
    own: Any = merge
    with _failing(f"merge: {name} failed with"):
        alphas = merge.alphas
        if not isinstance(alphas, list | tuple) or not alphas or not all(map(_is_number, alphas)):
            raise UserError(
                f"merge: {name} has the alphas {alphas!r}: a property gives a list of numbers"
            )
        if "alpha" not in [field.name for field in dataclasses.fields(own)]:
            raise UserError(f"merge: {name} lacks `alpha: Any = None`, which talr sets")
        each = [dataclasses.replace(own, alpha=alpha) for alpha in alphas]
        for alpha, one in zip(alphas, each, strict=True):
            if list(one.alphas) != [alpha]:
                raise UserError(
                    f"merge: {name} with alpha={alpha} has the alphas {one.alphas!r}: then it "
                    "stands for that one alone"
                )
        names = [one.name for one in (own, *each)]
        if not all(isinstance(one, str) and one for one in names):
            raise UserError(f"merge: {name} has the names {names}: a name is a text")
        if len(set(names[1:])) < len(set(alphas)):
            raise UserError(
                f"merge: {name} has the names {names[1:]} for the alphas {list(alphas)}: tables "
                "tell averages apart by their names"
            )


def share_of_weight(merge: Any, tensor: str, layers: int) -> float:
    """The alpha that a merge's `share_of` gives for a weight.

    Raises:
        UserError: It fails, or gives no number.
    """
    name = target_of(type(merge))
    with _failing(f"merge: share_of of {name} failed for {tensor} with"):
        share: float = merge.share_of(tensor, layers)
    if not _is_number(share):
        raise UserError(f"merge: share_of of {name} gave {share!r} for {tensor}: give a number")
    return share


def _check_attributes(objective: Objective, name: str) -> None:
    if not set(objective.outputs) <= set(_OUTPUTS) or isinstance(objective.outputs, str):
        raise UserError(
            f"objective: {name} has outputs = {objective.outputs!r}: it is a tuple of some of "
            f"{', '.join(_OUTPUTS)}, such as ({_OUTPUTS[0]!r},)"
        )
    for key, choices in _CHOICES.items():
        if (found := getattr(objective, key)) not in choices:
            raise UserError(
                f"objective: {name} has {key} = {found!r}, which is none of {', '.join(choices)}"
            )


def _is_number(one: Any) -> bool:
    return isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)


@contextmanager
def _failing(where: str) -> Iterator[None]:
    """What the user's code raises inside is one line that begins so."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UserError(f"{where} {failure_of(error)}") from error
