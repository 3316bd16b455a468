"""Everything that is written about a study: tables, pictures, and one page with all of them.

Reads results.json of each run, and metrics.jsonl for the curves and claim 4; nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from talr_cli.report import html
from talr_cli.report.claims import text as claims_text
from talr_cli.report.claims.verdicts import findings
from talr_cli.report.figures.along import plot_along
from talr_cli.report.figures.curves import plot_curves
from talr_cli.report.figures.score_by_lr import plot_score_by_lr
from talr_cli.report.figures.tradeoff import plot_tradeoff
from talr_cli.report.tables.categories import categories_cells
from talr_cli.report.tables.cells import Cells, as_csv, as_markdown
from talr_cli.report.tables.cost import cost_cells
from talr_cli.report.tables.latex import as_latex
from talr_cli.report.tables.matched import LEGEND as MATCHED
from talr_cli.report.tables.matched import matched_cells
from talr_cli.report.tables.published import published_cells
from talr_cli.report.tables.seeds import seeds_cells
from talr_cli.report.tables.table import results_cells
from talr_cli.runs.atomic import write_text
from talr_cli.runs.disk import make_folder
from talr_cli.statistics.groups import Group, comparable, left_out_lines
from talr_cli.statistics.pairs import Results, is_base
from talr_cli.statistics.power import power_text

# In the order of the page: what the names of the pictures begin with, and what is said of them.
_PICTURES = {
    "tradeoff": "Domain against general score: up and to the right is better. The dotted lines are "
    "the base model's scores; the grey steps are the Pareto front of the points as they are, "
    "whatever their errors.",
    "along": "Scores along each training, from the base model at step 0 to its end; the dotted "
    "lines are the base model's. At a point the learning rate has not come down as at the end.",
    "score-by-lr": "Score against learning rate. Methods stand side by side around each rate.",
    "loss": "Training loss, unweighted, averaged over short stretches of steps and over seeds.",
    "validation-loss": "Loss on the validation rows.",
    "token-weights": "Mean weight that the objective gave to a target token; methods that weigh "
    "every token 1 are left out.",
    "easy-tokens": "Share of the target tokens that were not hard when they were trained on.",
    "tau": "TALR's temperature.",
}
_RESULTS = (
    "Score ± one standard error. Δ is the change from the base model on the same items, paired; "
    "where results do not hold the items, its error takes the two scores as independent. ≈ 0: not "
    "distinguishable from noise at the 5% level (paired bootstrap; for accuracies McNemar's exact "
    "test as well). Drift is from the base model, in nats per token: CE the cross-entropy "
    "on a general text, KL that of base and run. Pareto: no run of the table that was measured "
    "alike is better on one score and as good on the other. Errors are of these checkpoints, over "
    "test items; how far another seed may lie is under Seeds and in the claims."
)
_CATEGORIES = "Domain score of the test rows of each category ± one standard error."
_SEEDS = "Mean ± standard deviation over the seeds of each method and learning rate."
_COST = (
    "Hours are device hours of training: those of all GPUs, or of the machine on a CPU, where the "
    "memory is that of the process. A resumed run is scaled up from the part that was timed. "
    "Averages of one run share its training."
)


def write_report(runs: Mapping[Path, Results], study: str, folder: Path) -> Path:
    """Write the report of the runs (results by run directory) to `folder`; its page.

    report.html holds everything; the tables also lie there as .md, .csv and .tex, the pictures
    as .png and .svg, and where the study's claims can be tested, claims.md.
    """
    groups = comparable(runs.values())
    make_folder(folder)
    for name, cells in _tables(groups).items():
        for suffix, render in ((".md", as_markdown), (".csv", as_csv), (".tex", as_latex)):
            write_text(folder / f"{name}{suffix}", render(cells))
    pictures = [
        *plot_tradeoff(groups, folder),
        *plot_along(groups, folder),
        *plot_score_by_lr(groups, folder),
        *plot_curves(groups, runs, folder),
    ]
    drawn = {path.stem: path for path in pictures if path.suffix == ".svg"}
    sections = [html.section(one.title, _body(one, drawn)) for one in groups]
    found = findings(runs)
    if found:
        published = published_cells(groups)
        write_text(folder / "claims.md", claims_text.as_document(found, published))
        sections.insert(0, claims_text.as_section(found, published))
    page = folder / "report.html"
    write_text(page, html.page(f"Study {study}", _summary(list(runs.values())), sections))
    return page


def _tables(groups: Sequence[Group]) -> dict[str, Cells]:
    """{file name: table} of those that have something to say."""
    tables = {
        "table": results_cells(groups),
        "matched": matched_cells(groups),
        "categories": categories_cells(groups),
        "seeds": seeds_cells(groups),
        "cost": cost_cells(groups),
        "published": published_cells(groups),
    }
    return {name: cells for name, cells in tables.items() if cells is not None}


def _body(group: Group, drawn: Mapping[str, Path]) -> Iterator[str]:
    pictures = []
    for name, caption in _PICTURES.items():
        path = drawn.get(f"{name}-{group.file_name}")
        if path is not None:
            pictures.append(html.picture(path, caption))
    tables = _tables([group])
    if group.base is None:
        yield html.paragraph("The base model was not scored, so that changes are unknown.")
    if group.left_out:
        yield html.paragraph("Runs that were not asked what the others were are in the table only.")
    for line in left_out_lines([group]):
        yield html.paragraph(line)
    if "matched" in tables:
        body = [html.table(tables["matched"]), html.paragraph(MATCHED)]
        yield html.section("At an equal domain score", body, 3)
    told = power_text(group.base) if group.base else ""
    notes = [_RESULTS, *([f"≈ 0 does not say that nothing changed: {told}."] if told else [])]
    table = html.table(tables["table"])
    yield html.section("Results", [table, *map(html.paragraph, notes)], 3)
    if "categories" in tables:
        body = [html.table(tables["categories"]), html.paragraph(_CATEGORIES)]
        yield html.section("Domain by category", body, 3)
    if "seeds" in tables:
        yield html.section("Seeds", [html.table(tables["seeds"]), html.paragraph(_SEEDS)], 3)
    if pictures:
        yield html.section("Pictures", pictures, 3)
    if "cost" in tables:
        yield html.section("Cost", [html.table(tables["cost"]), html.paragraph(_COST)], 3)


def _summary(results: Sequence[Results]) -> str:
    tuned = sum(not is_base(one) for one in results)
    versions: dict[str, set[str]] = {}
    for one in results:
        for package in ("talr", "torch", "transformers", "lm-eval"):
            version = one.get("versions", {}).get(package)
            if version:
                versions.setdefault(package, set()).add(version)
    made = ", ".join(f"{name} {' and '.join(sorted(each))}" for name, each in versions.items())
    runs = f"{tuned} {'run' if tuned == 1 else 'runs'}"
    base = " and the base model" if tuned < len(results) else ""
    return f"{runs}{base}. Made with {made}." if made else f"{runs}{base}."
