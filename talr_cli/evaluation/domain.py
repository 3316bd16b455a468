"""The domain's test rows: answer them greedily, score the answers, keep every sample.

Knows a model, a renderer and a scorer; does not know which method made the model.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from talr_cli.data.base import Example, Scorer
from talr_cli.data.rendering import Renderer

log = logging.getLogger(__name__)

MOST_NEW_TOKENS = 1024


@dataclass(frozen=True)
class DomainScore:
    """`results` is the `domain` part of results.json, `samples` one record per test row."""

    results: dict[str, Any]
    samples: list[dict[str, Any]]


def answer_budget(examples: Sequence[Example], renderer: Renderer) -> int:
    """Tokens an answer may take: twice the longest reference answer, so that no method is cut."""
    longest = max(len(renderer.encode(example).targets) for example in examples)
    return min(2 * longest, MOST_NEW_TOKENS)


def evaluate_domain(
    model: PreTrainedModel,
    renderer: Renderer,
    examples: Sequence[Example],
    scorer: Scorer,
    max_new_tokens: int,
    batch_size: int,
) -> DomainScore:
    """Generate one greedy answer per row and score it."""
    started = time.perf_counter()
    outputs = generate(model, renderer, examples, max_new_tokens, batch_size)
    samples: list[dict[str, Any]] = []
    groups: dict[str, list[bool]] = defaultdict(list)
    for example, output in zip(examples, outputs, strict=True):
        verdict = scorer(output, example.reference)
        groups[example.group].append(verdict.correct)
        samples.append(
            {
                "id": example.id,
                "group": example.group,
                "messages": list(example.messages),
                "output": output,
                "parsed": verdict.parsed,
                "correct": verdict.correct,
                "reference": dict(example.reference),
            }
        )
    results = {
        "metric": "accuracy",
        "scorer": getattr(scorer, "name", type(scorer).__name__),
        **proportion([sample["correct"] for sample in samples]),
        "groups": {name: proportion(values) for name, values in sorted(groups.items()) if name},
        "max_new_tokens": max_new_tokens,
        "seconds": round(time.perf_counter() - started, 2),
    }
    return DomainScore(results, samples)


def proportion(correct: Sequence[bool]) -> dict[str, Any]:
    """Share, its standard error sqrt(p (1 - p) / (n - 1)), and n, as lm-eval has them."""
    n = len(correct)
    share = sum(correct) / n
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    return {"score": share, "stderr": stderr, "n": n}


@torch.inference_mode()
def generate(
    model: Any,
    renderer: Renderer,
    examples: Sequence[Example],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Greedy answers in the order of `examples`; batches of like length end with their longest."""
    tokenizer = renderer.tokenizer
    prompts = [renderer.prompt_ids(example.messages) for example in examples]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    stops = _stop_ids(model, renderer)
    answers = [""] * len(prompts)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    for batch in tqdm(batches, desc="domain", disable=not sys.stderr.isatty()):
        width = max(len(prompts[index]) for index in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, width - len(prompts[index]) :] = 1
        generated = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
        )
        for row, index in enumerate(batch):
            answer = generated[row, width:].tolist()
            end = next((i for i, token in enumerate(answer) if token in stops), len(answer))
            answers[index] = tokenizer.decode(answer[:end], skip_special_tokens=True)
    return answers


def _stop_ids(model: PreTrainedModel, renderer: Renderer) -> list[int]:
    """What ends an answer: the trained end of turn and the model's own end tokens."""
    own = model.generation_config.eos_token_id
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return sorted({renderer.end_of_turn, *own})
