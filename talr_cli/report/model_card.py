"""The model card of an exported run: its scores, those of the base model, and how it was made.

Reads the run directory and the results next to it. The user has to state the licence.
"""

import json
from collections.abc import Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any

from talr_cli.printable import command_line, printable
from talr_cli.report.markdown import code, escaped
from talr_cli.report.tables.cells import Cell, Cells, Column, as_markdown, named
from talr_cli.runs.run_directory import RunDirectory
from talr_cli.runs.study import command_of_run, load_siblings
from talr_cli.statistics.groups import comparable
from talr_cli.statistics.paired import compare_part
from talr_cli.statistics.pairs import (
    PARTS,
    Results,
    measured_alike,
    mismatch,
    run_label,
    section_of,
)

# What was trained, which max_steps or a point along the training makes less than the `epochs`
# asked.
_MADE = {"epochs": "epochs", "optimizer steps": "steps"}
LICENCE = (
    "State the licence here and as `license:` above when you publish this model: the licences of "
    "the base model and of the training data apply."
)
NO_BASE = "The base model was not scored."
_ABOUT_SCORES = (
    "Score ± one standard error; changes with their 95% intervals from a paired bootstrap over the "
    "test items. The general score is the unweighted mean of its tasks."
)


def model_card(run: RunDirectory, title: str) -> str:
    """The README.md of the exported model.

    Args:
        run: A trained run that was scored.
        title: The name of the model, which is the name of its folder.
    """
    results = run.read_results()
    assert results is not None
    config = run.read_config()
    base, why_none = _base_of(run)
    about = escaped(why_none) if base is None else _about_scores(results, base)
    parts = [
        _front_matter(config),
        f"# {escaped(title)}",
        f"{_base_name(config)}, fine-tuned on {escaped(_data_name(config))}.",
        "## Licence",
        LICENCE,
        "## Scores",
        as_markdown(_scores(results, base)),
        " ".join([about, *_limit_notes(results)]),
        "## Use",
        _usage(config, title),
        "## How it was made",
        _how_made(results, config),
        f"Commands:\n\n    {command_of_run(run)}\n"
        f"    {command_line(['talr', 'export', f'run={run.path}', f'out={title}'])}",
        f"Identity of the run: `{run.read_identity()}`.",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _how_made(results: Results, config: Mapping[str, Any]) -> str:
    """A list of the method, learning rate, data and versions."""
    training = results["training"] or {}
    lines = {
        "method": run_label(results),
        "learning rate": named(results["run"]["lr"]).text,
        "seed": results["run"]["seed"],
        **{name: f"{training[key]:.4g}" for name, key in _MADE.items() if key in training},
        "sequences per optimizer step": config["trainer"]["batch_size"],
        "training data": _data_name(config),
        **{f"made with {name}": version for name, version in results["versions"].items()},
    }
    return "\n".join(f"- {escaped(name)}: {escaped(str(value))}" for name, value in lines.items())


def _front_matter(config: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    known: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    model = config["model"]
    if model["random_init"] is None and not Path(model["path"]).is_dir():
        known["base_model"] = printable(model["path"])
    return f"---\n{ModelCardData(**known, tags=['talr']).to_yaml()}\n---"


def _base_name(config: Mapping[str, Any]) -> str:
    model = config["model"]
    return code(model["path"]) if model["random_init"] is None else "Random weights"


def _data_name(config: Mapping[str, Any]) -> str:
    dataset = config["dataset"]
    hub_id = dataset.get("hub_id") if dataset.get("path") is None else None
    return f"{dataset['name']} ({hub_id})" if hub_id else dataset["name"]


def _base_of(run: RunDirectory) -> tuple[Results | None, str]:
    """The base model's results from the same study, or None and the reason why there are none."""
    found = load_siblings(run.path)
    own = found[run.path.resolve()]
    group = next(group for group in comparable(found.values()) if group.has(own))
    return group.base, f"The base model is left out: {group.note}." if group.note else NO_BASE


def _about_scores(results: Results, base: Results) -> str:
    reasons = [mismatch(base, results, part) for part in PARTS if results[part]]
    left_out = [f"Left out: the base model's score where {why}." for why in reasons if why]
    return " ".join([_ABOUT_SCORES, *map(escaped, left_out)])


def _limit_notes(results: Results) -> list[str]:
    """A sentence for each score that covers only some of the items."""
    notes = {
        "domain": "At most {} of the test rows were scored.",
        "general": "At most the first {} items of each task were scored.",
    }
    limits = {part: (results[part] or {}).get("limit") for part in notes}
    return [notes[part].format(limit) for part, limit in limits.items() if limit is not None]


def _scores(results: Results, base: Results | None) -> Cells:
    domain, general = results["domain"], results["general"]
    parts = {}
    if domain is not None:
        parts[f"domain: {results['run']['dataset']}, {domain['metric']}"] = "domain"
    if general is not None:
        parts[f"general: {general['suite']}"] = "general"
        for task, section in general["tasks"].items():
            parts[f"general: {task}, {section['metric'].removesuffix(',none')}"] = f"general/{task}"
    columns = [
        Column("score", "score"),
        Column("base", "base model", number=True),
        Column("model", "this model", number=True),
        Column("change", "change", number=True),
    ]
    rows = [
        [
            Cell(name),
            _base_score(base, results, part),
            _score(section_of(results, part)),
            _change(base, results, part),
        ]
        for name, part in parts.items()
    ]
    return Cells(columns, rows)


def _base_score(base: Results | None, results: Results, part: str) -> Cell:
    if base is None or not measured_alike(base, results, part):
        return Cell()
    return _score(section_of(base, part))


def _score(section: dict[str, Any] | None) -> Cell:
    if not section or section["score"] is None:
        return Cell()
    error = "" if section["stderr"] is None else f" ± {section['stderr']:.3f}"
    return Cell(f"{section['score']:z.3f}{error}")


def _change(base: Results | None, results: Results, part: str) -> Cell:
    found = None if base is None else compare_part(base, results, part)
    return Cell() if found is None else Cell(found.text)


def _literal(value: Any) -> str:
    """A value as Python code without backticks, which would end the code block."""
    text = json.dumps(value) if isinstance(value, str) else repr(value)
    return text.replace("`", "\\x60")


def _usage(config: Mapping[str, Any], title: str) -> str:
    arguments = "".join(
        f", {name}={_literal(value)}"
        if name.isidentifier() and not iskeyword(name)
        # The name of a variable may be any text, which must not become code.
        else f", **{{{_literal(name)}: {_literal(value)}}}"
        for name, value in config["model"]["template_arguments"].items()
    )
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({_literal(title)})
model = AutoModelForCausalLM.from_pretrained({_literal(title)})
inputs = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "..."}}],
    add_generation_prompt=True,
    return_dict=True,
    return_tensors="pt"{arguments},
)
output = model.generate(**inputs, max_new_tokens=512, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
