"""`talr analyze`: which tokens of the training rows a checkpoint finds hard."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from talr_cli.config import composition
from talr_cli.config.commands import AnalyzeConfig
from talr_cli.config.composition import Composed
from talr_cli.config.stored import overrides_of_run, run_config
from talr_cli.data.encoding import encode_dataset_rows
from talr_cli.data.loading import load
from talr_cli.data.rendering import load_renderer
from talr_cli.errors import UserError
from talr_cli.models.checkpoints import find_run, resolve_checkpoint
from talr_cli.models.loading import bf16_is_fast, choose_device, load_model
from talr_cli.models.sources import resolve_model
from talr_cli.runs.atomic import write_json, write_text
from talr_cli.runs.disk import make_folder
from talr_cli.runs.run_directory import pair_name, study_path

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    composition.run("analyze", analyze, arguments, hold=overrides_of_run)


def analyze(composed: Composed[AnalyzeConfig]) -> None:
    """Write tokens.jsonl, summary.json, histogram.png/.svg and tokens.html."""
    config, run = composed.config, find_run(composed.config.ckpt)
    if run is not None:
        config = run_config("analyze", composed, run).config
    objective = config.objective
    if objective.needs_base_losses or objective.looks_at_step or objective.outputs:
        raise UserError(
            "talr analyze colours tokens by weights that follow from their probabilities alone: "
            "objective=sft, talr (neither normalised nor shuffled), dft, infosft"
        )
    rows = load(config.dataset).train[: config.rows]
    device = choose_device(config.device)
    model = config.model
    source = (
        resolve_model(model) if config.ckpt is None else resolve_checkpoint(config.ckpt, run, model)
    )
    renderer = load_renderer(source, model)
    encoded = encode_dataset_rows(
        config.dataset, rows, renderer, config.max_length, limit="max_length"
    )
    if not encoded:
        raise UserError(f"dataset={config.dataset.name} has no training row")

    import torch

    from talr_cli.models.head import check_head
    from talr_cli.report import hard_tokens
    from talr_cli.statistics.easy_share import easy_share_by_epoch
    from talr_cli.training.base_losses import target_losses

    log.info("analyze: %d rows under %s", len(encoded), source.origin)
    scored = load_model(source, model, "auto", device)
    check_head(scored)
    half = torch.bfloat16 if bf16_is_fast(device) else None
    losses = target_losses(scored, encoded, half)
    tokens = hard_tokens.weigh(losses, encoded, objective, renderer.tokenizer)
    name = "base" if config.ckpt is None else Path(config.ckpt).resolve().name
    folder = study_path(Path(config.runs_dir), config.study)
    folder = folder / "analysis" / f"{pair_name(model.name, config.dataset.name)}-{name}"
    make_folder(folder)
    write_text(folder / "tokens.jsonl", "".join(json.dumps(row) + "\n" for row in tokens))
    summary = hard_tokens.summary(tokens)
    if run is not None and run.metrics.exists():
        summary["easy_share_by_epoch"] = easy_share_by_epoch(run.read_metrics())
    write_json(folder / "summary.json", summary)
    hard_tokens.plot_histogram(tokens, folder)
    write_text(folder / "tokens.html", hard_tokens.html_page(tokens, summary))
    print(hard_tokens.as_text(summary))
    print(f"analysis: {folder}")
