"""Drift: how far a model has moved from its base, in nats per token.

It is measured by the cross-entropy on a fixed general text of ours, by KL(base || model) on the
suite's prompts, and by the same KL along the base's answers to the domain's prompts (see
domain_drift.py). The base's hidden states are cached on disk, much smaller than its logits. Its
head alone turns them into logits again, so that the base is loaded and run only once.
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
from talr_cli.evaluation.memory import BatchSize
from talr_cli.models.checks import max_positions
from talr_cli.models.head import backbone, head_is_plain, head_logits, scale_logits
from talr_cli.models.row_batches import make_batches_for
from talr_cli.models.weight_files import files_of_tensors
from talr_cli.runs.atomic import write_bytes
from talr_cli.runs.disk import make_folder
from talr_cli.runs.manifest import DIGEST
from talr_cli.statistics.items import clustered_error

log = logging.getLogger(__name__)

# Calls a function with the base and returns its result; the base is freed afterwards.
AskBase = Callable[[Callable[[Any], Any]], Any]
POSITIONS_AT_ONCE = 256  # positions whose logits over the vocabulary are in memory, in fp32
TOKENS_AT_ONCE = 2048  # the most tokens of a batch, padding included


@dataclass(frozen=True)
class Predictions:
    """What a model predicts at N positions, those of all sequences one after the other.

    Attributes:
        hidden: [N, H]; the logits [N, V] themselves if `head` is None.
        head: Turns hidden[n, H] into logits[n, V] in fp32; None for a model whose head does more
            than is known here.
    """

    hidden: torch.Tensor
    head: Callable[[torch.Tensor], torch.Tensor] | None

    def log_probs(self) -> Iterator[torch.Tensor]:
        """log_probs[n, V] in order, at most POSITIONS_AT_ONCE positions at a time."""
        for hidden in self.hidden.split(POSITIONS_AT_ONCE):
            yield (self.head(hidden) if self.head else hidden.float()).log_softmax(-1)


@dataclass(frozen=True)
class CachedStates:
    """A base model's hidden states, computed once and cached in a file.

    Attributes:
        file: The cache.
        checkpoint: The folder of the base's weights.
        ask: Calls a function with the base, if the file is missing or damaged.
    """

    file: Path
    checkpoint: Path
    ask: AskBase

    def predictions(
        self, model: Any, prompts: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> Predictions:
        """The base's predictions; see `predictions`.

        Args:
            model: A model tuned from the base, for the shape of its head.
        """
        hidden = self._read(sum(map(len, prompts)) - sum(starts), model)
        head = None if hidden is None else _load_head(self.checkpoint, model, hidden.dtype)
        if hidden is not None and head is not None:
            return Predictions(hidden, head)
        found: Predictions = self.ask(lambda base: _keep_head_only(base, prompts, starts))
        if found.head is not None:
            make_folder(self.file.parent)
            hidden = found.hidden.cpu()
            write_bytes(self.file, save({"hidden": hidden}, {DIGEST: _digest(hidden)}))
        return found

    def _read(self, tokens: int, model: Any) -> torch.Tensor | None:
        if not self.file.is_file():  # reading a named pipe would block
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
    """The passages of the fixed general text, which are of many registers."""
    text = (
        resources.files("talr_cli.evaluation.general.mini").joinpath("drift.txt").read_text("utf-8")
    )
    return [passage.strip() for passage in text.split("\n\n") if passage.strip()]


@torch.inference_mode()
def cross_entropy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str]
) -> dict[str, Any]:
    """The mean negative log-likelihood per token, in nats, with a standard error over passages.

    A passage that is longer than the model's positions is truncated.
    """
    most = max_positions(model.config.to_dict())
    sequences: list[list[int]] = [tokenizer(passage).input_ids[:most] for passage in passages]
    nexts = torch.tensor([token for ids in sequences for token in (*ids[1:], ids[0])])
    parts = zip(
        predictions(model, sequences).log_probs(), nexts.split(POSITIONS_AT_ONCE), strict=True
    )
    losses = [  # gathered before they are copied: the whole vocabulary's would be 100 MB and more
        -log_p.gather(-1, tokens[:, None].to(log_p.device)).squeeze(-1).cpu()
        for log_p, tokens in parts
    ]
    # The prediction after the last token of a passage does not count.
    rows = _split_by_sequence(losses, [len(ids) for ids in sequences])
    sums = [row[:-1].double().sum().item() for row in rows]
    return _mean_per_token(sums, [len(ids) - 1 for ids in sequences])


@torch.inference_mode()
def kl_from_base(
    model: Any,
    base: CachedStates | None,
    prompts: Sequence[Sequence[int]],
    starts: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The mean of KL(base || model) over tokens, in nats, with a standard error over prompts.

    Args:
        base: None if the model is its own base.
        prompts: The token ids of each prompt.
        starts: For each prompt the index of the first token whose prediction counts; None: 0.
    """
    starts = [0] * len(prompts) if starts is None else starts
    counts = [len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)]
    if base is None:
        return _mean_per_token([0.0] * len(counts), counts)
    with progress.share(1, of=2):
        theirs = base.predictions(model, prompts, starts)
    with progress.share(1, of=2):
        ours = predictions(model, prompts, starts)
    divergences = [
        (log_p.exp() * (log_p - log_q)).sum(-1).cpu()
        for log_p, log_q in zip(theirs.log_probs(), ours.log_probs(), strict=True)
    ]
    return _mean_per_token(
        [row.double().sum().item() for row in _split_by_sequence(divergences, counts)], counts
    )


