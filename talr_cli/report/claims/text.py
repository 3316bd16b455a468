"""The text of the findings on the paper's claims: lines, Markdown, HTML."""

from collections.abc import Iterator, Sequence

from talr_cli.printable import printable
from talr_cli.report import html
from talr_cli.report.claims.verdicts import CLAIMS, Finding
from talr_cli.report.tables.cells import Cells, Column, as_markdown, named, pair_columns
from talr_cli.report.tables.published import SOURCE

TITLE = "The study's claims"
_HOW = (
    "Differences have 95% intervals over test items and over runs: the variance between seeds is "
    "pooled over all settings that have several (given above), so that intervals are about methods "
    "and not about these checkpoints. A claim holds if all of its tests say yes, each one-sided at "
    "2.5% (intersection-union). It does not hold if one of them says no, at 2.5% for all tests of "
    "the claim together (Holm). Otherwise it is undecided; for an open test, the detectable "
    "difference is the one that such items and runs find with 80% power. With one seed per "
    "setting, intervals are about these checkpoints, and methods are undecided: another seed may "
    "give another result."
)
PUBLISHED = f"Published numbers ({SOURCE}) and ours"


def verdict_cells(findings: Sequence[Finding]) -> Cells:
    """A row for each claim, model and dataset."""
    columns = [
        Column("claim", "claim"),
        *pair_columns(len({(one.model, one.dataset) for one in findings})),
        Column("verdict", "verdict"),
        Column("reason", "why"),
    ]
    rows = [(one.claim, one.model, one.dataset, one.verdict, _why(one)) for one in findings]
    return Cells(columns, [list(map(named, row)) for row in rows])


def test_cells(findings: Sequence[Finding]) -> Cells | None:
    """A row for each test; None if there is none."""
    columns = [
        Column("statement", "statement"),
        *pair_columns(len({(one.model, one.dataset) for one in findings})),
        Column("answer", "answer"),
        Column("measured", "measured"),
    ]
    rows = [
        (test.statement, one.model, one.dataset, answer, test.measured)
        for one in findings
        for test, answer in zip(one.tests, one.answers, strict=True)
    ]
    return Cells(columns, [list(map(named, row)) for row in rows]) if rows else None


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
    """The deviation between runs, in a line for each model and dataset."""
    lines = {(one.model, one.dataset): one.between_runs for one in findings}
    for (model, dataset), line in lines.items():
        yield printable(
            f"Standard deviation between runs of one setting, {model} on {dataset}: {line}."
        )


def _why(finding: Finding) -> str:
    """The tests that decided the verdict, or why there are none."""
    if finding.verdict == "not testable here":
        return finding.reason
    if finding.verdict == "holds":
        return f"{len(finding.tests)} of {len(finding.tests)} tests"
    if finding.verdict == "undecided: one seed":
        return "no setting has a second seed, so the variance between runs is unknown"
    answer = "no" if finding.verdict == "does not hold" else "open"
    each = zip(finding.tests, finding.answers, strict=True)
    decisive = [test.statement for test, given in each if given == answer]
    return f"{answer}: {'; '.join(decisive)}"
