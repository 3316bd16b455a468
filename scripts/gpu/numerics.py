"""Sections reference and numerics: each method's first gradient, against a CPU's in fp32.

The reference has a process of its own, since a process computes on one kind of device. Its
gradients are kept in the work folder, and computed again if that is gone.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpu.making import SMALL, in_some_order, make_trainer, random_model, random_rows, train
from gpu.measuring import Lines, Options, forget

METHODS = (*("sft", "talr", "dft", "eaft", "infosft", "deft", "flow", "l2", "kl", "asft", "lora"),)
# The head is made in pieces of 32768 columns on a GPU: here in two of them.
SHAPE = {**SMALL, "vocab_size": 49152, "hidden_size": 256, "intermediate_size": 512}
# How far the weights are from the base's, relatively, so that l2 and kl have something to pull.
# Where predictions hardly differ (1.02), the gradient of their KL is a difference that bf16 does
# not resolve: asft's, which is little else, is then off by 0.14, and by 0.02 here.
MOVED = 1.3
FP32, BF16 = 1e-3, 5e-2  # relative, of the whole gradient
IN_PARTS = "trainer.micro_batch_size=2"
REFERENCE = ("trainer.precision=fp32", "trainer.padding_free=false")
NATIVE, ELSE = "trainer.precision=bf16", "trainer.precision=fp16"  # on cards without bf16
WAYS = (
    (("trainer.precision=bf16",), BF16),
    (("trainer.precision=fp32",), FP32),
    (("trainer.precision=bf16", IN_PARTS, "trainer.gradient_checkpointing=true"), BF16),
    (("trainer.precision=bf16", "trainer.padding_free=false"), BF16),
    (("trainer.precision=fp32", IN_PARTS), FP32),
    (("trainer.precision=fp32", "trainer.padding_free=true"), FP32),
)


def ways(native: bool) -> list[tuple[tuple[str, ...], float]]:
    """(overrides, bound) of each way; in fp16, as `talr train` does, if bf16 is not native."""
    return [
        (tuple(ELSE if one == NATIVE and not native else one for one in typed), bound)
        for typed, bound in WAYS
    ]


def name_of(method: str, typed: Sequence[str]) -> str:
    """The name of the line for a method that is trained in one of `ways`."""
    return " ".join([method, *(one.rpartition(".")[2] for one in typed)])


def reference(options: Options, lines: Lines) -> None:
    """Compute the gradients on the CPU, in fp32, in one padded batch."""
    from safetensors.torch import save_file

    # Those of `steps` may be others: TRL's own.
    wanted = [one for one in METHODS if not options.methods or one in options.methods]
    for method in wanted:
        file = _file(options.work, method)
        if file.exists():
            continue

        def keep(method: str = method, file: Path = file) -> dict[str, Any]:
            found, loss = gradient(options, "cpu", method, REFERENCE)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(found, file, metadata={"loss": repr(loss)})
            return {"loss": loss}

        lines.measure(method, keep, again=True)


def run(options: Options, lines: Lines) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    from talr_cli.models.loading import bf16_is_fast

    if options.device == "cuda":
        lines.measure("torch's kernel for joined rows", kernel)
        lines.measure("TRL's kernel for the head", head_kernel)
    there = [one for one in METHODS if _file(options.work, one).exists()]
    native = options.device == "cpu" or bf16_is_fast(options.device)
    # Of all methods one way before the next, for what time there is.
    for typed, bound in ways(native):
        for method in there:

            def compare(
                typed: Sequence[str], method: str = method, bound: float = bound
            ) -> dict[str, Any]:
                file = _file(options.work, method)
                wanted = load_file(file)
                with safe_open(file, "pt") as content:
                    loss = float(content.metadata()["loss"])
                found, own_loss = gradient(options, options.device, method, typed)
                if found.keys() != wanted.keys():
                    raise RuntimeError("other weights have a gradient than in the reference")
                off = sum(float((found[n] - wanted[n]).square().sum()) for n in wanted)
                size = sum(float(one.square().sum()) for one in wanted.values())
                error = (off / size) ** 0.5
                return {"verdict": "ok" if error <= bound else "OFF", "off": f"{error:.1e}",
                        "bound": bound, "loss_off": f"{own_loss - loss:+.1e}"}  # fmt: skip

            lines.measure(name_of(method, typed), partial(in_some_order, compare, typed))
            forget(options.device)


def kernel() -> dict[str, Any]:
    """The kernel's error for the heads of Qwen2.5-3B, Gemma 3 4B and SmolLM2."""
    import torch

    from talr_cli.training import varlen

    found, device = varlen.find_kernel(), torch.device("cuda", 0)
    if found is None:
        return {"verdict": "not in this version of torch"}
    if torch.cuda.get_device_capability() < varlen.LEAST_CAPABILITY:
        return {"verdict": "not for this card"}
    heads = ((16, 2, 128), (8, 4, 256), (9, 3, 64))
    off = max(varlen.max_error(found, device, torch.bfloat16, *one) for one in heads)
    return {"verdict": "ok" if off <= varlen.BOUND else "OFF", "off": f"{off:.1e}",
            "bound": varlen.BOUND}  # fmt: skip


