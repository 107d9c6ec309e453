"""The account of attempts that brought no answer, and the most that they may have cost.

One row of the table a kind. `in_flight` is special: under a budget it holds the requests that are in flight at
this moment, and it is overwritten with every commit. Where it is still there at a start, the last start was
killed with these requests in flight.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from ..nouns.rows import Spending
from .database import Database

IN_FLIGHT, KILLED = "in_flight", "killed"


def read(database: Database) -> dict[str, Spending]:
    """Sums over all starts by kind, the most frequent first; empty in a journal without this table."""
    if not database.query("SELECT 1 FROM sqlite_schema WHERE name = 'unanswered'"):
        return {}
    rows = database.query(
        "SELECT kind, attempts, tokens, usd FROM unanswered WHERE attempts > 0 OR tokens > 0 ORDER BY attempts DESC"
    )
    return {kind: spending(*figures) for kind, *figures in rows}


def spending(attempts: int, tokens: int, usd: str | None) -> Spending:
    """A row of the table. usd: decimal text, None where no price is known."""
    return Spending(attempts, tokens, None if usd is None else Decimal(usd))


def add(database: Database, more: Mapping[str, Spending]) -> None:
    """Add to the sums, inside a transaction."""
    known = read(database)
    _write(database, {kind: known.get(kind, Spending()) + s for kind, s in more.items()})


def set_in_flight(database: Database, in_flight: Spending) -> None:
    """Replace what is known of the requests in flight, inside a transaction."""
    _write(database, {IN_FLIGHT: in_flight})


def settle_killed(database: Database) -> None:
    """Count the requests that were in flight when the last start was killed: they may be billed."""
    with database.changing():
        in_flight = read(database).get(IN_FLIGHT)
        if in_flight is not None:
            database.change("DELETE FROM unanswered WHERE kind = ?", [(IN_FLIGHT,)])
            if in_flight.requests:
                add(database, {KILLED: in_flight})


def _write(database: Database, sums: Mapping[str, Spending]) -> None:
    database.change(
        "INSERT OR REPLACE INTO unanswered VALUES (?, ?, ?, ?)",
        [
            (kind, s.requests, s.tokens, None if s.usd is None else format(s.usd, "f"))
            for kind, s in sums.items()
        ],
    )
