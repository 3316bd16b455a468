"""TRL's Triton kernels for the head on a CPU, in Triton's interpreter, against torch's own path.

A program of its own: Triton reads at its import whether it is to interpret.
Prints JSON: the relative distance of each figure, for each model and dtype.
"""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import small_models
import torch
from trl.kernels import chunked_logprob

from talr_cli.models.head import model_inputs
from talr_cli.training import head_kernel, token_scores
from talr_cli.training.collator import Collator

OUTPUTS = ("entropy", "log_sum_sq_probs")
# Several tiles and blocks of the vocabulary, none of which is full at its end; tiles of targets.
VOCABULARY, COLUMNS, TARGETS = 2500, 1100, 16


def main():
    small_models.SIZE["vocab_size"] = VOCABULARY
    head_kernel.COLUMNS = head_kernel.COLUMNS_BY_TORCH = COLUMNS
    chunked_logprob.TOKEN_CHUNK_SIZE = TARGETS
    found = {}
    # Plain, bent logits, scaled ones, a head with a bias.
    for kind in ("llama", "gemma2", "cohere", "phi"):
        for half in (False, True):
            torch_path, triton_path = (scored(kind, half, by_triton) for by_triton in (False, True))
            name = f"{kind} {'bf16' if half else 'fp32'}"
            found[name] = {
                "torch": distances(triton_path, torch_path),
                "formula": distances(triton_path, by_formula(kind)),
            }
    print(json.dumps(found))


def batch():
    ids = torch.randint(3, VOCABULARY, (3, 30), generator=torch.Generator().manual_seed(1))
    rows = [
        {"input_ids": row[:length], "labels": [-100] * 4 + row[4:length]}
        for row, length in zip(ids.tolist(), (30, 12, 21), strict=True)
    ]
    return Collator(pad_token_id=0)(rows)


def scored(kind, half, by_triton):
    """Figures and gradients as the trainer has them; bf16 is autocast's, over weights in fp32."""
    chunked_logprob._use_triton = lambda device: by_triton
    model, inputs = small_models.made(kind), batch()
    token_scores.add_token_scores(model, OUTPUTS)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        tokens, _ = token_scores.score_targets(model, model, inputs)
    return figures(model, tokens.log_probs, tokens.entropy, tokens.log_sum_sq_probs)


def by_formula(kind):
    """The same from all logits at once, in fp64."""
    model, inputs = small_models.made(kind).double(), batch()
    logits = model(**model_inputs(inputs), use_cache=False).logits.flatten(0, 1)
    log_probs = logits[inputs["targets"]["at"]].log_softmax(-1)
    p = log_probs.exp()
    own = log_probs.gather(-1, inputs["targets"]["ids"][:, None])[:, 0]
    return figures(model, own, -(p * log_probs).sum(-1), p.square().sum(-1).log())


def figures(model, log_probs, entropy, log_sum_sq_probs):
    """What is compared: numbers of each target, their weighted loss, and its gradients."""
    draw = torch.Generator().manual_seed(2)
    loss = -(torch.rand(len(log_probs), generator=draw) * log_probs).sum() / len(log_probs)
    loss.backward()
    head = model.get_output_embeddings()
    found = {
        "loss": loss,
        "log_probs": log_probs,
        "entropy": entropy,
        "log_sum_sq_probs": log_sum_sq_probs,
        "gradient: head": torch.cat([p.grad.flatten() for p in head.parameters()]),
        "gradient: all": torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        ),
    }
    return {name: value.detach().double() for name, value in found.items()}


def distances(one, other):
    return {name: float((one[name] - other[name]).norm() / other[name].norm()) for name in other}


if __name__ == "__main__":
    main()