@torch.inference_mode()
def predictions(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int] | None = None
) -> Predictions:
    """A model's predictions for sequences of token ids, in their order; `starts` as above."""
    firsts = [0] * len(sequences) if starts is None else starts
    plain = head_is_plain(model)
    states: list[Any] = [None] * len(sequences)
    batches = make_batches_for(model, [len(one) for one in sequences], TOKENS_AT_ONCE)

    def read(batch: Sequence[int]) -> None:
        width = len(sequences[batch[0]])
        # Padded on the right, where causal attention ignores it.
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for row, index in enumerate(batch):
            ids[row, : len(sequences[index])] = torch.tensor(sequences[index])
        output = (backbone(model) if plain else model)(ids.to(model.device), use_cache=False)
        hidden = output.last_hidden_state if plain else output.logits
        for row, index in enumerate(batch):
            # A copy, since a view of a few positions would keep the whole batch in memory.
            states[index] = hidden[row, firsts[index] : len(sequences[index])].clone()

    size = BatchSize(max(map(len, batches)))
    for number, batch in enumerate(batches):
        progress.reach(number / len(batches))
        size.in_batches(batch, read)
    return Predictions(torch.cat(states), partial(head_logits, model) if plain else None)


def _keep_head_only(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int]
) -> Predictions:
    """The same as `predictions`, but of the model the result keeps only the head in memory."""
    found, head = predictions(model, sequences, starts), model.get_output_embeddings()
    if found.head is None:
        return found
    text = model.config.get_text_config()
    return replace(found, head=partial(_logits, head.weight, head.bias, text))


def _load_head(
    checkpoint: Path, model: Any, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Load the head of the model in `checkpoint`; None if it cannot be found.

    Args:
        model: A model of the same architecture.
        dtype: The dtype of the model in `checkpoint`, which may differ from that of `model`.
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
    return scale_logits(linear(hidden, weight, bias), text)


def _digest(hidden: torch.Tensor) -> str:
    """A hash of the states, their dtype and shape: one damaged bit would give another drift."""
    made = xxhash.xxh3_128(f"{hidden.dtype} {list(hidden.shape)}".encode())
    made.update(hidden.contiguous().view(torch.uint8).numpy().data)
    return made.hexdigest()


def _split_by_sequence(
    values: Sequence[torch.Tensor], counts: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """Concatenate the values of all tokens and split them into sequences of counts[i] tokens."""
    return torch.cat(list(values)).split(list(counts))


def _mean_per_token(sums: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """The mean per token, from the sums and token counts of passages or prompts (clusters)."""
    return {
        "score": sum(sums) / sum(counts),
        "stderr": clustered_error(sums, counts),
        "n": len(sums),
        "tokens": sum(counts),
    }
