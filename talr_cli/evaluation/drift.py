"""How far a model has moved from its base, in nats per token: cheap and with little variance.

Cross-entropy on a fixed general text of ours, KL(base || model) on the suite's prompts, and the
same along the base's answers to the domain's prompts (see domain_drift.py). The base's hidden
states are kept on disk, a few numbers a token. Its head makes logits of them anew, so that neither
its other weights nor its pass over the prompts is needed a second time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from talr_cli import progress
from talr_cli.models.checks import positions
from talr_cli.models.head import as_logits, backbone, head_is_plain, head_logits
from talr_cli.models.row_batches import batches_for
from talr_cli.models.weight_files import files_of_tensors
from talr_cli.runs.atomic import write_bytes
from talr_cli.runs.disk import make_folder
from talr_cli.runs.manifest import DIGEST
from talr_cli.statistics.items import clustered_error

log = logging.getLogger(__name__)

# Calls a function with the base and returns what that returns; the base is freed afterwards.
AskBase = Callable[[Callable[[Any], Any]], Any]
POSITIONS_AT_ONCE = 256  # rows of [positions, vocabulary] logits held in fp32
TOKENS_AT_ONCE = 2048  # of a batch, with its padding


@dataclass(frozen=True)
class Predictions:
    """What a model predicts at the N tokens of some sequences, joined.

    Attributes:
        hidden: [N, H]; without a `head` the logits themselves, [N, V].
        head: Makes logits[n, V] in fp32 of hidden[n, H]; None for a model whose head does more
            than is known here.
    """

    hidden: torch.Tensor
    head: Callable[[torch.Tensor], torch.Tensor] | None

    def log_probs(self) -> Iterator[torch.Tensor]:
        """log_probs[n, V] of the tokens in their order, POSITIONS_AT_ONCE at a time."""
        for hidden in self.hidden.split(POSITIONS_AT_ONCE):
            yield (self.head(hidden) if self.head else hidden.float()).log_softmax(-1)


@dataclass(frozen=True)
class KeptStates:
    """A base model's hidden states, read from `file` where they were written before.

    `checkpoint` is the folder of its weights.
    """

    file: Path
    checkpoint: Path
    ask: AskBase

    def predictions(
        self, model: Any, prompts: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> Predictions:
        """What the base predicts; `model` was tuned from it."""
        hidden = self._read(sum(map(len, prompts)) - sum(starts), model)
        head = None if hidden is None else _head_on_disk(self.checkpoint, model, hidden.dtype)
        if hidden is not None and head is not None:
            return Predictions(hidden, head)
        found: Predictions = self.ask(lambda base: _by_head_alone(base, prompts, starts))
        if found.head is not None:
            make_folder(self.file.parent)
            hidden = found.hidden.cpu()
            write_bytes(self.file, save({"hidden": hidden}, {DIGEST: _digest(hidden)}))
        return found

    def _read(self, tokens: int, model: Any) -> torch.Tensor | None:
        if not self.file.is_file():  # a pipe would be waited for
            return None
        try:
            with safe_open(self.file, framework="pt") as content:
                hidden, written = content.get_tensor("hidden"), content.metadata() or {}
            if written.get(DIGEST) != _digest(hidden):
                raise ValueError("it is not what was written")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            log.warning("%s is damaged (%s): computed anew", self.file, error)
            return None
        return hidden.to(model.device) if len(hidden) == tokens else None


def general_passages() -> list[str]:
    """The fixed text: passages of many registers, separated by empty lines."""
    text = (
        resources.files("talr_cli.evaluation.general.mini").joinpath("drift.txt").read_text("utf-8")
    )
    return [passage.strip() for passage in text.split("\n\n") if passage.strip()]


@torch.inference_mode()
def cross_entropy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str]
) -> dict[str, Any]:
    """Mean negative log-likelihood per token; the standard error is over passages.

    A passage that is longer than the model's positions is cut to its beginning.
    """
    most = positions(model.config.to_dict())
    sequences: list[list[int]] = [tokenizer(passage).input_ids[:most] for passage in passages]
    nexts = torch.tensor([token for ids in sequences for token in (*ids[1:], ids[0])])
    parts = zip(
        predictions(model, sequences).log_probs(), nexts.split(POSITIONS_AT_ONCE), strict=True
    )
    losses = [-log_p.cpu().gather(-1, tokens[:, None]).squeeze(-1) for log_p, tokens in parts]
    # After the last token of a passage nothing is predicted.
    rows = _rows(losses, [len(ids) for ids in sequences])
    sums = [row[:-1].double().sum().item() for row in rows]
    return _per_token(sums, [len(ids) - 1 for ids in sequences])


@torch.inference_mode()
def kl_from_base(
    model: Any,
    base: KeptStates | None,
    prompts: Sequence[Sequence[int]],
    starts: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Mean over prompt tokens of KL(base || model); the standard error is over prompts.

    Args:
        base: None where the model is its own base.
        prompts: Token ids, one list per prompt.
        starts: The token of each prompt from which on predictions count; None: the first.
    """
    starts = [0] * len(prompts) if starts is None else starts
    counts = [len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)]
    if base is None:
        return _per_token([0.0] * len(counts), counts)
    with progress.share(1, of=2):
        theirs = base.predictions(model, prompts, starts)
    with progress.share(1, of=2):
        ours = predictions(model, prompts, starts)
    divergences = [
        (log_p.exp() * (log_p - log_q)).sum(-1).cpu()
        for log_p, log_q in zip(theirs.log_probs(), ours.log_probs(), strict=True)
    ]
    return _per_token([row.double().sum().item() for row in _rows(divergences, counts)], counts)


