"""captionmill report RUN [--csv]

What a run came to: rows, tokens, finish reasons, errors by kind, dollars by model. Prints a table and
writes RUN/report.html. Works on a finished, running or interrupted run.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from pipeline.edges.folder import RunFolder
from pipeline.wiring import pages
from pipeline.wiring.report import ModelLine, RunReport, read_report

from .arguments import Parser

_COLUMNS = (
    "answers",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "estimated_tokens",
)
_TITLES = ("model", "answers", "tokens in", "cached", "tokens out", "reasoning", "reserved", "dollars")


def main(argv: list[str]) -> int:
    """Print the report of one run and write its page."""
    parser = Parser(prog="captionmill report", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--csv", action="store_true", help="print the lines by model as CSV, nothing else")
    arguments = parser.parse(argv)
    folder = RunFolder(arguments.run)
    report = read_report(folder)
    if arguments.csv:
        _print_csv(report)
        return 0
    print(as_text(report))
    print(f"\n{pages.write_report(folder, report)}")
    return 0


def as_text(report: RunReport) -> str:
    """The report as a table for a terminal."""
    lines = [
        f"{report.path}: {report.answered:,} of {report.rows:,} rows answered, {report.failed:,} failed,"
        f" {report.left:,} left",
        "",
        *_table([_TITLES, *(_cells(line) for line in report.models.values())]),
        "",
        "finish reasons  " + _counts(report.finishes),
        "errors by kind  " + _counts(report.errors),
    ]
    if report.without_usage:
        lines.append(
            f"{report.without_usage:,} answers came without usage: they have no tokens and no price here"
        )
    if report.cost_usd is not None and report.answered:
        average = report.cost_usd / max(1, report.answered - report.unpriced)
        lines.append(f"dollars         {report.cost_usd:,.6f} in all, {average:,.6f} an answer")
    if report.unpriced:
        lines.append(f"no price        {report.unpriced:,} answers; they are not in the dollars")
    return "\n".join(lines)


def _cells(line: ModelLine) -> tuple[str, ...]:
    cost = "no price" if line.cost_usd is None else f"{line.cost_usd:,.6f}"
    return (line.model, *(f"{getattr(line, name):,}" for name in _COLUMNS), cost)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _print_csv(report: RunReport) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("model", *_COLUMNS, "answers_without_price", "cost_usd"))
    for line in report.models.values():
        cost = "" if line.cost_usd is None else line.cost_usd
        writer.writerow((line.model, *(getattr(line, name) for name in _COLUMNS), line.unpriced, cost))


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("report", sys.argv[1:]))
