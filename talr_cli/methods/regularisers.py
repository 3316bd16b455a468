"""The regularisers, which keep a model close to its base: L2 on its weights, KL on its predictions.

They know the model and the batch; when they are called is up to `training/trainer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from talr_cli.fields import value
from talr_cli.methods.base import Regulariser

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# How many weights L2 processes at a time. They share one buffer: allocating memory for each tensor
# costs more than the arithmetic. On a CPU as many as fit into its caches; on a GPU more, since each
# kernel takes time to launch.
CHUNK_SIZE = {"cpu": 2**20, "cuda": 2**26}


@dataclass
class L2(Regulariser):
    """strength * sum (theta - theta_0)^2 over the trained weights, added as its exact gradient.

    theta_0 is sharded as the weights are: under FSDP2 each rank keeps the part that it trains.
    """

    strength: float = value("weight of the penalty", 1e-3, at_least=0)
    reduction: str = value(
        "the sum over the weights, or their mean, as in FLOW's published code",
        "mean",
        choices=("sum", "mean"),
    )
    theta0_dtype: str = value(
        "dtype in which the base's weights theta_0 are kept; auto: bfloat16 for every weight "
        "that it holds exactly, else float32",
        "auto",
        choices=("auto", "float32", "bfloat16"),
    )
    theta0_device: str = value(
        "where theta_0 is kept: with the model, or on the CPU, which saves the GPU's memory "
        "and costs a copy of all weights per step",
        "model",
        choices=("model", "cpu"),
        identity=False,
    )

    def start(self, model: Any, load_base: Callable[[], PreTrainedModel]) -> None:
        self._theta0 = {
            name: self._copy_of_base(local_part(parameter.detach()))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def _copy_of_base(self, weights: torch.Tensor) -> torch.Tensor:
        """A copy of a weight of the base, in the dtype and on the device of the config."""
        import torch

        dtype = torch.float32 if self.theta0_dtype == "float32" else torch.bfloat16
        if self.theta0_dtype == "auto" and not torch.equal(weights.to(dtype).to(weights), weights):
            dtype = weights.dtype
        device = "cpu" if self.theta0_device == "cpu" else weights.device
        kept = weights.to(device=device, dtype=dtype, copy=True)
        # Pinned memory is copied to a GPU at full speed, and without the host waiting.
        return kept.pin_memory() if weights.is_cuda and not kept.is_cuda else kept

    def add_gradient(self, model: Any) -> torch.Tensor | None:
        """Add 2 * strength * (theta - theta_0), without an autograd graph."""
        import torch

        trained = {name: p for name, p in model.named_parameters() if name in self._theta0}
        # The numel() of a sharded weight (DTensor) is that of the whole weight.
        count = sum(parameter.numel() for parameter in trained.values())
        factor = self.strength / (count if self.reduction == "mean" else 1)
        squares = []
        with torch.no_grad():
            for parameter in trained.values():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            first = local_part(next(iter(trained.values())))
            most = CHUNK_SIZE.get(first.device.type, CHUNK_SIZE["cpu"])
            held = sum(local_part(parameter).numel() for parameter in trained.values())
            buffer = first.new_empty(min(most, held))
            for weights, gradients, theta0 in self._chunks(trained, most):
                lengths = [len(one) for one in weights]
                to_base = list(buffer[: sum(lengths)].split(lengths))
                torch._foreach_copy_(to_base, theta0, non_blocking=True)
                torch._foreach_sub_(to_base, weights)
                torch._foreach_sub_(gradients, to_base, alpha=2 * factor)
                torch._foreach_mul_(to_base, to_base)
                squares += [one.sum() for one in to_base]
            total = torch.stack(squares).sum()
            if any(hasattr(parameter, "to_local") for parameter in trained.values()):
                torch.distributed.all_reduce(total)
        return factor * total

    def _chunks(self, trained: dict[str, Any], most: int) -> Iterator[list[list[torch.Tensor]]]:
        """[weights, gradients, theta_0] again and again, each a list of vectors.

        The vectors of a list have at most `most` numbers together.
        """
        group: list[tuple[torch.Tensor, ...]] = []
        for name, parameter in trained.items():
            parts = (local_part(parameter), local_part(parameter.grad), self._theta0[name])
            for chunk in zip(*(part.view(-1).split(most) for part in parts), strict=True):
                if sum(len(one[0]) for one in group) + len(chunk[0]) > most:
                    yield [list(tensors) for tensors in zip(*group, strict=True)]
                    group = []
                group.append(chunk)
        yield [list(tensors) for tensors in zip(*group, strict=True)]


@contextmanager
def _without_adapter(model: Any) -> Iterator[None]:
    """Let a model with an adapter predict as its base does, without dropout, for a while."""
    training = model.training
    with model.disable_adapter():
        model.eval()
        try:
            yield
        finally:
            model.train(training)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor, without a copy: all of it, unless FSDP2 shards it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@dataclass
class Kl(Regulariser):
    """beta * KL divergence between the base's and the model's predictions, per target token.

    The base is a second copy of the weights, in its checkpoint's dtype if the training computes in
    bf16 or fp16, else in fp32. With an adapter it is the model without the adapter.
    """

    beta: float = value(
        "weight of the penalty: nats of loss for each nat of divergence", 0.1, at_least=0
    )
    direction: str = value(
        "KL(base || model), or KL(model || base)", "forward", choices=("forward", "reverse")
    )

    def start(self, model: Any, load_base: Callable[[], PreTrainedModel]) -> None:
        self._base: Any = None
        if not hasattr(model, "disable_adapter"):
            self._base = load_base().eval().requires_grad_(False)

    def loss(
        self, model: Any, inputs: Mapping[str, torch.Tensor], hidden: torch.Tensor
    ) -> torch.Tensor | None:
        import torch
        from torch.utils.checkpoint import checkpoint

        from talr_cli.models.head import TARGETS_AT_ONCE, causal_lm, head_logits, target_hidden

        own = causal_lm(model)
        base = own if self._base is None else self._base
        with torch.no_grad(), nullcontext() if self._base else _without_adapter(model):
            base_hidden = target_hidden(base, inputs)

        def divergence(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
            log_q = head_logits(own, ours).log_softmax(-1)
            with torch.no_grad():
                log_p = head_logits(base, theirs).log_softmax(-1)
            if self.direction == "reverse":
                log_p, log_q = log_q, log_p
            return (log_p.exp() * (log_p - log_q)).sum()

        total = hidden.sum() * 0.0
        chunks = (hidden.split(TARGETS_AT_ONCE), base_hidden.split(TARGETS_AT_ONCE))
        for ours, theirs in zip(*chunks, strict=True):
            # The logits of a chunk are recomputed in the backward pass instead of being kept.
            total = total + checkpoint(divergence, ours, theirs, use_reentrant=False)
        return self.beta * total
