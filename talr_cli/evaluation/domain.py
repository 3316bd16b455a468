"""Answers and scores the domain's test rows, and keeps every sample.

A row is answered by greedy generation, or by the likeliest of the choices that it lists.

Knows a model, a renderer and a scorer; does not know which method made the model.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from talr_cli.data.base import Example
from talr_cli.data.choices import possible_completions
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.choosing import choice_likelihoods
from talr_cli.evaluation.data_parallel import Distribute, in_this_process
from talr_cli.evaluation.generation import decode_answers, generate, make_requests
from talr_cli.evaluation.memory import BatchSize
from talr_cli.evaluation.vllm import Vllm
from talr_cli.scorers.base import Scorer, Summarizer, Verdict
from talr_cli.scorers.thoughts import without_thoughts
from talr_cli.scorers.user import definition_of, judged
from talr_cli.statistics.items import scored_items

log = logging.getLogger(__name__)

# Even if the references are single words, a model may explain before it answers.
FEWEST_NEW_TOKENS = 128
MOST_NEW_TOKENS = 1024  # unless the references need more
MANY_CUT = 0.1  # the share of cut answers above which a larger budget is advised


@dataclass(frozen=True)
class DomainScore:
    """The `domain` part of results.json, and the samples, one record per test row."""

    results: dict[str, Any]
    samples: list[dict[str, Any]]


def answer_budget(examples: Sequence[Example], renderer: Renderer) -> int:
    """How many tokens an answer may have; the same for the base and a tuned model.

    Twice the longest reference, between FEWEST_NEW_TOKENS and MOST_NEW_TOKENS, but never less than
    the longest reference.
    """
    longest = max(len(renderer.encode(example).targets) for example in examples)
    return max(FEWEST_NEW_TOKENS, longest, min(2 * longest, MOST_NEW_TOKENS))


def evaluate_domain(
    model: PreTrainedModel,
    renderer: Renderer,
    examples: Sequence[Example],
    scorer: Scorer,
    max_new_tokens: int,
    batch_size: int,
    answer_by: str = "generation",
    distribute: Distribute = in_this_process,
    vllm: Vllm | None = None,
) -> DomainScore:
    """Answer every row by `generation` or by `likelihood`, and score the answers.

    Args:
        max_new_tokens: The most tokens of a generated answer.
        batch_size: Sequences in a forward pass to begin with; every choice is one.
        distribute: Runs the model, in this process or on all ranks.
        vllm: Generates the answers instead.
    """
    started = time.perf_counter()
    size = BatchSize(batch_size)
    details: list[dict[str, Any]]
    if answer_by == "likelihood":
        choices = possible_completions(examples)
        choose = partial(choice_likelihoods, batch_size=size)
        rows = list(zip(examples, choices, strict=True))
        likelihoods = distribute(choose, model, renderer, rows)
        outputs = [
            completions[max(values, key=values.__getitem__)]
            for completions, values in zip(choices, likelihoods, strict=True)
        ]
        details = [{"log_probabilities": values} for values in likelihoods]
    else:
        if vllm is not None:
            asked = make_requests(model, renderer, examples, max_new_tokens)
            answers = decode_answers(renderer, asked, vllm(asked), max_new_tokens)
        else:
            answer = partial(generate, max_new_tokens=max_new_tokens, batch_size=size)
            answers = distribute(answer, model, renderer, examples)
        outputs = [one.text for one in answers]
        details = [{"cut": one.cut, "shortened": one.shortened} for one in answers]
    verdicts = [
        judged(scorer, without_thoughts(output), example.reference)
        for example, output in zip(examples, outputs, strict=True)
    ]
    results = {
        **_scores(renderer, examples, verdicts, scorer),
        "answer_by": answer_by,
        "backend": "hf" if vllm is None or answer_by == "likelihood" else "vllm",
        **_budget_results(details, max_new_tokens, answer_by),
        "batch_size": size.current,
        "seconds": round(time.perf_counter() - started, 2),
    }
    samples = [
        _sample(example, output, verdict, detail)
        for example, output, verdict, detail in zip(
            examples, outputs, verdicts, details, strict=True
        )
    ]
    return DomainScore(results, samples)


def _scores(
    renderer: Renderer,
    examples: Sequence[Example],
    verdicts: Sequence[Verdict],
    scorer: Scorer,
) -> dict[str, Any]:
    """The scores of all rows, each row, each group and each category, and the scorer's summary."""
    correct = [verdict.correct for verdict in verdicts]
    score = proportion(correct)
    scores = {
        "metric": getattr(scorer, "metric", "accuracy"),
        "scorer": getattr(scorer, "name", type(scorer).__name__),
        "definition": definition_of(scorer),
        **score,
        **scored_items(
            [example.id for example in examples],
            correct,
            [[example.messages, example.reference] for example in examples],
            score["score"],
            [renderer.prompt(example.messages, example.tools) for example in examples],
        ),
        "groups": _proportions([example.group for example in examples], correct),
        "categories": _proportions([example.category for example in examples], correct),
    }
    if isinstance(scorer, Summarizer):
        references = [example.reference for example in examples]
        scores["summary"] = scorer.summary(verdicts, references)
    return scores


def _sample(
    example: Example, output: str, verdict: Verdict, detail: Mapping[str, Any]
) -> dict[str, Any]:
    """The record of a row in samples/: what was asked, answered and judged."""
    return {
        **verdict.detail,
        "id": example.id,
        "group": example.group,
        "category": example.category,
        "messages": list(example.messages),
        "output": output,
        "parsed": verdict.parsed,
        "correct": verdict.correct,
        "reference": dict(example.reference),
        **detail,
    }


def _budget_results(
    details: Sequence[Mapping[str, Any]], max_new_tokens: int, answer_by: str
) -> dict[str, Any]:
    """The budget, how many answers it cut off, and how many had less; warns about both."""
    if answer_by != "generation":
        return {"max_new_tokens": None, "cut": None, "shortened": None}
    cut = sum(detail["cut"] for detail in details)
    shortened = sum(detail["shortened"] for detail in details)
    if shortened:
        log.warning(
            "%d of %d prompts leave fewer than %d of the model's positions to their answers, which "
            "are cut where these end",
            *(shortened, len(details), max_new_tokens),
        )
    if cut > MANY_CUT * len(details):
        log.warning(
            "%d of %d answers did not end within %d tokens and were cut: "
            "domain.max_new_tokens=%d allows more",
            cut,
            len(details),
            max_new_tokens,
            2 * max_new_tokens,
        )
    return {"max_new_tokens": max_new_tokens, "cut": cut, "shortened": shortened}


def _proportions(names: Sequence[str], correct: Sequence[float]) -> dict[str, Any]:
    """{name: the score of the rows with this name}; rows without a name are left out."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, score in zip(names, correct, strict=True):
        by_name[name].append(score)
    return {name: proportion(scores) for name, scores in sorted(by_name.items()) if name}


def proportion(correct: Sequence[float]) -> dict[str, Any]:
    """The mean of scores in [0, 1], its standard error and n, as lm-eval computes them.

    The error is sd / sqrt(n) with the sample's sd. If all scores are 0 or 1 and p is their mean, it
    is sqrt(p (1 - p) / (n - 1)).
    """
    n = len(correct)
    stderr = statistics.stdev(map(float, correct)) / math.sqrt(n) if n > 1 else None
    return {"score": sum(correct) / n, "stderr": stderr, "n": n}
