"""What one run or several came to: rows, tokens, money, finish reasons, errors, what cannot be true.

Works on a finished, running or interrupted run. Only the columns that are needed are read, a batch at a
time, and all sums are made by Arrow: memory does not grow with the run.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..nouns.errors import UsageError
from ..nouns.money import DOLLARS
from ..nouns.rows import Spending, Usage
from ..rules.prices import PriceBook
from ..store import empties, parts
from ..store.folder import RunFolder
from ..store.journal import Journal
from ..store.unanswered import IN_FLIGHT
from . import anomalies, dataset
from .anomalies import Anomalies
from .grouping import Key, keys
from .histogram import Histogram
from .spent import WITHOUT_USAGE, OwnPrices

_SUMS = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "estimated_tokens",
    "attempts",
    "cost_usd",
)
SPREADS = ("prompt_tokens", "completion_tokens", "latency_s", "attempts", "cost_usd")
_COLUMNS = (
    *_SUMS, "model", "model_requested", "finish", "finished_at", "usage_source", "status", "error_kind", "latency_s",
    "endpoint",
)  # fmt: skip
# kinds of the account that are answers all the same: cut off and asked again, or without usage
_ANSWERED = ("length", WITHOUT_USAGE)
MOST_GROUPS = 100_000
MOST_EXPENSIVE = 12
EXAMPLES_A_KIND = 3
_MINUTE_MS = 60_000
_BUDGETS = ("budget_usd", "budget_tokens", "budget_requests")


@dataclass(slots=True)
class Line:
    """Sums over some rows. cost_usd: None where no answer has a price. attempts: of answers and failed rows."""

    answers: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_tokens: int = 0
    attempts: int = 0
    unpriced: int = 0
    cost_usd: Decimal | None = None

    @property
    def rows(self) -> int:
        """Rows of this group, answered or failed."""
        return self.answers + self.failed

    @property
    def tokens(self) -> int:
        """Tokens in and out together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost_per_answer(self) -> Decimal | None:
        """Of those that have a price."""
        priced = self.answers - self.unpriced
        return None if self.cost_usd is None or not priced else self.cost_usd / priced

    @property
    def cost_per_row(self) -> Decimal | None:
        """Failed rows included: what a picture came to."""
        priced = self.rows - self.unpriced
        return None if self.cost_usd is None or not priced else self.cost_usd / priced

    def add(self, group: dict[str, Any]) -> None:
        """A group of Arrow's: sums by column, count_all, cost_usd_count, answered_sum."""
        answers = group["answered_sum"]
        self.answers += answers
        self.failed += group["count_all"] - answers
        for name in _SUMS:
            if name != "cost_usd":
                setattr(self, name, getattr(self, name) + (group[f"{name}_sum"] or 0))
        self.unpriced += answers - group["cost_usd_count"]
        if group["cost_usd_sum"] is not None:
            self.cost_usd = (self.cost_usd or Decimal(0)) + group["cost_usd_sum"]


@dataclass(slots=True)
class Minute:
    """What ended in one minute."""

    answers: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Place:
    """A row by where it stands: in a part, or (None) by its number among those that wait in the journal.

    record: of the latter, since it may be in a part the next moment.
    """

    weight: float
    folder: RunFolder
    part: Path | None
    number: int
    record: str | None = None