@torch.inference_mode()
def predictions(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int] | None = None
) -> Predictions:
    """A model's predictions, by batches of sequences of like length; `starts` as above."""
    firsts = [0] * len(sequences) if starts is None else starts
    plain = head_is_plain(model)
    states: list[Any] = [None] * len(sequences)
    batches = batches_for(model, [len(one) for one in sequences], TOKENS_AT_ONCE)
    for number, batch in enumerate(batches):
        progress.reach(number / len(batches))
        width = len(sequences[batch[0]])
        # Padded on the right, where causal attention cannot see it.
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for row, index in enumerate(batch):
            ids[row, : len(sequences[index])] = torch.tensor(sequences[index])
        output = (backbone(model) if plain else model)(ids.to(model.device), use_cache=False)
        hidden = output.last_hidden_state if plain else output.logits
        for row, index in enumerate(batch):
            # Copied, as a view of a few positions would keep the whole batch in memory.
            states[index] = hidden[row, firsts[index] : len(sequences[index])].clone()
    return Predictions(torch.cat(states), partial(head_logits, model) if plain else None)


def _by_head_alone(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int]
) -> Predictions:
    """As `predictions`; the result keeps the model's head in memory, and nothing else of it."""
    found, head = predictions(model, sequences, starts), model.get_output_embeddings()
    if found.head is None:
        return found
    text = model.config.get_text_config()
    return replace(found, head=partial(_logits, head.weight, head.bias, text))


def _head_on_disk(
    checkpoint: Path, model: Any, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The head of the model in `checkpoint`, which has the form of `model`; None if not found.

    Args:
        dtype: What the model in `checkpoint` computes in, which need not be that of `model`.
    """
    own = model.get_output_embeddings()
    if getattr(own, "bias", None) is not None:
        return None
    place = own.weight.data_ptr()  # a tied head is stored under the name of the embeddings
    names = [name for name, held in model.state_dict().items() if held.data_ptr() == place]
    for name, file in files_of_tensors(checkpoint).items():
        if name in names:
            with safe_open(file, framework="pt") as tensors:
                weight = tensors.get_tensor(name).to(own.weight.device, dtype)
            if weight.shape == own.weight.shape:
                return partial(_logits, weight, None, model.config.get_text_config())
    return None


def _logits(
    weight: torch.Tensor, bias: torch.Tensor | None, text: Any, hidden: torch.Tensor
) -> torch.Tensor:
    return as_logits(linear(hidden, weight, bias), text)


def _digest(hidden: torch.Tensor) -> str:
    """Of the numbers, and of what they are numbers of: a bit that flips gives another drift."""
    made = xxhash.xxh3_128(f"{hidden.dtype} {list(hidden.shape)}".encode())
    made.update(hidden.contiguous().view(torch.uint8).numpy().data)
    return made.hexdigest()


def _rows(values: Sequence[torch.Tensor], counts: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Values of all tokens, in any parts -> one tensor for each sequence of counts[i] tokens."""
    return torch.cat(list(values)).split(list(counts))


def _per_token(sums: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """The mean per token, from the sums and token counts of passages or prompts."""
    return {
        "score": sum(sums) / sum(counts),
        "stderr": clustered_error(sums, counts),
        "n": len(sums),
        "tokens": sum(counts),
    }
