"""captionmill report RUN [RUN ...] [--by NAME,...] [--csv | --json] [--reprice [--config TOML]]

Sum up one run or several: rows, tokens, cost, finish reasons, errors, attempts without an answer, usage that
looks wrong. Print tables and write RUN/report.html. It works on a finished, running or interrupted run and reads
only the columns that it needs.

  captionmill report photos-captions
  captionmill report photos-captions --by folder,day --csv > costs.csv
  captionmill report monday tuesday --by extra.customer
"""

from __future__ import annotations

import csv
import json
import sys
from argparse import Namespace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionmill.nouns.errors import UsageError
from captionmill.nouns.money import money

from .parser import Parser, user_path
from .signals import raise_interrupts
from .table import as_lines

if TYPE_CHECKING:
    from captionmill.accounts.report import Line, Report
    from captionmill.nouns.config import Price
    from captionmill.rules.prices import PriceBook

_COUNTS = (
    "answers",
    "failed",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "estimated_tokens",
    "attempts",
)
_TITLES = ("answers", "failed", "tokens in", "cached", "tokens out", "reasoning", "reserved", "attempts")
_SPREAD_TITLES = {
    "prompt_tokens": "tokens in",
    "completion_tokens": "tokens out",
    "latency_s": "latency s",
    "attempts": "attempts",
    "cost_usd": "cost",
}
_PERCENTILES = (5, 50, 95, 99)
_MOST_LINES = 40
_KEY_WIDTH = 48


def main(argv: list[str]) -> int:
    """Print the report and write its page. Raises UsageError for wrong arguments, RunError for a damaged run."""
    arguments = _parser().parse(argv)
    if arguments.config is not None and not arguments.reprice:
        raise UsageError("--config goes with --reprice: the rows have their prices already")
    if len({path.resolve() for path in arguments.run}) < len(arguments.run):
        raise UsageError("a run folder is named twice; its rows would be counted twice")
    return _report(arguments)


def _parser() -> Parser:
    parser = Parser("captionmill report", __doc__)
    parser.add_argument("run", type=user_path, nargs="+", help="run folders")
    parser.add_argument(
        "--by",
        default="model",
        metavar="NAME,...",
        help="group by: model, prompt, folder, day, finish, finish_reason, error_kind, endpoint, status,"
        " extra.COLUMN [model]",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", action="store_true", help="print only the groups, as CSV")
    output.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--reprice",
        action="store_true",
        help="compute all costs again: by [prices] of --config, then by the list prices of the day of each answer",
    )
    parser.add_argument(
        "--config", type=user_path, metavar="TOML", help="the file with [prices] for --reprice"
    )
    return parser


def _report(arguments: Namespace) -> int:
    from captionmill.accounts.report import read_report
    from captionmill.pages.report_page import write_report
    from captionmill.store.folder import RunFolder

    prices, own = _prices(arguments.config) if arguments.reprice else (None, None)
    raise_interrupts()
    folders = [RunFolder(path) for path in arguments.run]
    by = list(dict.fromkeys(name.strip() for name in arguments.by.split(",")))
    report = read_report(folders, by, prices, own=own)
    if arguments.csv:
        _print_csv(report)
    elif arguments.json:
        print(json.dumps(_as_json(report), indent=2, ensure_ascii=False))
    else:
        print(as_text(report))
        print(f"\n{write_report(folders[0], report)}")
    return 0


def _prices(config: Path | None) -> tuple[PriceBook, dict[str, Price | None]]:
    """The prices of a TOML file, else list prices, and those of its [[endpoint]] entries by name.

    config: None for list prices only. Raises UsageError.
    """
    from captionmill.rules.prices import PriceBook

    from .arguments import read_endpoint_prices, read_prices

    return PriceBook(read_prices(config)), read_endpoint_prices(config)


# ------------------------------------------------------------------------------- text


def as_text(report: Report) -> str:
    """The report as tables for a terminal."""
    total = report.total
    lines = [
        f"{run.path}: {run.answered:,} of {run.rows:,} rows answered, {run.failed:,} failed, {run.left:,} left"
        for run in report.runs
    ]
    lines += ["", *_group_table(report), "", *_spread_table(report), ""]
    lines.append(f"finish reasons  {_counts(report.finishes)}")
    lines.append(f"errors by kind  {_counts(report.errors)}")
    if total.cost_usd is not None and total.cost_per_answer is not None and total.cost_per_row is not None:
        lines.append(
            f"cost            {money(total.cost_usd, report.currency, 6)} in total,"
            f" {money(total.cost_per_answer, report.currency, 6)} per answer,"
            f" {money(total.cost_per_row, report.currency, 6)} per row"
        )
    if report.empty:
        lines.append(
            f"empty           {report.empty:,} answers have no caption, and were billed; --retry-failed empty asks again"
        )
    if report.unpriced_models:
        lines.append(
            f"no price        {_counts(report.unpriced_models)}: not part of the cost; set one in [prices]"
        )
    lines += _lost(report)
    lines += [f"usage           {finding}" for finding in report.findings]
    if report.anomalies.formula_tokens:
        lines.append(f"estimates       {_estimates(report)}")
    return "\n".join(lines)


