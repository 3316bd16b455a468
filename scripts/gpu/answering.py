"""Section generate: tokens per second of our generation loop, and of transformers' own ways.

Prompts have different lengths, and answers budgets of their own, as in an evaluation. All ways get
the same prompts and budgets, and their answers are compared with those of our loop.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gpu.making import random_model, random_rows, shape_for
from gpu.measuring import Lines, Options, forget, peak_gib, wait

PAGE = 256  # tokens; continuous batching keeps keys and values in pages of as many
Answers = list[list[int]]
Way = Callable[[Any, Sequence[Any], Collection[int]], Answers]


def run(options: Options, lines: Lines) -> None:
    import torch

    from talr_cli.evaluation.decoding import Request
    from talr_cli.evaluation.evaluate import prepare_to_score
    from talr_cli.evaluation.memory import rows_that_fit

    device, (_, settings) = options.device, shape_for(options)
    model = prepare_to_score(random_model(settings, device).to(torch.bfloat16))
    forget(device)
    new_tokens, scale = (4, 0.02) if options.small else (48, 0.5)
    rows = random_rows(256, settings["vocab_size"], scale)
    asked = [Request(tuple(row.input_ids), new_tokens) for row in rows]
    own_loop(model, asked[:2], ())  # what is loaded with the first kernels is no part of a rate
    most = rows_that_fit(model, max(len(one.prompt) for one in asked) + new_tokens)
    sizes = (4, 8) if options.small else (64, 128, 256)
    for size in (one for one in sizes if one <= most):
        lines.measure(f"{size} rows at once", partial(_by_step, model, asked[:size], device))
    # Rows end at different steps, a quarter to all of the budget; shorter prompts leave room for a
    # way that looks at all rows' keys from each row.
    mixed = [
        Request(one.prompt[len(one.prompt) // 2 :], max(1, new_tokens * (1 + place % 4) // 4))
        for place, one in enumerate(asked[: 4 if options.small else 64])
    ]
    for name, measured in compared(model, mixed, (), device):
        lines.measure(f"{len(mixed)} rows, budgets of their own: {name}", measured)


def _by_step(model: Any, asked: Sequence[Any], device: str) -> dict[str, Any]:
    """Measure our loop, also the time of a step after the first, which reads the prompts."""
    steps = asked[0].max_new_tokens - 1
    first = _timed(model, [replace(one, max_new_tokens=1) for one in asked], (), own_loop, device)
    found = _timed(model, asked, (), own_loop, device)
    step = 1000 * (found["seconds"] - first["seconds"]) / steps
    return {**found, "prompt_seconds": first["seconds"], "ms_per_step": round(step, 1)}


def compared(
    model: Any, asked: Sequence[Any], ends: Collection[int], device: str
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """(name of a way, what measures it); our loop first, as the others are compared with it."""
    own: list[Answers] = []

    def measure(way: Way) -> dict[str, Any]:
        # Once for what is compiled, captured and allocated; what that takes stands apart.
        started = time.perf_counter()
        answers = way(model, asked, ends)
        wait(device)
        first = time.perf_counter() - started
        if not own:
            own.append(answers if way is own_loop else own_loop(model, asked, ends))
        alike = sum(one == other for one, other in zip(answers, own[0], strict=True))
        found = _timed(model, asked, ends, way, device)
        return {
            **found,
            "first_seconds_more": round(first - found["seconds"], 2),
            "same_answers": round(alike / len(asked), 3),
        }

    return [(name, partial(measure, way)) for name, way in ways(device).items()]


def ways(device: str) -> dict[str, Way]:
    """The ways by name; the one that compiles is last, as it may take all the time that is left."""
    compiles = "" if device == "cuda" else " (not compiled here: transformers does on a GPU)"
    return {
        "our loop": own_loop,
        "generate": generated,
        "continuous batching": continuous,
        f"generate, static cache{compiles}": lambda *asked: generated(
            *asked, cache_implementation="static"
        ),
    }


def own_loop(model: Any, asked: Sequence[Any], ends: Collection[int]) -> Answers:
    """What talr answers with: a row that has ended, or spent its budget, leaves the batch."""
    from talr_cli.evaluation.generation import generate_batch

    return [tokens for tokens, _ in generate_batch(model, asked, ends)]


def generated(model: Any, asked: Sequence[Any], ends: Collection[int], **how: Any) -> Answers:
    """transformers' `generate`: it has one budget for all rows, and goes on to the last one's end.

    With a static cache it compiles the steps after the first, on a GPU, into CUDA graphs.
    """
    from talr_cli.evaluation.decoding import without_generation_config
    from talr_cli.evaluation.reading import pad_left

    ids, mask = pad_left([one.prompt for one in asked], pad_id=0)
    with without_generation_config(model):
        found = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max(one.max_new_tokens for one in asked),
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            eos_token_id=list(ends) or None,
            **how,
        )
    answers = found[:, ids.shape[1] :].tolist()
    return [_own_part(tokens, one, ends) for tokens, one in zip(answers, asked, strict=True)]


def continuous(model: Any, asked: Sequence[Any], ends: Collection[int]) -> Answers:
    """transformers' continuous batching: rows have budgets of their own, and leave when they end.

    It keeps keys and values in pages, here as many as these rows need; of itself it takes 90 % of
    the memory that is free.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    needed = [len(one.prompt) + one.max_new_tokens for one in asked]
    most = max(one.max_new_tokens for one in asked)
    stop = list(ends) or -1
    answers: dict[str, list[int]] = {}
    with model.continuous_batching_context_manager(
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=most, pad_token_id=0, eos_token_id=stop
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=sum(-(-one // PAGE) for one in needed) + 1
        ),
    ) as manager:
        names = [
            manager.add_request(list(one.prompt), max_new_tokens=one.max_new_tokens)
            for one in asked
        ]
        while len(answers) < len(names):
            found = manager.get_result(timeout=1)
            if found is None:
                if not manager.is_running():
                    raise RuntimeError("the thread of continuous batching has ended")
            elif found.error is not None:
                raise RuntimeError(found.error)
            elif found.is_finished():
                answers[found.request_id] = found.generated_tokens
    return [_own_part(answers[name], one, ends) for name, one in zip(names, asked, strict=True)]


def _own_part(tokens: list[int], request: Any, ends: Collection[int]) -> list[int]:
    """The answer in what was generated for a row: up to its budget and its end."""
    tokens = tokens[: request.max_new_tokens]
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:end]


def _timed(
    model: Any, asked: Sequence[Any], ends: Collection[int], way: Way, device: str
) -> dict[str, Any]:
    forget(device)
    wait(device)
    started = time.perf_counter()
    answers = way(model, asked, ends)
    wait(device)
    seconds = time.perf_counter() - started
    return {
        "new_tokens_per_second": round(sum(map(len, answers)) / seconds),
        "seconds": round(seconds, 3),
        "peak_gib": peak_gib(device),
    }
