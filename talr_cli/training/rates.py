"""Sets the learning rates of torch's optimizer from a schedule's shares.

Knows both; does not know what a share depends on.
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from talr_cli.methods.checks import share_of_rate
from talr_cli.methods.schedules import Schedule


class StepRates(LambdaLR):
    """Sets the rate of each step, before it is made.

    Args:
        steps: The number of steps of the whole training.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, steps: int) -> None:
        # The schedule is not an attribute, since attributes are written to checkpoints.
        # After the last step torch asks for the rate of a step that is never made.
        super().__init__(
            optimizer, lambda step: share_of_rate(schedule, min(step, steps - 1), steps)
        )

    def refresh(self) -> None:
        """Set the rate of the coming step again, once the schedule has observed its loss."""
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        self._last_lr = [base * share(self.last_epoch) for base, share in pairs]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
