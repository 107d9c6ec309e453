"""What a start and `repair` ask and change in a journal that may not fit to the parts on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from ..nouns.errors import RunError
from .journal import Journal, Part


def check_whole(journal: Journal) -> None:
    """Raises RunError where any page of the file is damaged."""
    ((first,),) = journal.database.query("PRAGMA quick_check(1)")
    if first != "ok":
        raise RunError(f"{journal.path}: damaged ({first})", kind="journal")


def ids_of(journal: Journal, part: Part) -> list[str]:
    """The ids whose answers went into a part."""
    rows = journal.database.query(
        "SELECT id FROM finished WHERE seq BETWEEN ? AND ?", part.first_seq, part.last_seq
    )
    return [identity for (identity,) in rows]


def oldest_waiting_ids(journal: Journal, limit: int) -> dict[int, str]:
    """Sequence number -> id of the oldest answers that are in no part. Reads the whole table."""
    return dict(
        journal.database.query(
            "SELECT seq, id FROM finished WHERE seq IN (SELECT seq FROM waiting ORDER BY seq LIMIT ?)", limit
        )
    )


def waiting_among(journal: Journal, ids: Sequence[str]) -> list[str]:
    """Those of these rows whose answer is in no part yet."""
    rows = journal.database.query(
        "SELECT id FROM finished WHERE id IN (SELECT value FROM json_each(?))"
        " AND seq IN (SELECT seq FROM waiting)",
        json.dumps(list(ids)),
    )
    return [identity for (identity,) in rows]


def unfinish(journal: Journal, ids: Iterable[str]) -> None:
    """Drop the failures of these rows: they count as not asked."""
    with journal.database.changing():
        journal.database.change("DELETE FROM failed WHERE id = ?", [(i,) for i in ids])


def forget(journal: Journal, part: Part, ids: Iterable[str]) -> None:
    """Drop a part that does not hold these answers: its rows count as not asked.

    A better answer that was to take the place of an empty one stays: it becomes the row's only answer.
    """
    ids = list(ids)
    database = journal.database
    kept = database.query(
        "SELECT f.id, f.content, b.record FROM better b JOIN finished f ON f.id = b.id"
        " WHERE f.seq BETWEEN ? AND ?",
        part.first_seq,
        part.last_seq,
    )
    ((last,),) = database.query(
        "SELECT max(coalesce((SELECT max(seq) FROM finished), 0), coalesce((SELECT max(last_seq) FROM parts), 0))"
    )
    with database.changing():
        database.change("DELETE FROM empty WHERE id = ?", [(i,) for i in ids])
        journal.database.change("DELETE FROM finished WHERE id = ?", [(i,) for i in ids])
        journal.database.change("DELETE FROM parts WHERE number = ?", [(part.number,)])
        for seq, (identity, content, record) in enumerate(kept, last + 1):
            database.change("INSERT INTO finished VALUES (?, ?, ?)", [(identity, seq, content)])
            database.change("INSERT INTO waiting VALUES (?, ?)", [(seq, record)])
            database.change("DELETE FROM better WHERE id = ?", [(identity,)])


def adopt(journal: Journal, number: int, contents: Mapping[str, int], waiting: Iterable[str]) -> None:
    """Note a part that is on disk and that the journal does not know.

    contents: id -> hash of what was asked. waiting: those of them that the journal keeps as waiting; they are in
    the part, so they need not wait. The part gets sequence numbers below all others, so that no later part spans it.
    """
    database = journal.database
    known = [(i,) for i in waiting]
    with database.changing():
        ((least,),) = database.query(
            "SELECT min(0, coalesce((SELECT min(seq) FROM finished), 0),"
            " coalesce((SELECT min(first_seq) FROM parts), 0))"
        )
        first = least - len(contents)
        database.change("DELETE FROM waiting WHERE seq = (SELECT seq FROM finished WHERE id = ?)", known)
        database.change("DELETE FROM finished WHERE id = ?", known)
        database.change(
            "INSERT INTO finished VALUES (?, ?, ?)",
            [(i, first + n, content) for n, (i, content) in enumerate(contents.items())],
        )
        database.change("DELETE FROM failed WHERE id = ?", [(i,) for i in contents])
        database.change(
            "INSERT INTO parts VALUES (?, ?, ?, ?)",
            [(number, first, first + len(contents) - 1, len(contents))],
        )
        database.change("INSERT OR IGNORE INTO unscanned VALUES (?)", [(number,)])
