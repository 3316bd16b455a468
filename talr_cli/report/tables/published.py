"""Published numbers (arXiv 2509.20758, MedCalc-Bench) next to those of a study.

Methods and models have their names of conf/. The differences are not judged.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from talr_cli.report.tables.cells import Cell, Cells, Column, fixed, named
from talr_cli.report.tables.table import estimate_cell
from talr_cli.statistics.estimates import Estimate
from talr_cli.statistics.groups import Group
from talr_cli.statistics.pairs import PARTS, measure_mismatch
from talr_cli.statistics.seeds import final_settings, unambiguous_settings

SOURCE = "arXiv 2509.20758, MedCalc-Bench"
DATASET, SUITE = "medcalc", "paper"
MODELS = ("qwen2.5-3b", "qwen3-4b", "gemma3-4b")
MEAN = "mean of 3 models"

Setting = tuple[str, float]  # method label, lr
Estimates = dict[str, Estimate | None]  # by part


@dataclass(frozen=True)
class Published:
    """The published scores of a method at a learning rate."""

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


def published_cells(groups: Sequence[Group]) -> Cells | None:
    """A row for each published setting that the study has too; None if there is none."""
    ours = [one for one in groups if one.runs[0]["run"]["dataset"] == DATASET]
    measured = [(one.runs[0]["run"]["model"], one.model, _measured(one)) for one in ours]
    measured.append((MEAN, MEAN, _mean_of_models(ours)))
    lines = [
        [
            Cell(title, name),
            *map(named, (one.method, one.lr)),
            fixed(one.domain),
            estimate_cell("domain", estimates["domain"]),
            fixed(one.general),
            estimate_cell("general", estimates["general"]),
        ]
        for one in PUBLISHED
        for name, title, of_setting in measured
        if name == one.model and (estimates := of_setting.get((one.method, one.lr)))
    ]
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


def _measured(group: Group) -> dict[Setting, Estimates]:
    """Both scores of each setting, at the end of training, on the published suite."""
    suite = [one for one in group.runs if (one["general"] or {}).get("suite") == SUITE]
    return {
        (label, lr): {part: seeds.estimate(part) for part in PARTS}
        for (label, lr, _), seeds in unambiguous_settings(final_settings(suite)).items()
    }


def _mean_of_models(groups: Sequence[Group]) -> dict[Setting, Estimates]:
    """The mean of each setting over the published models; empty unless all are comparable."""
    by_model: dict[str, list[Group]] = {}
    for group in groups:
        by_model.setdefault(group.runs[0]["run"]["model"], []).append(group)
    found = [one for name in MODELS for one in by_model.get(name, ())]
    if [one.runs[0]["run"]["model"] for one in found] != list(MODELS):
        return {}
    first, *others = (one.runs[0] for one in found)
    if any(measure_mismatch(first, one, part) for one in others for part in PARTS):
        return {}
    measured = [_measured(one) for one in found]
    shared = [setting for setting in measured[0] if all(setting in one for one in measured)]
    return {
        setting: {part: _mean([one[setting][part] for one in measured]) for part in PARTS}
        for setting in shared
    }


def _mean(estimates: Sequence[Estimate | None]) -> Estimate | None:
    scores = [one.score for one in estimates if one is not None]
    return Estimate(statistics.fmean(scores), None) if len(scores) == len(estimates) else None
