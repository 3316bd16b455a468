"""Merges of a trained model's weights: with its base's, or over its training.

Averaging and LiNeS are made of a finished run; the moving average is kept during a training.
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
        """Tells the alphas of one training apart; the plain name is the usual 0.5."""
        others = [f"{alpha:g}" for alpha in self.alphas if alpha != 0.5]
        return "averaging" + ",".join(others)

    @property
    def alphas(self) -> list[float]:
        """All that were asked for."""
        one = not isinstance(self.alpha, Sequence)
        return [self.alpha] if one else list(self.alpha)


@dataclass
class Lines(Averaging):
    """theta_0 + s (theta - theta_0), s rising with depth (LiNeS, Wang et al., arXiv 2410.17146).

    In layer l of L, counted from 0, s = alpha + beta * l / (L - 1); outside the layers (embedding,
    head, last norm) s = alpha.
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
        """As above; a beta of one's own is named."""
        others = [f"{alpha:g}" for alpha in self.alphas if alpha != 0.5]
        beta = "" if self.beta is None else f"b{self.beta:g}"
        return "lines" + ",".join(others) + beta

    def share_of(self, tensor: str, layers: int) -> float:
        """s of a weight by its name in a checkpoint; `layers` is L."""
        (alpha,) = self.alphas
        found = re.search(r"\.(\d+)\.", tensor)  # the first: experts are numbered within a layer
        if found is None:
            return alpha
        beta = 1 - alpha if self.beta is None else self.beta
        return alpha + beta * (int(found[1]) / (layers - 1) if layers > 1 else 1.0)


@dataclass
class Ema:
    """The moving average of the weights, m = decay * m + (1 - decay) * theta after every step.

    Kept in fp32 beside the training, which it does not change; it begins with the weights after the
    first step. Other than the merges above, it needs a training of its own.
    """

    decay: float = value(
        "share of the average so far that each step keeps", 0.99, at_least=0, below=1
    )

    @property
    def name(self) -> str:
        return "ema" if self.decay == 0.99 else f"ema{self.decay:g}"

    @property
    def alphas(self) -> list[float]:
        """One checkpoint, and none of the base in it."""
        return [1.0]


def interpolate(base: Path, tuned: Path, into: Path, share_of: Callable[[str], float]) -> None:
    """Write base + alpha * (tuned - base) to `into`, in the files and dtypes of `tuned`.

    All three are directories of safetensors; the sum is taken in fp32, one pair of tensors in
    memory at a time beside the shard that is written. Where alpha is 0 or 1, and for tensors that
    are no floating-point numbers, the result is one of the two, bit for bit (in `tuned`'s dtype).

    Args:
        share_of: alpha, by the name of a tensor.

    Raises:
        ValueError: The two hold tensors of different names or shapes.
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


def same_tensors(base: Path, tuned: Path) -> bool:
    """Whether two directories of safetensors hold tensors of the same names."""
    return files_of_tensors(base).keys() == files_of_tensors(tuned).keys()
