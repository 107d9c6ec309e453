"""Answers without a caption: which they are, and how a better answer takes the place of one, exactly once.

    empty      ids of answered rows whose text is blank
    unscanned  parts of which this is not known yet: of a run of version 1, or adopted by `repair`
    better     answers that came for such rows later, until they are in the part in the place of the empty one

A part keeps its rows, their ids and its number: only the contents of single rows change, in a new file that replaces
the old one. A crash in between leaves the old or the new file, and the next start does the same again. What the replaced
answer cost is noted before the file changes, and joins the account of attempts that brought no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nouns.rows import Spending
from . import parts, unanswered
from .database import Database

if TYPE_CHECKING:
    from .journal import Entry  # which uses this file

KIND = "empty"  # of `--retry-failed`, and of the account of attempts that brought no answer
_COLUMNS = ("id", "content", "tool_calls", "refusal")
_SPENT = ("id", "prompt_tokens", "completion_tokens", "total_tokens", "estimated_tokens", "cost_usd")


def count(database: Database) -> int | None:
    """Answered rows without a caption; None in a journal of version 1, which does not know."""
    if not _is_known(database):
        return None
    return int(database.query("SELECT count(*) FROM empty")[0][0])


def _is_known(database: Database) -> bool:
    return bool(database.query("SELECT 1 FROM sqlite_schema WHERE name = 'empty'"))


def among(database: Database, ids: Sequence[str]) -> set[str]:
    """Those of these rows whose answer is empty; none in a journal of version 1."""
    if not _is_known(database):
        return set()
    found = database.query(
        "SELECT id FROM empty WHERE id IN (SELECT value FROM json_each(?))", json.dumps(list(ids))
    )
    return {identity for (identity,) in found}


def take(database: Database, entries: Iterable[Entry]) -> list[Entry]:
    """Inside a transaction: keep what concerns empty rows, and return the other entries.

    A better answer waits to take the place of the empty one. A further empty answer, and a failure, change nothing: the
    row keeps its answer; what the further one cost joins the account.
    """
    entries = list(entries)
    if not database.query("SELECT 1 FROM empty LIMIT 1"):
        return entries
    known = among(database, [entry.id for entry in entries])
    others = [entry for entry in entries if entry.id not in known]
    again = [e for e in entries if e.id in known and e.failure_kind is None]
    better = [entry for entry in again if not entry.is_empty]
    database.change(
        "INSERT OR REPLACE INTO better VALUES (?, ?, NULL, NULL)", [(e.id, e.record) for e in better]
    )
    database.change("DELETE FROM empty WHERE id = ?", [(e.id,) for e in better])
    if wasted := [_spending(json.loads(e.record)) for e in again if e.is_empty]:
        unanswered.add(database, {KIND: sum(wasted, Spending())})
    return others


def note(database: Database, numbered: Iterable[tuple[int, Entry]]) -> None:
    """Inside a transaction: these answers were recorded; remember which are empty. numbered: by sequence number."""
    blank = [(entry.id, seq) for seq, entry in numbered if entry.is_empty]
    if blank:
        database.change("INSERT OR IGNORE INTO empty SELECT id FROM finished WHERE id = ? AND seq = ?", blank)


def bring_up_to_date(results: Path, database: Database) -> None:
    """At a start, on a locked folder: look into the parts of which it is not known, and finish what a crash left.

    results: the folder of the parts. Raises RunError where a part cannot be read or written.
    """
    for (number,) in database.query("SELECT number FROM unscanned ORDER BY number"):
        path = results / parts.part_name(number)
        blank: list[str] = []
        for batch in parts.read_batches([path], _COLUMNS):
            blank += [row["id"] for row in batch.to_pylist() if is_blank(row)]
        with database.changing():
            database.change(
                "INSERT OR IGNORE INTO empty SELECT id FROM finished WHERE id = ?", [(i,) for i in blank]
            )
            database.change("DELETE FROM unscanned WHERE number = ?", [(number,)])
    put_into_parts(results, database)


def is_blank(row: Mapping[str, Any]) -> bool:
    """Whether an answer has no caption, by its columns or its record: as `Reply.is_empty` has it."""
    return not (row.get("content") or "").strip() and not row.get("tool_calls") and not row.get("refusal")


# ------------------------------------------------------------------------------- a better answer in its part


def put_into_parts(results: Path, database: Database) -> None:
    """Put the better answers of rows that are in parts into these, in the place of the empty ones.

    results: the folder of the parts. Raises RunError where a part cannot be read or written; the rest is done at the next
    call.
    """
    numbers = database.query(
        "SELECT DISTINCT p.number, p.first_seq, p.last_seq FROM better b JOIN finished f ON f.id = b.id"
        " JOIN parts p ON f.seq BETWEEN p.first_seq AND p.last_seq"
    )
    for number, first, last in numbers:
        path = results / parts.part_name(number)
        records = dict(
            database.query(
                "SELECT b.id, b.record FROM better b JOIN finished f ON f.id = b.id WHERE f.seq BETWEEN ? AND ?",
                first,
                last,
            )
        )
        _note_what_they_cost(database, path, records)
        parts.replace_rows(path, records)
        with database.changing():
            ids = json.dumps(list(records))
            spent = database.query(
                "SELECT tokens, usd FROM better WHERE id IN (SELECT value FROM json_each(?))", ids
            )
            replaced = (unanswered.spending(1, tokens, usd) for tokens, usd in spent)
            unanswered.add(database, {KIND: sum(replaced, Spending())})
            database.change("DELETE FROM better WHERE id = ?", [(i,) for i in records])


def _note_what_they_cost(database: Database, path: Path, ids: Iterable[str]) -> None:
    """Before the file changes: after a crash it may hold the better answers already."""
    wanted, rows = set(ids), []
    for batch in parts.read_batches([path], _SPENT):
        rows += [row for row in batch.to_pylist() if row["id"] in wanted]
    costs = [(row["id"], _spending(row)) for row in rows]
    with database.changing():
        database.change(
            "UPDATE better SET tokens = ?, usd = ? WHERE id = ? AND tokens IS NULL",
            [(s.tokens, None if s.usd is None else format(s.usd, "f"), identity) for identity, s in costs],
        )


def _spending(row: Mapping[str, Any]) -> Spending:
    """What one answer cost, by its columns or its record."""
    both = (row.get("prompt_tokens") or 0) + (row.get("completion_tokens") or 0)
    tokens = max(both, row.get("total_tokens") or 0) or row.get("estimated_tokens") or 0
    usd = row.get("cost_usd")
    return Spending(1, tokens, None if usd is None else Decimal(usd))
