"""parts (columns only) -> what the run came to: rows, tokens, money, finish reasons, errors.

Works on a finished, running or interrupted run: the parts, plus the answers that still wait in the
journal. Parts are read a batch at a time, so memory does not grow with the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..edges import parts
from ..edges.folder import RunFolder
from ..edges.journal import Journal

_GROUP = ("model", "model_requested", "finish")
_SUMS = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "estimated_tokens",
    "cost_usd",
    "attempts",
)
COLUMNS = (*_GROUP, *_SUMS, "finished_at", "usage_source")


@dataclass(slots=True)
class ModelLine:
    """Sums over the answers of one model. cost_usd: None where none of them has a price."""

    model: str
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_tokens: int = 0
    attempts: int = 0
    unpriced: int = 0
    cost_usd: Decimal | None = None


@dataclass(slots=True)
class RunReport:
    """What a run came to. rows: of the manifest. left: neither answered nor failed."""

    path: str
    rows: int
    limit: int | None = None  # of the last start: rows are then the first of the source
    answered: int = 0
    failed: int = 0
    is_running: bool = False
    models: dict[str, ModelLine] = field(default_factory=dict)
    finishes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    without_usage: int = 0
    answered_last_minute: int = 0
    tokens_last_minute: int = 0
    live: dict[str, Any] = field(default_factory=dict)  # of a running one: see live.py

    @property
    def left(self) -> int:
        return max(0, self.rows - self.answered - self.failed)

    @property
    def cost_usd(self) -> Decimal | None:
        """Dollars of all priced answers; None where none is priced."""
        costs = [line.cost_usd for line in self.models.values() if line.cost_usd is not None]
        return sum(costs, Decimal(0)) if costs else None

    @property
    def unpriced(self) -> int:
        return sum(line.unpriced for line in self.models.values())


def read_report(folder: RunFolder, now: float | None = None) -> RunReport:
    """Sum up a run. now: Unix seconds, for the rates of the last minute; None for the present.

    Raises UsageError where this is no run folder, RunError where it is damaged.
    """
    run = folder.read_run()
    report = RunReport(str(folder.path), run["rows"], is_running=folder.is_running())
    report.live = folder.read_live() if report.is_running else {}
    report.limit = (run.get("other_settings") or {}).get("limit")
    journal = Journal(folder.journal)
    try:
        report.answered, report.failed, _ = journal.counts()
        report.errors = journal.failed_kinds()
        minute_ago = int(((time.time() if now is None else now) - 60) * 1000)
        for table in _tables(folder, journal, COLUMNS):
            _add(report, table, minute_ago)
    finally:
        journal.close()
    return report


def _tables(folder: RunFolder, journal: Journal, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    noted, waiting = journal.snapshot()
    paths = [folder.results / parts.part_name(part.number) for part in noted]
    for batch in parts.read_batches(paths, columns):
        yield pa.Table.from_batches([batch])
    yield from parts.tables(waiting, columns)


def _add(report: RunReport, table: pa.Table, minute_ago_ms: int) -> None:
    aggregates: list[tuple[Any, str]] = [(name, "sum") for name in _SUMS]
    aggregates += [([], "count_all"), ("cost_usd", "count")]
    for group in table.group_by(list(_GROUP)).aggregate(aggregates).to_pylist():
        name = group["model"] or group["model_requested"] or "unknown"
        line = report.models.setdefault(name, ModelLine(name))
        answers = group["count_all"]
        line.answers += answers
        for column in _SUMS:
            if column != "cost_usd":
                setattr(line, column, getattr(line, column) + (group[f"{column}_sum"] or 0))
        line.unpriced += answers - group["cost_usd_count"]
        if group["cost_usd_sum"] is not None:
            line.cost_usd = (line.cost_usd or Decimal(0)) + group["cost_usd_sum"]
        finish = group["finish"] or "none"
        report.finishes[finish] = report.finishes.get(finish, 0) + answers
    report.without_usage += pc.sum(pc.equal(table["usage_source"], "missing")).as_py() or 0
    recent = table.filter(pc.greater(pc.cast(table["finished_at"], pa.int64()), minute_ago_ms))
    report.answered_last_minute += recent.num_rows
    for column in ("prompt_tokens", "completion_tokens"):
        report.tokens_last_minute += pc.sum(recent[column]).as_py() or 0
