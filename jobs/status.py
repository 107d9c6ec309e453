"""captionmill status RUN

Progress of a run: rows answered, failed and left; tokens and money spent. For a running one also the rate of
the last minute and each endpoint: requests in flight, tokens against the limit, pauses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captionmill.nouns.money import money

from . import exit_codes
from .parser import Parser, user_path
from .signals import raise_interrupts

if TYPE_CHECKING:
    from captionmill.accounts.report import Report


def main(argv: list[str]) -> int:
    """Print the state of one run. Raises UsageError if the folder is no run, RunError if it is damaged."""
    parser = Parser("captionmill status", __doc__)
    parser.add_argument("run", type=user_path, help="the run folder")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check that run.json, journal and parts agree; exit code 3 if not",
    )
    arguments = parser.parse(argv)
    if arguments.check:
        return _check(arguments.run)
    from captionmill.accounts.report import read_report
    from captionmill.store.folder import RunFolder

    raise_interrupts()
    report = read_report([RunFolder(arguments.run)], is_brief=True)
    print(_as_json(report) if arguments.json else _as_text(report))
    return 0


def _check(path: Path) -> int:
    from captionmill.store.check import check
    from captionmill.store.folder import RunFolder

    raise_interrupts()
    folder = RunFolder(path)
    findings = check(folder)
    for finding in findings:
        print(finding)
    if findings:
        print(
            f"`captionmill repair {folder.path}` keeps every answer that can be read; the next start asks again only for lost ones"
        )
        return exit_codes.STOPPED
    print(f"{folder.path}: no damage found")
    return exit_codes.ANSWERED


def _as_json(report: Report) -> str:
    (run,), total = report.runs, report.total
    return json.dumps(
        {
            "run": run.path,
            "is_running": run.is_running,
            "rows": run.rows,
            "answered": run.answered,
            "empty": run.empty,
            "failed": run.failed,
            "left": run.left,
            "prompt_tokens": total.prompt_tokens,
            "completion_tokens": total.completion_tokens,
            "currency": report.currency,
            "cost_usd": None if total.cost_usd is None else str(total.cost_usd),
            "answers_without_price": total.unpriced,
            "budget": {
                name.removeprefix("budget_"): {"of": str(most), "left": None if left is None else str(left)}
                for name, most, left in _budget(report)
            },
            "rows_last_minute": report.answered_last_minute,
            "tokens_last_minute": report.tokens_last_minute,
            "errors": report.errors,
            "structured": _ways(run.path),
            "attempts_without_answer": {kind: s.requests for kind, s in report.unanswered.items()},
            **run.live,
        },
        indent=2,
    )


def _as_text(report: Report) -> str:
    (run,), total = report.runs, report.total
    rows = (
        f"of {run.rows:,}" + (" (--limit; the source may have more)" if run.limit else "")
        if run.answered + run.failed <= run.rows
        else f"(the source now has {run.rows:,} rows)"
    )
    lines = [
        f"{run.path}: {run.how_it_is}",
        f"  answered  {run.answered:>12,} {rows}",
        *(
            [f"  empty     {run.empty:>12,} (answers without a caption; --retry-failed empty asks again)"]
            if run.empty
            else []
        ),
        f"  failed    {run.failed:>12,}" + _kinds(report),
        f"  left      {run.left:>12,}",
        f"  tokens    {total.prompt_tokens:>12,} in, {total.completion_tokens:,} out",
        f"  spent     {_spent(report):>12}"
        + (f" ({total.unpriced:,} answers have no price)" if total.unpriced else ""),
    ]
    lines += _budget_lines(report)
    if (lost := report.lost).requests:
        kinds = ", ".join(f"{s.requests:,} {k}" for k, s in report.lost_by_kind.items())
        lines.append(f"  no answer {lost.requests:>12,} attempts ({kinds})")
    lines += [f"  labels by {way:>12}  {name}" for name, way in _ways(run.path).items()]
    if run.is_running:
        lines.append(
            f"  last min  {report.answered_last_minute:>12,} rows, {report.tokens_last_minute:,} tokens"
        )
        lines += _endpoints(run.live.get("endpoints", ()))
    return "\n".join(lines)


def _budget(report: Report) -> list[tuple[str, Decimal, Decimal | None]]:
    """Setting, bound, and what is left of it; None where some money has no price. Requests in flight are not counted."""
    spent = report.spent
    used = {
        "budget_usd": None if report.total.unpriced else spent.usd or Decimal(0),
        "budget_tokens": Decimal(spent.tokens),
        "budget_requests": Decimal(spent.requests),
    }
    return [
        (name, most, None if (amount := used[name]) is None else max(Decimal(0), most - amount))
        for name, most in report.runs[0].budget.items()
    ]


def _budget_lines(report: Report) -> list[str]:
    lines = []
    for name, most, left in _budget(report):
        unit = name.removeprefix("budget_")
        if unit == "usd":
            text = (money(None if left is None else left, report.currency), money(most, report.currency))
        else:
            text = (f"{left:,}", f"{most:,} {unit}")
        lines.append(f"  budget    {text[0]:>12} left of {text[1]}")
    return lines


def _ways(path: str) -> dict[str, str]:
    """The way to ask for labels by endpoint and model, as the last start that ended found it."""
    from captionmill.store.folder import RunFolder

    ways: dict[str, str] = RunFolder(Path(path)).read_run().get("structured") or {}
    return ways


def _endpoints(states: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each endpoint of a running run. states: as the run published them."""
    from captionmill.wiring.live import EndpointState

    return [f"  endpoint  {EndpointState(**state)}" for state in states]


def _spent(report: Report) -> str:
    total = report.total
    return money(total.cost_usd if total.unpriced else total.cost_usd or Decimal(0), report.currency, 6)


def _kinds(report: Report) -> str:
    return f" ({', '.join(f'{n} {kind}' for kind, n in report.errors.items())})" if report.errors else ""


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("status", sys.argv[1:]))