@dataclass(slots=True)
class RunState:
    """One run. rows: of the manifest. limit: of its last start, rows are then the first of the source.

    live: of a running one, see live.py. tokens_per_minute: the limit that was given; None for none. empty: of the
    answered rows, those without a caption; None where the run was last written by a version that did not note them.
    budget: of its last start, by setting; empty for none.
    """

    path: str
    source: str
    rows: int
    limit: int | None
    answered: int
    failed: int
    is_running: bool
    live: dict[str, Any]
    currency: str
    tokens_per_minute: int | None
    empty: int | None = None
    budget: dict[str, Decimal] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Rows that are neither answered nor failed."""
        return max(0, self.rows - self.answered - self.failed)

    @property
    def how_it_is(self) -> str:
        """running, finished, or not running and resumable, for people."""
        return "running" if self.is_running else "finished" if not self.left else "not running, resumable"


@dataclass(slots=True)
class Report:
    """by: the names that `groups` are keyed by. unanswered: attempts that brought no answer, by kind.

    cut: answers that ended for length. errors: kind -> failed rows; examples: kind -> (id, message).
    minutes: by Unix minute.
    """

    by: tuple[str, ...]
    runs: list[RunState] = field(default_factory=list)
    total: Line = field(default_factory=Line)
    groups: dict[tuple[str | None, ...], Line] = field(default_factory=dict)
    finishes: Counter[str] = field(default_factory=Counter)
    cut: Line = field(default_factory=Line)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    unanswered: dict[str, Spending] = field(default_factory=dict)
    without_usage: int = 0
    absurd_usage: int = 0
    unpriced_models: Counter[str] = field(default_factory=Counter)
    spreads: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in SPREADS})
    minutes: dict[int, Minute] = field(default_factory=dict)
    most_expensive: list[Place] = field(default_factory=list)
    anomalies: Anomalies = field(default_factory=Anomalies)
    answered_last_minute: int = 0
    tokens_last_minute: int = 0

    @property
    def currency(self) -> str:
        """Of all money in the report."""
        return self.runs[0].currency if self.runs else DOLLARS

    @property
    def rows(self) -> int:
        """Rows of the sources of all runs."""
        return sum(run.rows for run in self.runs)

    @property
    def left(self) -> int:
        """Rows that have neither an answer nor a failure, in all runs."""
        return sum(run.left for run in self.runs)

    @property
    def empty(self) -> int:
        """Answers without a caption."""
        return sum(run.empty or 0 for run in self.runs)

    @property
    def spent(self) -> Spending:
        """All that may be on the invoice: answers, and attempts that brought none, at the most that they may have cost."""
        answers = Spending(self.total.answers, self.total.tokens, self.total.cost_usd)
        return sum(self.unanswered.values(), answers)

    @property
    def findings(self) -> list[str]:
        """What cannot be true of the usage, in sentences."""
        return self.anomalies.findings(self.without_usage, self.absurd_usage)

    @property
    def lost(self) -> Spending:
        """Attempts that brought no answer, with the most that they may have cost; answers asked for again as too
        short are paid for and in their row."""
        return sum(self.lost_by_kind.values(), Spending())

    @property
    def lost_by_kind(self) -> dict[str, Spending]:
        """Attempts that brought no answer, by error kind."""
        return {kind: s for kind, s in self.unanswered.items() if kind not in _ANSWERED}

    def lines(self) -> list[tuple[tuple[str, ...], Line]]:
        """The groups, most expensive first, then those with most tokens."""
        named = [(tuple("-" if v is None else v for v in key), line) for key, line in self.groups.items()]
        return sorted(named, key=lambda item: (-(item[1].cost_usd or 0), -item[1].tokens, item[0]))


def read_report(
    folders: Sequence[RunFolder],
    by: Sequence[str] = ("model",),
    prices: PriceBook | None = None,
    now: float | None = None,
    is_brief: bool = False,
    own: OwnPrices | None = None,
) -> Report:
    """Sum up runs.

    by: names of groups, see grouping.py. prices: to compute all money anew by; None for what stands in the
    rows. own: prices of single endpoints for that, by their name in the column `endpoint`; they win. now: Unix seconds, for the rates of the last minute; None for the present. is_brief: without spreads,
    minutes, most expensive rows and anomalies, in a third of the time. Raises UsageError where a folder is no run
    folder or the runs are in several currencies, RunError where one is damaged.
    """
    reader = _Reader(Report(tuple(by)), keys(by), prices, time.time() if now is None else now, is_brief, own)
    for folder in folders:
        reader.read(folder)
    return reader.report


class _Reader:
    def __init__(
        self,
        report: Report,
        group_keys: list[Key],
        prices: PriceBook | None,
        now: float,
        is_brief: bool,
        own: OwnPrices | None,
    ) -> None:
        self.report = report
        self._is_brief = is_brief
        self._keys = group_keys
        self._prices = prices
        self._own = own or {}
        self._minute_ago_ms = int((now - 60) * 1000)
        wanted = [*_COLUMNS, *(c for key in group_keys for c in key.columns)]
        wanted += [] if is_brief else anomalies.COLUMNS
        self._columns = list(dict.fromkeys(wanted))

    def read(self, folder: RunFolder) -> None:
        run = folder.read_run()
        journal = Journal(folder.journal)
        try:
            with journal.one_moment():
                state = self._open(folder, run, journal)
                self._read_rows(folder, run["answer_settings"], journal)
                self._add_unanswered(journal, state.is_running)
        finally:
            journal.close()
        self.report.errors.update(self._failed_kinds)
        self.report.runs.append(state)

    def _open(self, folder: RunFolder, run: dict[str, Any], journal: Journal) -> RunState:
        is_running = folder.is_running()
        other = run.get("other_settings") or {}
        answered, failed, _ = journal.counts()
        self._failed_kinds = journal.failed_kinds()
        currency = self._prices.currency if self._prices else run.get("currency", DOLLARS)
        if self.report.runs and currency != self.report.currency:
            raise UsageError(
                f"{folder.path} counts in {currency}, {self.report.runs[0].path} in {self.report.currency}; report"
                " them apart, or give one table of prices with --reprice --config"
            )
        return RunState(
            path=str(folder.path),
            source=run["source"],
            rows=run["rows"],
            limit=other.get("limit"),
            answered=answered,
            failed=failed,
            is_running=is_running,
            live=folder.read_live() if is_running else {},
            currency=currency,
            tokens_per_minute=_limit(other),
            empty=empties.count(journal.database),
            budget={name: Decimal(str(other[name])) for name in _BUDGETS if other.get(name) is not None},
        )

    def _read_rows(self, folder: RunFolder, settings: dict[str, Any], journal: Journal) -> None:
        self._numbers: Counter[Path | None] = Counter()
        for part, table in dataset.answered(folder, journal, self._columns):
            self._add_answers(table, settings, folder, part)
        self._keep_waiting_rows(folder, journal)
        for table in dataset.failed(journal, [*self._columns, "id", "error_message"]):
            self._add_failures(table)

    def _keep_waiting_rows(self, folder: RunFolder, journal: Journal) -> None:
        """The most expensive rows that are in no part yet, as they are now."""
        if not any(p.folder is folder and p.part is None for p in self.report.most_expensive):
            return
        _, waiting = journal.snapshot()
        self.report.most_expensive = [
            replace(p, record=waiting[p.number]) if p.folder is folder and p.part is None else p
            for p in self.report.most_expensive
        ]

    def _add_unanswered(self, journal: Journal, is_running: bool) -> None:
        for kind, spending in journal.unanswered().items():
            if kind == IN_FLIGHT and is_running:  # it may be answered yet
                continue
            if self._prices is not None:  # prompt and answer are not told apart there
                spending = replace(spending, usd=None)  # noqa: PLW2901
            self.report.unanswered[kind] = self.report.unanswered.get(kind, Spending()) + spending

    # ---- answers

    def _add_answers(
        self, table: pa.Table, settings: dict[str, Any], folder: RunFolder, part: Path | None
    ) -> None:
        report = self.report
        if self._prices is not None:
            table = _repriced(table, self._prices, self._own)
        self._add_groups(table)
        self._add_last_minute(table)
        if self._is_brief:
            return
        for group in table.group_by("finish").aggregate([([], "count_all")]).to_pylist():
            report.finishes[group["finish"] or "none"] += group["count_all"]
        cut = table.filter(pc.equal(table["finish"], "length"))
        if cut.num_rows:
            report.cut.add(_sums(cut, [])[0])
        without = pc.equal(table["usage_source"], "missing")
        report.without_usage += pc.sum(without).as_py() or 0
        report.absurd_usage += pc.sum(pc.equal(table["usage_source"], "absurd")).as_py() or 0
        self._add_unpriced(table)
        for name, spread in report.spreads.items():
            spread.add(_floats(table[name]))
        self._add_minutes(table)
        self._add_most_expensive(table, folder, part)
        report.anomalies.add(table, settings)

    def _add_groups(self, table: pa.Table) -> None:
        report = self.report
        for group in _sums(table, self._keys):
            line = report.groups.setdefault(tuple(group[key.name] for key in self._keys), Line())
            line.add(group)
            report.total.add(group)
        if len(report.groups) > MOST_GROUPS:
            raise UsageError(f"--by {','.join(report.by)}: more than {MOST_GROUPS:,} groups")

    def _add_unpriced(self, table: pa.Table) -> None:
        is_unpriced = pc.and_(pc.is_null(table["cost_usd"]), pc.equal(table["usage_source"], "reported"))
        rows = table.filter(is_unpriced)
        if rows.num_rows:
            names = pc.value_counts(pc.coalesce(rows["model_requested"], rows["model"]))
            for each in names.to_pylist():
                self.report.unpriced_models[each["values"] or "unknown"] += each["counts"]

    def _add_last_minute(self, table: pa.Table) -> None:
        is_recent = pc.greater(pc.cast(table["finished_at"], pa.int64()), self._minute_ago_ms)
        recent = table.filter(is_recent)
        self.report.answered_last_minute += recent.num_rows
        self.report.tokens_last_minute += pc.sum(_tokens(recent)).as_py() or 0

    def _add_minutes(self, table: pa.Table) -> None:
        minutes = pc.divide(pc.cast(table["finished_at"], pa.int64()), _MINUTE_MS)
        sums = pa.table({"minute": minutes, "tokens": _tokens(table), "cost": table["cost_usd"]})
        grouped = sums.group_by("minute").aggregate([("tokens", "sum"), ("cost", "sum"), ([], "count_all")])
        for group in grouped.to_pylist():
            if group["minute"] is not None:
                minute = self.report.minutes.setdefault(group["minute"], Minute())
                minute.answers += group["count_all"]
                minute.tokens += group["tokens_sum"] or 0
                minute.cost_usd += group["cost_sum"] or 0

    def _add_most_expensive(self, table: pa.Table, folder: RunFolder, part: Path | None) -> None:
        """By money; where nothing has a price, by tokens."""
        first, self._numbers[part] = self._numbers[part], self._numbers[part] + table.num_rows
        weights = np.nan_to_num(_floats(table["cost_usd"]))
        if not weights.any():
            # far below any money, so that a priced answer goes before
            weights = (
                np.nan_to_num(_floats(table["prompt_tokens"]) + _floats(table["completion_tokens"])) * 1e-15
            )
        most = np.argsort(-weights, kind="stable")[:MOST_EXPENSIVE]
        places = [Place(float(weights[n]), folder, part, first + int(n)) for n in most]
        self.report.most_expensive = heapq.nlargest(
            MOST_EXPENSIVE, [*self.report.most_expensive, *places], key=lambda p: p.weight
        )

    # ---- failed rows

    def _add_failures(self, table: pa.Table) -> None:
        self._add_groups(table)
        for identity, kind, message in zip(
            *(table[name].to_pylist() for name in ("id", "error_kind", "error_message")), strict=True
        ):
            known = self.report.examples.setdefault(kind, [])
            if len(known) < EXAMPLES_A_KIND:
                known.append((identity, message))


def _limit(settings: dict[str, Any]) -> int | None:
    """Tokens a minute that were given, of all endpoints together; None where one was left open."""
    limits = [entry.get("tpm") for entry in settings.get("endpoint") or [settings]]
    return sum(limits) if all(limits) else None


def _sums(table: pa.Table, group_keys: Sequence[Key]) -> list[dict[str, Any]]:
    """The sums of each group; one group where there are no keys."""
    columns: dict[str, Any] = {name: table[name] for name in _SUMS}
    columns["answered"] = pc.cast(pc.equal(table["status"], "answered"), pa.int64())
    columns |= {key.name: key.of(table) for key in group_keys}
    aggregates: list[tuple[Any, str]] = [(name, "sum") for name in (*_SUMS, "answered")]
    aggregates += [([], "count_all"), ("cost_usd", "count")]
    grouped = pa.table(columns).group_by([key.name for key in group_keys]).aggregate(aggregates)
    found: list[dict[str, Any]] = grouped.to_pylist()
    return found


def _tokens(table: pa.Table) -> Any:
    """Of each row, in and out."""
    return pc.add(pc.fill_null(table["prompt_tokens"], 0), pc.fill_null(table["completion_tokens"], 0))


def _floats(column: pa.ChunkedArray) -> Any:
    return pc.cast(column, pa.float64()).to_numpy()


def _repriced(table: pa.Table, prices: PriceBook, own: OwnPrices) -> pa.Table:
    """The same answers at other prices, list prices of the day on which each came. own: by endpoint."""
    names = (
        "endpoint", "model", "model_requested", "finished_at", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens",
    )  # fmt: skip
    costs = [
        prices.on(at).cost(
            (model, asked), Usage(prompt, completion, None, cached, reasoning), own.get(endpoint)
        )
        for endpoint, model, asked, at, prompt, completion, cached, reasoning in zip(
            *(table[name].to_pylist() for name in names), strict=True
        )
    ]
    column = pa.chunked_array([pa.array(costs, parts.SCHEMA.field("cost_usd").type)])
    return table.set_column(table.schema.get_field_index("cost_usd"), "cost_usd", column)


def read_rows(places: Sequence[Place], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows at these places, in their order."""
    found = []
    for place in places:
        if place.part is None:
            found += parts.to_table([place.record] if place.record else [], columns).to_pylist()
            continue
        at = place.number
        for batch in parts.read_batches([place.part], columns):
            if at < batch.num_rows:
                found += batch.slice(at, 1).to_pylist()
                break
            at -= batch.num_rows
    return found
