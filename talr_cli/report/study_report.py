"""The report of a study: tables, figures, and one page with all of them.

This module assembles the page from top to bottom. Its parts come from tables/, figures/ and the
other modules of this package, which read the files of each run.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from talr_cli.errors import UnwritableError
from talr_cli.printable import command_line
from talr_cli.report import examples, html
from talr_cli.report.claims import text as claims_text
from talr_cli.report.claims.verdicts import Finding, findings
from talr_cli.report.figures.along import draw_along
from talr_cli.report.figures.curves import draw_curves
from talr_cli.report.figures.looks import save
from talr_cli.report.figures.matched import draw_matched
from talr_cli.report.figures.score_by_lr import draw_score_by_lr
from talr_cli.report.figures.tradeoff import draw_tradeoff
from talr_cli.report.flips import flipped_items
from talr_cli.report.guesses import guesses_of
from talr_cli.report.provenance import commands, data_cells, made_with
from talr_cli.report.recommend_text import as_sentences
from talr_cli.report.shipping import BOUND, Shipping, shipping
from talr_cli.report.tables import abilities as ability_tables
from talr_cli.report.tables import methods as methods_table
from talr_cli.report.tables.categories import categories_cells
from talr_cli.report.tables.cells import as_csv, as_markdown
from talr_cli.report.tables.cost import cost_cells
from talr_cli.report.tables.latex import as_latex
from talr_cli.report.tables.matched import LEGEND as MATCHED
from talr_cli.report.tables.matched import MISSING as NOT_MATCHED
from talr_cli.report.tables.matched import matched_cells
from talr_cli.report.tables.methods import Line
from talr_cli.report.tables.published import published_cells
from talr_cli.report.tables.seeds import seeds_cells
from talr_cli.report.tables.table import Row, results_cells, study_rows
from talr_cli.report.unscored import unscored_lines
from talr_cli.runs.atomic import write_text
from talr_cli.runs.disk import make_folder
from talr_cli.runs.next_command import study_command
from talr_cli.statistics.abilities import Ability, abilities
from talr_cli.statistics.groups import Group, comparable, left_out_lines
from talr_cli.statistics.matched import Matched, matched
from talr_cli.statistics.pairs import Results, RunsByPath, is_base
from talr_cli.statistics.power import power_text

# Captions by the first part of the figures' file names.
_TRADEOFF = {
    "tradeoff": "Domain against general score: up and to the right is better. A mark is a "
    "method at a learning rate, averaged over seeds (small dots, if there are few); lines join the "
    "learning rates of a method. Dotted lines go from the base model through the points along each "
    "training. The crossing dotted lines mark the base model's scores; the grey steps are the "
    "Pareto front of the marks, regardless of errors.",
    "matched": "Which method forgets least at an equal domain score: the general score of each "
    "method minus that of sft, where both have the same gain on the domain (the domain score is "
    "next to the name).",
}
_BY_RATE = {
    "score-by-lr": "Score against learning rate. Methods are drawn side by side at each rate.",
}
_CURVES = {
    "along": "Scores along trainings, from the base model at step 0 to the end, averaged over "
    "seeds; the grey dotted lines mark the base model's scores. At a point before the end, the "
    "learning rate has not yet decayed fully.",
    "loss": "Unweighted training loss, averaged over short ranges of steps and over seeds.",
    "validation-loss": "Loss on the validation rows.",
    "token-weights": "Mean weight of a target token in the objective; methods that give every "
    "token the weight 1 are left out.",
    "easy-tokens": "Share of the target tokens that were not hard when they were trained on.",
    "tau": "TALR's temperature.",
}
_RESULTS = (
    "Score ± one standard error. Δ is the paired change from the base model on the same items; if "
    "the results lack the items, its error treats the two scores as independent. ≈ 0: not "
    "distinguishable from noise at the 5% level (paired bootstrap, and McNemar's exact test or, "
    "for several tasks and for partial credit, a permutation test of signs). Drift is measured "
    "from the base model in nats per token: CE is the cross-entropy on a general text, KL the "
    "divergence between base model and run. Pareto: no comparable run of the table is better on "
    "one score and at least as good on the other. Errors are those of these checkpoints, over test "
    "items."
)
_SHIP = (
    "Intervals of this part are of one checkpoint, over test items, by the paired bootstrap. Those "
    "of the tables below are of a setting, from the variances over items and, if it is known, over "
    "runs: for one seed they are about the same change, and a little wider."
)
_CATEGORIES = "Domain score of the test rows of each category ± one standard error."
_COST = (
    "Hours are device hours of training, summed over GPUs; on a CPU they are those of the machine, "
    "and memory is that of the process. For a resumed run they are scaled up from the timed part. "
    "Averages of a run and points along it share its training."
)
_MADE = "How it was made"
_PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """What was written, and the results that it shows.

    Attributes:
        rows: Each run with its changes from the base model.
        lines: The base models and the settings.
        matched: The methods at an equal domain score, by the title of the group.
        error: Why not everything could be written; None if it was.
        shipped: By the title of the group, if there is something to compare.
        findings: On the published claims, if they are tested.
    """

    page: Path
    rows: Sequence[Row]
    lines: Sequence[Line]
    matched: Mapping[str, Sequence[Matched]]
    error: UnwritableError | None
    shipped: Mapping[str, Shipping]
    findings: Sequence[Finding]


def write_report(runs: RunsByPath, study: str, folder: Path, claims: bool = False) -> Report:
    """Write the report of the runs to `folder`.

    report.html has everything. The tables are also written as .md, .csv and .tex, the figures as
    .png and .svg, and the claims, if they can be tested, as claims.md.

    Args:
        study: The name of the study.
        claims: Whether to test the published claims.
    """
    groups = comparable(runs.values())
    shipped = {
        group.title: chosen for group in groups if (chosen := shipping(group, runs)) is not None
    }
    tested = findings(runs) if claims else []
    rows = study_rows(groups)
    lines = [line for group in groups for line in methods_table.method_lines(group)]
    at_equal = {group.title: matched(group) for group in groups}
    report = Report(folder / _PAGE, rows, lines, at_equal, None, shipped, tested)
    try:
        _write(report, groups, runs, study, folder)
    except UnwritableError as error:
        return replace(report, error=error)
    return report


def _write(
    report: Report, groups: Sequence[Group], runs: RunsByPath, study: str, folder: Path
) -> None:
    known = {group.title: abilities(group, guesses_of(group, runs)) for group in groups}
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(folder.parent)):
        raise UnwritableError(
            f"cannot write {folder}: it is a link out of the study, where files of the same names "
            "would be replaced: move it away"
        )
    make_folder(folder)
    _write_tables(report, groups, known, folder)
    figures = _draw(report, groups, runs, folder)
    recommend = study_command("recommend", next(iter(runs)).parents[2], study)
    sections = {
        group.title: _group(report, group, figures, known[group.title], recommend)
        for group in groups
    }
    sections[_MADE] = _made(groups, runs)
    page = [html.section(title, body) for title, body in sections.items()]
    titles = [*sections]
    if report.findings:
        published = published_cells(groups)
        write_text(folder / "claims.md", claims_text.as_document(report.findings, published))
        page.append(claims_text.as_section(report.findings, published))
        titles.append(claims_text.TITLE)
    summary = _summary(list(runs.values()))
    without_scores = map(html.note, unscored_lines(runs))
    body = [*without_scores, html.contents(titles), *page]
    write_text(folder / _PAGE, html.page(f"Study {study}", summary, body))


def _write_tables(
    report: Report, groups: Sequence[Group], known: Mapping[str, Sequence[Ability]], folder: Path
) -> None:
    """Write every table that is not empty, in each format."""
    tables = {
        "table": results_cells(report.rows),
        "matched": matched_cells([(group, report.matched[group.title]) for group in groups]),
        "categories": categories_cells(groups),
        "seeds": seeds_cells(report.rows),
        "cost": cost_cells(groups),
        "published": published_cells(groups),
        "methods": methods_table.methods_cells(report.lines),
        "abilities": ability_tables.abilities_cells(
            [(group, known[group.title]) for group in groups]
        ),
    }
    for name, cells in tables.items():
        if cells is not None:
            for suffix, render in ((".md", as_markdown), (".csv", as_csv), (".tex", as_latex)):
                write_text(folder / f"{name}{suffix}", render(cells))


def _draw(
    report: Report, groups: Sequence[Group], runs: RunsByPath, folder: Path
) -> dict[str, Path]:
    """Draw all figures; {name: SVG file}."""
    files = {}
    for group in groups:
        figures = {
            "tradeoff": draw_tradeoff(group),
            "along": draw_along(group),
            "matched": draw_matched(report.matched[group.title], group.title),
            "score-by-lr": draw_score_by_lr(group),
            **draw_curves(group, runs),
        }
        for kind, figure in figures.items():
            if figure is not None:
                name = f"{kind}-{group.file_name}"
                files[name] = save(figure, folder, name)[1]
    return files


def _group(
    report: Report,
    group: Group,
    figures: Mapping[str, Path],
    known: Sequence[Ability],
    recommend: str,
) -> Iterator[str]:
    """The sections of one group."""
    chosen = report.shipped.get(group.title)
    yield from _ship(group, chosen, recommend)
    gained = list(_figures(group, figures, _TRADEOFF))
    if (at_equal := matched_cells([(group, report.matched[group.title])])) is not None:
        gained += [html.table(at_equal), html.note(MATCHED)]
    elif not all(map(is_base, group.runs)):
        gained.append(html.note(NOT_MATCHED))
    if gained:
        yield html.section("What is gained and what is lost", gained, 3)
    yield html.section("Methods by learning rate", _methods(report, group, figures), 3)
    if lost := list(_abilities(group, chosen, known)):
        yield html.section("Which abilities were lost", lost, 3)
    if chosen is not None and (flips := flipped_items(chosen.base, chosen.run)):
        runs = [str(chosen.base[0]), str(chosen.run[0])]
        command = command_line(["talr", "compare", *runs, "flips=flips.jsonl"])
        yield examples.as_section(flips, "base model", chosen.run[0].name, command)
    if curves := list(_figures(group, figures, _CURVES)):
        yield html.section("Curves", curves, 3)
    if (cost := cost_cells([group])) is not None:
        yield html.section("Cost", [html.table(cost), html.note(_COST)], 3)


def _ship(group: Group, chosen: Shipping | None, recommend: str) -> Iterator[str]:
    """Which run to ship and how certain that is, or why it is not known."""
    if group.base is None:
        why = html.paragraph("The base model was not scored, so changes are unknown.")
        yield html.section("Which run to ship", [why], 3)
    elif chosen is not None:
        bound = f"For another bound on the loss: {recommend} max_general_loss=..."
        body = [html.definitions(as_sentences(chosen.found, BOUND), lead=True)]
        body += [html.note(_SHIP), html.note(bound)]
        yield html.section("Which run to ship", body, 3)


def _methods(report: Report, group: Group, figures: Mapping[str, Path]) -> Iterator[str]:
    lines = [line for line in report.lines if line.group is group]
    yield html.table(methods_table.methods_cells(lines))
    yield html.note(methods_table.LEGEND)
    if group.base is not None and (power := power_text(group.base)):
        yield html.note(f"≈ 0 does not mean that nothing changed: {power}.")
    yield from _figures(group, figures, _BY_RATE)
    rows = [row for row in report.rows if row.group is group]
    yield html.folded("Every run", [html.table(results_cells(rows)), html.note(_RESULTS)])
    yield from map(html.note, left_out_lines([group]))


def _abilities(group: Group, chosen: Shipping | None, known: Sequence[Ability]) -> Iterator[str]:
    if chosen is not None and (own := ability_tables.of_one_cells(chosen.abilities)) is not None:
        yield html.paragraph(f"For the checkpoint {chosen.run[0].name}:")
        yield html.table(own)
    if (every := ability_tables.abilities_cells([(group, known)])) is not None:
        yield html.note(ability_tables.LEGEND)
        yield html.folded("Every method and learning rate, seeds averaged", [html.table(every)])
    if (categories := categories_cells([group])) is not None:
        body = [html.table(categories), html.note(_CATEGORIES)]
        yield html.folded("Domain by category", body)


def _figures(
    group: Group, figures: Mapping[str, Path], captions: Mapping[str, str]
) -> Iterator[str]:
    for name, caption in captions.items():
        path = figures.get(f"{name}-{group.file_name}")
        if path is not None:
            yield html.figure(path, caption)


def _made(groups: Sequence[Group], runs: RunsByPath) -> Iterator[str]:
    """The commands, the data, the versions and the times of the runs."""
    if typed := commands(runs):
        yield html.section("Commands", [html.code_block(typed)], 3)
    yield html.section("Data", [html.table(data_cells(groups, runs))], 3)
    yield html.section("Versions and time", [html.definitions(made_with(runs))], 3)


def _summary(results: Sequence[Results]) -> str:
    tuned = sum(not is_base(one) for one in results)
    bases = len({one["run"]["base"] for one in results if is_base(one)})
    runs = f"{tuned} {'run' if tuned == 1 else 'runs'}"
    if not bases:
        return f"{runs}."
    return f"{runs} and {'the base model' if bases == 1 else f'{bases} base models'}."
