"""captionmill status RUN

How far a run is: rows answered, failed, left; tokens and dollars spent. Of one that is going on also the
rate of the last minute and each endpoint: requests out, tokens against the limit, pauses.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.edges.folder import RunFolder
from pipeline.wiring.checkup import check
from pipeline.wiring.live import ChannelState
from pipeline.wiring.report import RunReport, read_report

from . import exit_codes
from .arguments import Parser


def main(argv: list[str]) -> int:
    """Print the state of one run. Raises UsageError where there is none."""
    parser = Parser(prog="captionmill status", description=__doc__)
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument(
        "--check", action="store_true", help="whether run.json, journal and parts fit together; exit 3 if not"
    )
    arguments = parser.parse(argv)
    if arguments.check:
        return _check(RunFolder(arguments.run))
    report = read_report(RunFolder(arguments.run))
    print(_as_json(report) if arguments.json else _as_text(report))
    return 0


def _check(folder: RunFolder) -> int:
    findings = check(folder)
    for finding in findings:
        print(finding)
    if findings:
        print(f"`captionmill repair {folder.path}` keeps what is there and asks again only for what is lost")
        return exit_codes.STOPPED
    print(f"{folder.path}: whole")
    return exit_codes.ANSWERED


def _as_json(report: RunReport) -> str:
    return json.dumps(
        {
            "run": report.path,
            "is_running": report.is_running,
            "rows": report.rows,
            "answered": report.answered,
            "failed": report.failed,
            "left": report.left,
            "prompt_tokens": sum(line.prompt_tokens for line in report.models.values()),
            "completion_tokens": sum(line.completion_tokens for line in report.models.values()),
            "cost_usd": None if report.cost_usd is None else str(report.cost_usd),
            "answers_without_price": report.unpriced,
            "rows_last_minute": report.answered_last_minute,
            "tokens_last_minute": report.tokens_last_minute,
            "errors": report.errors,
            **report.live,
        },
        indent=2,
    )


def _as_text(report: RunReport) -> str:
    prompt = sum(line.prompt_tokens for line in report.models.values())
    completion = sum(line.completion_tokens for line in report.models.values())
    state = "running" if report.is_running else "finished" if not report.left else "not running, resumable"
    cost = "no price" if report.unpriced and report.cost_usd is None else f"${report.cost_usd or 0:,.6f}"
    rows = (
        f"of {report.rows:,}" + (" (--limit; the source may have more)" if report.limit else "")
        if report.answered + report.failed <= report.rows
        else f"(the source has {report.rows:,} rows now)"
    )
    lines = [
        f"{report.path}: {state}",
        f"  answered  {report.answered:>12,} {rows}",
        f"  failed    {report.failed:>12,}" + _kinds(report),
        f"  left      {report.left:>12,}",
        f"  tokens    {prompt:>12,} in, {completion:,} out",
        f"  spent     {cost:>12}"
        + (f" ({report.unpriced:,} answers have no price)" if report.unpriced else ""),
    ]
    if report.is_running:
        lines.append(
            f"  last min  {report.answered_last_minute:>12,} rows, {report.tokens_last_minute:,} tokens"
        )
        lines += [f"  endpoint  {ChannelState(**state)}" for state in report.live.get("endpoints", ())]
    return "\n".join(lines)


def _kinds(report: RunReport) -> str:
    return f" ({', '.join(f'{n} {kind}' for kind, n in report.errors.items())})" if report.errors else ""


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("status", sys.argv[1:]))
