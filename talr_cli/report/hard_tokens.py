"""Which target tokens a model finds hard, for `talr analyze`: numbers, a histogram and a page.

Takes the losses of the target tokens; does not compute them.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli.methods.base import HARD_TOKEN_PROBABILITY, Objective, TargetTokens
from talr_cli.report.figures.looks import new_figure, save

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from talr_cli.data.rendering import Rendered

HARDEST = 30  # tokens listed on the page
CONTEXT = 12  # tokens shown before each of them
SHOWN_ROWS = 20  # rows shown in colour


def weigh(
    losses: Sequence[torch.Tensor],
    rows: Sequence[Rendered],
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """A record for each row: its target tokens, their probabilities and the objective's weights.

    TALR's tau is the median over all rows, as if they were one batch.

    Args:
        losses: -log p of the target tokens, one tensor [tokens] per row.
    """
    import torch

    lengths = [len(row) for row in losses]
    sequence = torch.repeat_interleave(torch.arange(len(losses)), torch.tensor(lengths))
    targets = TargetTokens(-torch.cat(list(losses)), sequence)
    tau = None
    if objective.tau_scope != "none":
        tau = objective.temperature(targets.sequence_losses())
    weights = objective.weights(targets, tau).split(lengths)
    return [
        {
            "row": number,
            "tokens": [tokenizer.decode([token]) for token in row.targets],
            "p": _short((-row_losses).exp()),
            "weight": _short(row_weights),
        }
        for number, (row, row_losses, row_weights) in enumerate(
            zip(rows, losses, weights, strict=True)
        )
    ]


def _short(values: torch.Tensor) -> list[float]:
    """To six significant digits: of places behind the point the hardest tokens would have none."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, the share of hard tokens, the median probability and the mean token weight."""
    probabilities = sorted(p for record in records for p in record["p"])
    weights = [weight for record in records for weight in record["weight"]]
    n = len(probabilities)
    return {
        "rows": len(records),
        "tokens": n,
        "hard_share": sum(p < HARD_TOKEN_PROBABILITY for p in probabilities) / n,
        "median_p": statistics.median(probabilities),
        "mean_weight": statistics.fmean(weights),
    }


def as_text(figures: dict[str, Any]) -> str:
    """The `summary` as lines for people."""
    lines = [
        f"{figures['tokens']} target tokens of {figures['rows']} rows: "
        f"{100 * figures['hard_share']:.1f} % hard (p < {HARD_TOKEN_PROBABILITY}), "
        f"median p {figures['median_p']:.3f}, mean weight {figures['mean_weight']:.3f}"
    ]
    for epoch in figures.get("easy_share_by_epoch", ()):
        lines.append(
            f"epoch {epoch['epoch']}: {100 * epoch['easy_share']:.1f} % of the tokens "
            f"had p >= {HARD_TOKEN_PROBABILITY} when they were trained on"
        )
    return "\n".join(lines)


def plot_histogram(records: Sequence[dict[str, Any]], folder: Path) -> None:
    """histogram.png and .svg: the share of target tokens against their probability."""
    probabilities = [p for record in records for p in record["p"]]
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    axes.hist(
        probabilities,
        bins=[i / 20 for i in range(21)],
        weights=[1 / len(probabilities)] * len(probabilities),
        color="0.55",
        edgecolor="0.15",
    )
    axes.axvline(HARD_TOKEN_PROBABILITY, color="black", linestyle=":")
    axes.text(HARD_TOKEN_PROBABILITY - 0.01, axes.get_ylim()[1] * 0.93, "hard", ha="right")
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability of the target token")
    axes.set_ylabel("share of the target tokens")
    save(figure, folder, "histogram")


def html_page(records: Sequence[dict[str, Any]], figures: dict[str, Any]) -> str:
    """The hardest tokens in context, and the first rows with every token coloured by its weight."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Hard tokens</title>'
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "pre{white-space:pre-wrap;line-height:1.6}td{padding:.1em .6em;font-family:monospace;"
        "white-space:pre-wrap}mark{background:#ffd37a}</style>"
        f"<h1>Hard tokens</h1><p>{html.escape(as_text(figures)).replace(chr(10), '<br>')}</p>"
        "<h2>The hardest</h2><table><tr><th>p</th><th>weight</th><th>row</th>"
        "<th>in context</th></tr>"
        f"{''.join(_hardest_rows(records))}</table><h2>Weights</h2><p>The darker a token, the "
        "larger its weight; hover over it for the numbers.</p>"
        f"{''.join(_coloured_rows(records))}</html>\n"
    )


def _hardest_rows(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table row for each of the hardest tokens."""
    ranked = sorted(
        (p, number, position)
        for number, record in enumerate(records)
        for position, p in enumerate(record["p"])
    )
    for p, number, position in ranked[:HARDEST]:
        record = records[number]
        before = "".join(record["tokens"][max(0, position - CONTEXT) : position])
        token = record["tokens"][position]
        yield (
            f"<tr><td>{p:.2g}</td><td>{record['weight'][position]:.3f}</td><td>{record['row']}</td>"
            f"<td>{html.escape(before)}<mark>{html.escape(token)}</mark></td></tr>"
        )


def _coloured_rows(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The first rows, each token on a background as strong as its weight."""
    largest = max(weight for record in records for weight in record["weight"]) or 1.0
    for record in records[:SHOWN_ROWS]:
        spans = [
            f'<span style="background:rgba(31,119,180,{0.6 * weight / largest:.2f})" '
            f'title="p {p:.3f}, weight {weight:.3f}">{html.escape(token)}</span>'
            for token, p, weight in zip(
                record["tokens"], record["p"], record["weight"], strict=True
            )
        ]
        yield f"<h3>row {record['row']}</h3><pre>{''.join(spans)}</pre>"
