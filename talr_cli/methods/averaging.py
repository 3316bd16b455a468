"""Merges: averages of a trained model's weights with its base's, or over the steps of a training.

`Averaging` and `Lines` are computed from the checkpoint of a finished run. `Ema` is kept up during
a training, by `training/weight_mean.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.fields import value
from talr_cli.models.weight_files import files_of_tensors


@dataclass
class Averaging:
    """(1 - alpha) theta_0 + alpha theta (Wise-FT, Wortsman et al. 2022, arXiv 2109.01903).

    A list of alphas gives that many checkpoints.
    """

    alpha: Any = value(
        "share of the fine-tuned weights, from 0 (only the base) to 1 (only the fine-tuned "
        "model), or a list of shares",
        0.5,
    )

    def __post_init__(self) -> None:
        for alpha in self.alphas:
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
                raise UserError(f"merge.alpha={alpha} is not a number within [0, 1]")
        if not self.alphas:
            raise UserError("merge.alpha is empty: give a number within [0, 1], or several")

    @property
    def name(self) -> str:
        """The name in tables: `averaging` for the usual alpha of 0.5, else with the alphas."""
        others = [f"{alpha:g}" for alpha in self.alphas if alpha != 0.5]
        return "averaging" + ",".join(others)

    @property
    def alphas(self) -> list[float]:
        """The alphas as a list."""
        return list(self.alpha) if isinstance(self.alpha, Sequence) else [self.alpha]


@dataclass
class Lines(Averaging):
    """LiNeS: theta_0 + s (theta - theta_0), s growing with depth (Wang et al., arXiv 2410.17146).

    In layer l of L, counted from 0, s = alpha + beta * l / (L - 1). Outside the layers (embedding,
    head, final norm) s = alpha.
    """

    alpha: Any = value(
        "share of its change that the first layer keeps, from 0 to 1, or a list of shares", 0.5
    )
    beta: float | None = value(
        "how much more than alpha the last layer keeps; null: 1 - alpha, so that it is left "
        "as trained",
        None,
    )

    @property
    def name(self) -> str:
        """The name in tables: `lines` for the usual alpha and beta, else with their values."""
        others = [f"{alpha:g}" for alpha in self.alphas if alpha != 0.5]
        beta = "" if self.beta is None else f"b{self.beta:g}"
        return "lines" + ",".join(others) + beta

    def share_of(self, tensor: str, layers: int) -> float:
        """The s of a weight, from its name in a checkpoint and the number of layers L."""
        (alpha,) = self.alphas
        # The first number in the name is the layer's; that of an expert comes later.
        found = re.search(r"\.(\d+)\.", tensor)
        if found is None:
            return alpha
        beta = 1 - alpha if self.beta is None else self.beta
        return alpha + beta * (int(found[1]) / (layers - 1) if layers > 1 else 1.0)


@dataclass
class Ema:
    """The moving average of the weights, m = decay * m + (1 - decay) * theta after every step.

    It is kept in fp32 and does not change the training. It starts as the weights after the first
    step. Unlike the merges above it needs a training run of its own.
    """

    decay: float = value(
        "share of the average so far that each step keeps", 0.99, at_least=0, below=1
    )

    @property
    def name(self) -> str:
        return "ema" if self.decay == 0.99 else f"ema{self.decay:g}"

    @property
    def alphas(self) -> list[float]:
        """One checkpoint, without any share of the base."""
        return [1.0]


def interpolate(base: Path, tuned: Path, into: Path, share_of: Callable[[str], float]) -> None:
    """Write base + alpha * (tuned - base) to `into`, with the file names and dtypes of `tuned`.

    All three are directories of safetensors. The sum is taken in fp32; one shard and one pair of
    tensors are in memory at a time. Where alpha is 0 or 1, and for integer tensors, the result is a
    bit-exact copy of one of the two (in `tuned`'s dtype).

    Args:
        share_of: The alpha of a tensor, from its name.

    Raises:
        ValueError: The two have tensors of different names or shapes.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    base_files, tuned_files = files_of_tensors(base), files_of_tensors(tuned)
    if base_files.keys() != tuned_files.keys():
        different = sorted(base_files.keys() ^ tuned_files.keys())
        raise ValueError(f"{base} and {tuned} hold different tensors, such as {different[0]}")
    for shard in sorted(set(tuned_files.values())):
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(shard, "pt") as ours:
            for name in ours.keys():  # noqa: SIM118 (not a mapping)
                theta, alpha = ours.get_tensor(name), share_of(name)
                with safe_open(base_files[name], "pt") as theirs:
                    theta0 = theirs.get_tensor(name)
                if theta.shape != theta0.shape:
                    raise ValueError(f"{name} has the shapes {theta0.shape} and {theta.shape}")
                if alpha == 0:
                    tensors[name] = theta0.to(theta.dtype)
                elif alpha == 1 or not theta.is_floating_point():
                    tensors[name] = theta
                else:
                    tensors[name] = torch.lerp(theta0.float(), theta.float(), alpha).to(theta.dtype)
        save_file(tensors, into / shard.name, metadata={"format": "pt"})