def head_kernel() -> dict[str, Any]:
    """The error of the head's Triton kernel, in bf16 and in fp32; a training does without it."""
    import torch
    from trl.kernels import chunked_logprob

    from talr_cli.training import head_kernel

    device = torch.device("cuda", 0)
    if not chunked_logprob._use_triton(device):
        return {"verdict": "there is no triton"}
    bounds = {torch.bfloat16: head_kernel.BOUND_HALF, **head_kernel.BOUND}
    offs = {dtype: head_kernel.max_error(device, dtype) for dtype in bounds}
    good = all(off <= bounds[dtype] for dtype, off in offs.items())
    return {
        "verdict": "ok" if good else "OFF",
        **{str(dtype).removeprefix("torch."): f"{off:.1e}" for dtype, off in offs.items()},
    }


def _file(work: Path, method: str) -> Path:
    return work / "reference" / f"{method}.safetensors"


def gradient(
    options: Options, device: str, method: str, typed: Sequence[str]
) -> tuple[dict[str, Any], float]:
    """({weight: gradient before clipping, on the CPU}, loss) of a step over eight rows."""
    import torch
    from transformers import TrainerCallback

    shape = SMALL if options.small else SHAPE
    rows = random_rows(8, shape["vocab_size"], scale=0.05 if options.small else 0.3)

    def load_base(dtype: Any) -> Any:
        return random_model(shape, "cpu", sharpness=3.0).to(device)

    seen: dict[str, Any] = {}

    class Watch(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            # After the regulariser has taken the base's weights, before a first step in parts has
            # taken its tau.
            with torch.no_grad():
                for parameter in trainer.model.parameters():
                    parameter.mul_(MOVED)

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            seen["gradient"] = {
                name: parameter.grad.detach().float().cpu().clone()
                for name, parameter in trainer.model.named_parameters()
                if parameter.grad is not None
            }

        def on_log(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
            seen.setdefault("loss", kwargs["logs"].get("loss"))

    exact = ["objective.tau_estimator=exact"] if method == "talr" else []
    strong = ["regulariser.strength=1.0", "regulariser.reduction=sum"] if method == "l2" else []
    trainer = make_trainer(
        [f"method={method}", "trainer.batch_size=8", "trainer.max_steps=1", "lr=1e-12",
         "trainer.max_grad_norm=1e9", *exact, *strong, *typed],
        load_base(None), rows, device, load_base,
    )  # fmt: skip
    trainer.add_callback(Watch())
    train(trainer, typed, device)
    return seen["gradient"], float(seen["loss"])
