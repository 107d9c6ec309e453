"""report.html: cost, tokens and failures of runs, as one file for a browser. No request to outside.

The template escapes everything from a manifest or a server; the charts are drawn here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..accounts.report import Line, Report, read_rows
from ..accounts.run_images import RunImages
from ..nouns.money import DOLLARS
from ..store.folder import RunFolder, utc_now
from . import html, plots
from .thumbnails import data_url

_MAX_LINES = 200
_MAX_POINTS = 240  # of a line: more cannot be seen
_BARS = 24
_ROW_COLUMNS = ("id", "image", "content", "refusal", "cost_usd", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Chart:
    """title and note: plain text. svg: markup of our own."""

    title: str
    note: str
    svg: str


def write_report(folder: RunFolder, report: Report) -> Path:
    """Write report.html into the folder; return its path. report: of this run, or of several."""
    lines = report.lines()
    heaviest = max((_weight(line) for _, line in lines), default=0.0)
    page = html.template("report.html", report.currency).render(
        report=report,
        title=", ".join(run.path for run in report.runs),
        css=html.css(),
        written=utc_now(),
        total=report.total,
        lost=report.lost,
        latency=report.spreads["latency_s"],
        charts=_charts(report),
        lines=lines[:_MAX_LINES],
        more_lines=max(0, len(lines) - _MAX_LINES),
        share=lambda line: round(100 * _weight(line) / heaviest, 2) if heaviest else 0,
        most_expensive=_most_expensive(report),
    )
    folder.write_page(folder.report, page)
    return folder.report


def _weight(line: Line) -> float:
    """Length of the bar beside a group: money; without a price, tokens (shorter than any price)."""
    return float(line.cost_usd) if line.cost_usd is not None else line.tokens * 1e-15


# ------------------------------------------------------------------------------- charts


def _charts(report: Report) -> list[Chart]:
    return [*_over_time(report), *_distributions(report)]


def _over_time(report: Report) -> list[Chart]:
    if len(report.minutes) < 2:
        return []
    unit = "$" if report.currency == DOLLARS else ""
    first, last = min(report.minutes), max(report.minutes)
    step = -(-(last - first + 1) // _MAX_POINTS)  # minutes a point
    starts = list(range(first, last + 1, step))
    tokens, costs = [0.0] * len(starts), [0.0] * len(starts)
    for minute, sums in report.minutes.items():
        tokens[(minute - first) // step] += sums.tokens / step
        costs[(minute - first) // step] += float(sums.cost_usd)
    charts = []
    if report.total.cost_usd is not None:
        so_far = [sum(costs[: n + 1]) for n in range(len(costs))]
        charts.append(
            Chart("Cost", f"{report.currency} so far, by time (UTC)", plots.over_time(starts, so_far, unit))
        )
    limits = [run.tokens_per_minute for run in report.runs]
    limit = limits[0] if len(set(limits)) == 1 else None
    note = "of answers; dashed: the limit" if limit else "of answers"
    if step > 1:
        note += f"; mean of {step} minutes"
    charts.append(Chart("Tokens a minute", note, plots.over_time(starts, tokens, "", limit)))
    return charts


def _distributions(report: Report) -> list[Chart]:
    titles = (
        ("prompt_tokens", "Tokens in", "answers by their prompt tokens"),
        ("completion_tokens", "Tokens out", "answers by their completion tokens"),
        ("latency_s", "Latency", "answers by seconds of the last attempt"),
        ("attempts", "Attempts", "answers by attempts"),
    )
    charts = []
    for name, title, note in titles:
        spread = report.spreads[name]
        if spread.count:
            is_whole = name != "latency_s"
            svg = plots.distribution(spread.bars(_BARS, is_whole), is_whole)
            charts.append(Chart(title, note, svg))
    return charts


# ------------------------------------------------------------------------------- rows


def _most_expensive(report: Report) -> list[dict[str, Any]]:
    rows = []
    for place in report.most_expensive:
        images = RunImages.of_run(place.folder.read_run())
        for row in read_rows([place], _ROW_COLUMNS):
            picture = data_url(images, row["image"][0]) if row["image"] else None
            rows.append(row | {"thumbnail": picture})
    return rows
