"""How the findings on the study's claims are written: lines, Markdown, HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from talr_cli.printable import printable
from talr_cli.report import html
from talr_cli.report.claims.verdicts import CLAIMS, Finding
from talr_cli.report.tables.cells import Cell, Cells, Column, as_markdown, named, pair_columns
from talr_cli.report.tables.published import SOURCE

TITLE = "The study's claims"
_HOW = (
    "Measured are differences with their 95% intervals, over test items and over runs: the "
    "deviation between seeds of one setting is pooled over all settings that have several (noted "
    "above), so that intervals speak of methods and not of these checkpoints. A claim holds when "
    "all of its tests say yes, each one-sided at 2.5% (intersection-union). It does not hold when "
    "one says no, at 2.5% for all tests of the claim together (Holm). Else it is undecided; "
    "±, where a test is open: the difference that such items and runs show in 80 of 100 studies. "
    "Where every setting has one seed, what is measured speaks of these checkpoints on other "
    "items, and methods are left undecided: another seed may say otherwise."
)
PUBLISHED = f"Published numbers ({SOURCE}) and ours"


def verdict_cells(findings: Sequence[Finding]) -> Cells:
    """A line for each claim, model and dataset."""
    columns = [
        Column("claim", "claim"),
        *pair_columns(len({(one.model, one.dataset) for one in findings})),
        Column("verdict", "verdict"),
        Column("reason", "why"),
    ]
    rows = [
        [
            Cell(str(one.claim), one.claim),
            named(one.model),
            named(one.dataset),
            named(one.verdict),
            named(_why(one)),
        ]
        for one in findings
    ]
    return Cells(columns, rows)


def test_cells(findings: Sequence[Finding]) -> Cells | None:
    """A line for each test; None where there is none."""
    columns = [
        Column("statement", "statement"),
        *pair_columns(len({(one.model, one.dataset) for one in findings})),
        Column("answer", "answer"),
        Column("measured", "measured"),
    ]
    rows = [
        [
            named(test.statement),
            named(one.model),
            named(one.dataset),
            named(answer),
            named(test.measured),
        ]
        for one in findings
        for test, answer in zip(one.tests, one.answers, strict=True)
    ]
    return Cells(columns, rows) if rows else None


def as_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """For the terminal."""
    for one in findings:
        why = printable(_why(one))
        yield f"claim {one.claim} on {one.model}, {one.dataset}: {one.verdict} ({why})"


def as_document(findings: Sequence[Finding], published: Cells | None) -> str:
    """The file claims.md."""
    parts = [f"# {TITLE}", as_markdown(verdict_cells(findings)), *_deviations(findings), _HOW]
    for number, claim in CLAIMS.items():
        parts += [f"## Claim {number}", f"{claim.text}", f"Test: {claim.test}"]
        cells = test_cells([one for one in findings if one.claim == number])
        if cells is not None:
            parts.append(as_markdown(cells))
    if published is not None:
        parts += [f"## {PUBLISHED}", as_markdown(published)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def as_section(findings: Sequence[Finding], published: Cells | None) -> str:
    """The section of the page."""
    body = [html.table(verdict_cells(findings))]
    body += [html.paragraph(line) for line in [*_deviations(findings), _HOW]]
    for number, claim in CLAIMS.items():
        inside = [html.paragraph(claim.text), html.paragraph(f"Test: {claim.test}")]
        cells = test_cells([one for one in findings if one.claim == number])
        if cells is not None:
            inside.append(html.table(cells))
        body.append(html.section(f"Claim {number}", inside, 3))
    if published is not None:
        body.append(html.section(PUBLISHED, [html.table(published)], 3))
    return html.section(TITLE, body)


def _deviations(findings: Sequence[Finding]) -> Iterator[str]:
    """What is known of the deviation between runs, a line for each model and dataset."""
    lines = {(one.model, one.dataset): one.between_runs for one in findings}
    for (model, dataset), line in lines.items():
        yield printable(f"Deviation between runs of one setting, {model} on {dataset}: {line}.")


def _why(finding: Finding) -> str:
    """The tests that decided a verdict, or why there are none."""
    if finding.verdict == "not testable here":
        return finding.reason
    if finding.verdict == "holds":
        return f"{len(finding.tests)} of {len(finding.tests)} tests"
    if finding.verdict == "undecided: one seed":
        return "no setting has a second seed that would tell how far runs lie apart"
    answer = "no" if finding.verdict == "does not hold" else "open"
    each = zip(finding.tests, finding.answers, strict=True)
    decisive = [test.statement for test, said in each if said == answer]
    return f"{answer}: {'; '.join(decisive)}"
