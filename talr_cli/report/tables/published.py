"""The study's published numbers (arXiv 2509.20758, MedCalc-Bench), beside those of a study.

Knows labels of methods and names of models as in conf/; does not judge what the difference says.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.report.tables.cells import Cell, Cells, Column, named
from talr_cli.report.tables.table import estimate_cell
from talr_cli.statistics.estimates import Estimate
from talr_cli.statistics.pairs import Results, group_by_pair
from talr_cli.statistics.seeds import seed_groups

SOURCE = "arXiv 2509.20758, MedCalc-Bench"
DATASET, SUITE = "medcalc", "paper"
MODELS = ("qwen2.5-3b", "qwen3-4b", "gemma3-4b")
MEAN = "mean of 3 models"


@dataclass(frozen=True)
class Published:
    """Domain and general score of a method at a learning rate."""

    lr: float
    method: str
    model: str
    domain: float
    general: float


PUBLISHED = (
    Published(1e-6, "sft", "qwen2.5-3b", 0.495, 0.620),
    Published(1e-6, "l2", "qwen2.5-3b", 0.490, 0.621),
    Published(1e-6, "lora", "qwen2.5-3b", 0.126, 0.583),
    Published(1e-6, "averaging α=0.5", "qwen2.5-3b", 0.195, 0.629),
    Published(1e-6, "flow", "qwen2.5-3b", 0.364, 0.597),
    Published(1e-6, "talr", "qwen2.5-3b", 0.481, 0.648),
    Published(1e-6, "sft", "qwen3-4b", 0.548, 0.784),
    Published(1e-6, "l2", "qwen3-4b", 0.469, 0.796),
    Published(1e-6, "lora", "qwen3-4b", 0.195, 0.764),
    Published(1e-6, "averaging α=0.5", "qwen3-4b", 0.143, 0.788),
    Published(1e-6, "flow", "qwen3-4b", 0.477, 0.787),
    Published(1e-6, "talr", "qwen3-4b", 0.489, 0.788),
    Published(1e-6, "sft", MEAN, 0.534, 0.692),
    Published(1e-6, "l2", MEAN, 0.506, 0.697),
    Published(1e-6, "lora", MEAN, 0.181, 0.490),
    Published(1e-6, "averaging α=0.5", MEAN, 0.198, 0.727),
    Published(1e-6, "flow", MEAN, 0.469, 0.692),
    Published(1e-6, "talr", MEAN, 0.501, 0.717),
    Published(5e-6, "sft", MEAN, 0.558, 0.381),
    Published(5e-6, "l2", MEAN, 0.555, 0.395),
    Published(5e-6, "flow", MEAN, 0.553, 0.450),
    Published(5e-6, "talr", MEAN, 0.542, 0.502),
)


def published_cells(results: Sequence[Results]) -> Cells | None:
    """A line for each published number that the runs have a counterpart of; None without any."""
    measured = _measured(results)
    lines = []
    for one in PUBLISHED:
        estimates = measured.get((one.model, one.method, one.lr))
        if estimates is not None:
            lines.append(
                [
                    named(one.model),
                    named(one.method),
                    named(one.lr),
                    _published(one.domain),
                    estimate_cell("domain", estimates["domain"]),
                    _published(one.general),
                    estimate_cell("general", estimates["general"]),
                ]
            )
    columns = [
        Column("model", "model"),
        Column("method", "method"),
        Column("lr", "lr"),
        Column("domain_published", "domain, published", number=True),
        Column("domain", "domain, ours", number=True, error="domain_error"),
        Column("general_published", "general, published", number=True),
        Column("general", "general, ours", number=True, error="general_error"),
    ]
    return Cells(columns, lines) if lines else None


def _published(score: float) -> Cell:
    return Cell(f"{score:.3f}", score)


def _measured(
    results: Sequence[Results],
) -> dict[tuple[str, str, float], dict[str, Estimate | None]]:
    """{(model, method label, lr): estimates of both scores}, and the mean where all models are."""
    found: dict[tuple[str, str, float], dict[str, Estimate | None]] = {}
    for (model, dataset), runs in group_by_pair(results).items():
        if dataset != DATASET:
            continue
        suite = [one for one in runs if (one["general"] or {}).get("suite") == SUITE]
        for group in seed_groups(suite):
            if group.lr is not None:
                parts = {part: group.estimate(part) for part in ("domain", "general")}
                found[model, group.label, group.lr] = parts
    for method, lr in {(method, lr) for _, method, lr in found}:
        models = [found[model, method, lr] for model in MODELS if (model, method, lr) in found]
        if len(models) == len(MODELS):
            found[MEAN, method, lr] = {
                part: _mean([one[part] for one in models]) for part in ("domain", "general")
            }
    return found


def _mean(estimates: Sequence[Estimate | None]) -> Estimate | None:
    scores = [one.score for one in estimates if one is not None]
    return Estimate(statistics.fmean(scores), None) if len(scores) == len(estimates) else None
