"""captionmill report RUN [RUN ...] [--by NAME,...] [--csv | --json] [--reprice [--config TOML]]

What one run or several came to: rows, tokens, money, finish reasons, errors, attempts that brought nothing,
usage that cannot be true. Prints a table and writes RUN/report.html. Works on a finished, running or
interrupted run; reads nothing but the columns that it needs.

  captionmill report photos-captions
  captionmill report photos-captions --by folder,day --csv > costs.csv
  captionmill report monday tuesday --by extra.customer
"""

from __future__ import annotations

import csv
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from captionmill.accounts.report import SPREADS, Line, Report, read_report
from captionmill.nouns.errors import UsageError
from captionmill.nouns.money import money
from captionmill.pages.report_page import write_report
from captionmill.rules.prices import PriceBook
from captionmill.store.folder import RunFolder

from .arguments import Parser, read_prices
from .table import as_lines

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
    """Print the report and write its page."""
    parser = Parser(
        prog="captionmill report", usage="captionmill report RUN [RUN ...] [settings]", description=__doc__
    )
    parser.add_argument("run", type=Path, nargs="+", help="run folders")
    parser.add_argument(
        "--by",
        default="model",
        metavar="NAME,...",
        help="what to group by: model, prompt, folder, day, finish, finish_reason, error_kind, endpoint, status,"
        " extra.COLUMN [model]",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", action="store_true", help="print the groups as CSV, nothing else")
    output.add_argument("--json", action="store_true", help="print everything as JSON, nothing else")
    parser.add_argument(
        "--reprice",
        action="store_true",
        help="compute all money anew: by [prices] of --config, then the list prices of the day of each answer",
    )
    parser.add_argument("--config", type=Path, metavar="TOML", help="where --reprice finds [prices]")
    arguments = parser.parse(argv)
    if arguments.config is not None and not arguments.reprice:
        raise UsageError("--config goes with --reprice: the rows have their prices already")
    prices = PriceBook(read_prices(arguments.config)) if arguments.reprice else None
    folders = [RunFolder(path) for path in arguments.run]
    if len({path.resolve() for path in arguments.run}) < len(folders):
        raise UsageError("a run folder is named twice; it would be counted twice")
    by = list(dict.fromkeys(name.strip() for name in arguments.by.split(",")))
    report = read_report(folders, by, prices)
    if arguments.csv:
        _print_csv(report)
    elif arguments.json:
        print(json.dumps(_as_json(report), indent=2, ensure_ascii=False))
    else:
        print(as_text(report))
        print(f"\n{write_report(folders[0], report)}")
    return 0


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
            f"money           {money(total.cost_usd, report.currency, 6)} in all,"
            f" {money(total.cost_per_answer, report.currency, 6)} an answer,"
            f" {money(total.cost_per_row, report.currency, 6)} a row"
        )
    if report.unpriced_models:
        lines.append(
            f"no price        {_counts(report.unpriced_models)}: not in the money; name one in [prices]"
        )
    lines += _lost(report)
    lines += [f"USAGE           {finding}" for finding in report.findings]
    if report.anomalies.formula_tokens:
        lines.append(f"estimates       {_estimates(report)}")
    return "\n".join(lines)


def _group_table(report: Report) -> list[str]:
    lines = report.lines()
    rows = [(*report.by, *_TITLES, f"cost {report.currency}")]
    rows += [(*(_short(v) for v in key), *_cells(line)) for key, line in lines[:_MOST_LINES]]
    if len(lines) > 1:
        rows.append(("all", *("" for _ in report.by[1:]), *_cells(report.total)))
    table = as_lines(rows, left=len(report.by))
    if len(lines) > _MOST_LINES:
        table.append(f"and {len(lines) - _MOST_LINES:,} more; --csv prints all")
    return table


def _cells(line: Line) -> tuple[str, ...]:
    cost = "" if not line.answers else "no price" if line.cost_usd is None else f"{line.cost_usd:,.6f}"
    return (*(f"{getattr(line, name):,}" for name in _COUNTS), cost)


def _spread_table(report: Report) -> list[str]:
    titles = ("an answer", "average", *(f"{p} %" for p in _PERCENTILES), "most")
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
    """Money that bought nothing, as far as it is known."""
    lines = []
    if report.cut.answers:
        lines.append(
            f"cut off         {report.cut.answers:,} answers ended at max_tokens; they cost"
            f" {money(report.cut.cost_usd, report.currency, 6)}"
        )
    kinds = report.lost_by_kind
    if kinds:
        lost = report.lost
        may_be_billed = f"; they may be billed, with {money(lost.usd, report.currency, 6)} at the most"
        lines.append(
            f"no answer       {lost.requests:,} attempts"
            f" ({', '.join(f'{s.requests:,} {kind}' for kind, s in kinds.items())})"
            + (may_be_billed if lost.tokens else "; none of them is billed")
        )
    if longer := report.unanswered.get("length"):
        lines.append(
            f"asked again     {longer.requests:,} answers that were cut off; both are billed and in the row"
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
    text = "".join(
        c if c.isprintable() else " " for c in " ".join(text.split())
    )  # a terminal takes no orders
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
        "an_answer": {name: _spread_as_json(report, name) for name in SPREADS if report.spreads[name].count},
        "finish": report.finishes,
        "errors": report.errors,
        "answers_without_usage": report.without_usage,
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
    """Decimal text: a float would not be the amount."""
    return None if amount is None else f"{amount:f}"


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("report", sys.argv[1:]))