def _group_table(report: Report) -> list[str]:
    lines = report.lines()
    rows = [(*report.by, *_TITLES, f"cost {report.currency}")]
    rows += [(*(_short(v) for v in key), *_cells(line)) for key, line in lines[:_MOST_LINES]]
    if len(lines) > 1:
        rows.append(("total", *("" for _ in report.by[1:]), *_cells(report.total)))
    table = as_lines(rows, left=len(report.by))
    if len(lines) > _MOST_LINES:
        table.append(f"and {len(lines) - _MOST_LINES:,} more; --csv prints all")
    return table


def _cells(line: Line) -> tuple[str, ...]:
    cost = "" if not line.answers else "no price" if line.cost_usd is None else f"{line.cost_usd:,.6f}"
    return (*(f"{getattr(line, name):,}" for name in _COUNTS), cost)


def _spread_table(report: Report) -> list[str]:
    titles = ("per answer", "average", *(f"{p} %" for p in _PERCENTILES), "most")
    rows = [titles]
    for name, spread in report.spreads.items():
        if spread.count:
            figures = (spread.mean, *(spread.percentile(p) for p in _PERCENTILES), spread.maximum)
            rows.append((_SPREAD_TITLES[name], *(_figure(name, figure) for figure in figures)))
    return as_lines(rows) if len(rows) > 1 else []


def _figure(name: str, value: float) -> str:
    if name in ("cost_usd", "latency_s"):
        return f"{value:,.{6 if name == 'cost_usd' else 2}f}"
    return f"{value:,.1f}".removesuffix(".0") if value < 10 else f"{value:,.0f}"


def _lost(report: Report) -> list[str]:
    """Lines about cost without a usable answer."""
    lines = []
    if report.cut.answers:
        lines.append(
            f"cut off         {report.cut.answers:,} answers ended at max_tokens; they cost"
            f" {money(report.cut.cost_usd, report.currency, 6)}"
        )
    kinds = report.lost_by_kind
    if kinds:
        lost = report.lost
        may_be_billed = f"; they may be billed, at most {money(lost.usd, report.currency, 6)}"
        lines.append(
            f"no answer       {lost.requests:,} attempts"
            f" ({', '.join(f'{s.requests:,} {kind}' for kind, s in kinds.items())})"
            + (may_be_billed if lost.tokens else "; none of them is billed")
        )
    if longer := report.unanswered.get("length"):
        lines.append(
            f"asked again     {longer.requests:,} answers that were cut off; both answers are billed and count in the row"
        )
    return lines


def _estimates(report: Report) -> str:
    formula, reported = report.anomalies.formula_tokens, report.anomalies.reported_tokens
    return (
        f"prompts {formula:,} tokens by formula, {reported:,} reported ({100 * (reported / formula - 1):+.1f} %);"
        f" {report.total.estimated_tokens:,} reserved, {report.total.tokens:,} used"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _short(text: str) -> str:
    # without control characters, which a terminal would obey
    text = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return text if len(text) <= _KEY_WIDTH else text[: _KEY_WIDTH - 1] + "…"


# ------------------------------------------------------------------------------- for programs


def _print_csv(report: Report) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*report.by, *_COUNTS, "answers_without_price", "cost", "currency"))
    for key, line in report.lines():
        cost = "" if line.cost_usd is None else line.cost_usd
        writer.writerow(
            (*key, *(getattr(line, name) for name in _COUNTS), line.unpriced, cost, report.currency)
        )


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "currency": report.currency,
        "runs": [
            {"path": r.path, "rows": r.rows, "answered": r.answered, "failed": r.failed, "left": r.left, "state": r.how_it_is}
            for r in report.runs
        ],
        "total": _line_as_json(report.total),
        "by": list(report.by),
        "groups": [dict(zip(report.by, key, strict=True)) | _line_as_json(line) for key, line in report.lines()],
        "an_answer": {name: _spread_as_json(report, name) for name, spread in report.spreads.items() if spread.count},
        "finish": report.finishes,
        "errors": report.errors,
        "answers_without_usage": report.without_usage,
        "answers_with_absurd_usage": report.absurd_usage,
        "empty_answers": report.empty,
        "no_price": report.unpriced_models,
        "cut_off": {"answers": report.cut.answers, "cost": _plain(report.cut.cost_usd)},
        "attempts_without_answer": {
            kind: {"attempts": s.requests, "tokens_at_most": s.tokens, "cost_at_most": _plain(s.usd)}
            for kind, s in report.unanswered.items()
        },
        "usage_findings": report.findings,
        "prompt_tokens_by_formula": report.anomalies.formula_tokens,
        "prompt_tokens_reported_for_them": report.anomalies.reported_tokens,
    }  # fmt: skip


def _line_as_json(line: Line) -> dict[str, Any]:
    counts = {name: getattr(line, name) for name in _COUNTS}
    return counts | {
        "answers_without_price": line.unpriced,
        "cost": _plain(line.cost_usd),
        "cost_per_answer": _plain(line.cost_per_answer),
        "cost_per_row": _plain(line.cost_per_row),
    }


def _spread_as_json(report: Report, name: str) -> dict[str, float]:
    spread = report.spreads[name]
    return {"average": spread.mean, "most": spread.maximum} | {
        f"p{percent}": spread.percentile(percent) for percent in _PERCENTILES
    }


def _plain(amount: Decimal | None) -> str | None:
    """The amount as decimal text: a float would not be exact."""
    return None if amount is None else f"{amount:f}"


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("report", sys.argv[1:]))
