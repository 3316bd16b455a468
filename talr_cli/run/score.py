"""Scores a stored model as a config says, and writes the scores.

It does the same for a run that was just trained and for any checkpoint. Knows where scores go;
evaluation/ knows how to score.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from talr_cli.data.base import Splits
from talr_cli.data.rendering import Renderer
from talr_cli.evaluation.config import SuiteConfig
from talr_cli.models.loading import load_model
from talr_cli.models.sources import ModelSource
from talr_cli.run import record
from talr_cli.run.config import EvalConfig, TrainConfig
from talr_cli.runs.run_directory import RunDirectory, study_path
from talr_cli.runs.study import SCORES

if TYPE_CHECKING:
    from talr_cli.evaluation.general.tasks import Tasks


def score(
    config: TrainConfig | EvalConfig,
    info: record.ModelInfo,
    directory: RunDirectory,
    *,
    source: ModelSource,
    base: ModelSource,
    renderer: Renderer,
    splits: Splits,
    suite: SuiteConfig,
    tasks: Tasks,
    device: str,
) -> dict[str, Any]:
    """Evaluate the model in `source`; write samples and results.json, and return its content.

    Args:
        info: Which model it is.
        directory: Where samples and results go.
        base: The model from which drift is measured.
        suite: The config's suite, without what cannot be measured here.
        tasks: The loaded tasks of the suite.
    """
    from talr_cli.evaluation.evaluate import evaluate
    from talr_cli.evaluation.memory import explain_out_of_memory
    from talr_cli.models.head import check_reads

    with explain_out_of_memory("loading the model", device):
        model = load_model(source, config.model, "auto", device)
    check_reads(model)
    scores = evaluate(
        model,
        renderer,
        source=source,
        base=base,
        model_config=config.model,
        suite=suite,
        tasks=tasks,
        domain=config.domain,
        rows=record.domain_rows(config.domain, splits),
        scorer=splits.scorer,
        samples=directory.samples,
        scores=study_path(Path(config.runs_dir), config.study) / SCORES,
    )
    results = record.make_results(config, info, base, source, directory, scores)
    directory.write_results(results)
    directory.write_status("evaluated")
    return results
