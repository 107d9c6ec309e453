"""What is finished, and in which part: one SQLite file. Synchronous; `checkpoint` calls it from a thread.

An answer enters `finished` and `waiting` in one transaction before any Parquet part exists. When a
part that holds the oldest waiting records has its final name, one more transaction notes the part
and drops those records. A part is a range of sequence numbers, so which ids it holds stays known.
Failed rows keep their record here, since they may be tried again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ..nouns.errors import RunError, disk_error, kind_of_cause
from ..nouns.rows import Spending

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS finished (
    id TEXT PRIMARY KEY, seq INTEGER NOT NULL, content INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waiting (seq INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failed (id TEXT PRIMARY KEY, kind TEXT NOT NULL, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parts (
    number INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, rows INTEGER NOT NULL);
"""
# Attempts that brought no answer, and what they may have cost at the most; usd: decimal text, null without a price.
# One kind is of the moment: what is out, under a budget. It is there still where the last start was killed.
IN_FLIGHT, KILLED = "in_flight", "killed"
_UNANSWERED = """
CREATE TABLE IF NOT EXISTS unanswered (
    kind TEXT PRIMARY KEY, attempts INTEGER NOT NULL, tokens INTEGER NOT NULL, usd TEXT) WITHOUT ROWID;
"""
_BUSY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished row. failure_kind: None for an answer. record: its columns as JSON.

    content: hash of what was asked, so that a row that changed under its id is noticed.
    """

    id: str
    failure_kind: str | None
    record: str
    content: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    first_seq: int
    last_seq: int
    rows: int


class Journal:
    """The open journal of one run.

    create: for the one writer; others (`status`, `report`, the part writer) open what is there.
    Raises RunError where the file is no journal, or of a newer version than this program.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        self.path = path
        try:
            # readers too open read-write, without writing: mode=ro cannot read a WAL that nobody holds open
            self._db = self._connect(create)
            if not create:
                self._let_read()
            if create:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._create()
            self._check_version()
            self._next_seq = self._last_seq() + 1
            self._inode = path.stat().st_ino
        except sqlite3.Error as error:
            raise _named(path, "used as a journal", error) from error

    def _connect(self, create: bool) -> sqlite3.Connection:
        mode = "rwc" if create else "rw"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        # the caller makes sure that one thread at a time uses it
        return sqlite3.connect(
            uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )

    def _let_read(self) -> None:
        """Where no file can be made beside it (no access, a full disk) it is read as it lies there.

        Only where nothing waits in its log, as a run leaves it that has ended.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        try:
            self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:
            if log.exists() and log.stat().st_size:
                raise
            self._db.close()
            uri = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    def _create(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} {_UNANSWERED} PRAGMA user_version={SCHEMA_VERSION}; COMMIT"
            )
        elif version == SCHEMA_VERSION:
            self._db.executescript(_UNANSWERED)

    def _check_version(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise RunError(
                f"{self.path}: journal version {version}, this program reads {SCHEMA_VERSION}",
                kind="version" if version > SCHEMA_VERSION else "journal",
            )

    def _last_seq(self) -> int:
        (last,) = self._db.execute(
            "SELECT max(coalesce((SELECT max(seq) FROM waiting), 0),"
            " coalesce((SELECT max(last_seq) FROM parts), 0))"
        ).fetchone()
        return int(last)

    def close(self) -> None:
        self._db.close()

    # ---- writing

    def commit(
        self,
        entries: Iterable[Entry],
        unanswered: Mapping[str, Spending] | None = None,
        in_flight: Spending | None = None,
    ) -> None:
        """Make a group of finished rows durable: all of them or none. Raises RunError (disk full ...).

        unanswered: attempts that brought no answer since the last commit, by kind. in_flight: what is out now,
        at the most that it may cost; None where nobody keeps account of it.
        """
        seq = self._next_seq
        finished, waiting, failed, answered_ids = [], [], [], []
        for entry in entries:
            if entry.failure_kind is None:
                finished.append((entry.id, seq, entry.content))
                waiting.append((seq, entry.record, entry.id))
                answered_ids.append((entry.id,))
                seq += 1
            else:
                failed.append((entry.id, entry.failure_kind, entry.record))
        self._check_still_there()
        with self._changing():
            # an id that is finished already (a manifest that changed during the run) keeps its first answer
            self._db.executemany("INSERT OR IGNORE INTO finished VALUES (?, ?, ?)", finished)
            self._db.executemany(
                "INSERT INTO waiting SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM finished WHERE id = ?3 AND seq = ?1)",
                waiting,
            )
            self._db.executemany("INSERT OR REPLACE INTO failed VALUES (?, ?, ?)", failed)
            self._db.executemany("DELETE FROM failed WHERE id = ?", answered_ids)
            if unanswered:
                self._add_unanswered(unanswered)
            if in_flight is not None:
                self._write_unanswered({IN_FLIGHT: in_flight})
        self._next_seq = seq

    def _add_unanswered(self, more: Mapping[str, Spending]) -> None:
        known = self.unanswered()
        self._write_unanswered({kind: known.get(kind, Spending()) + s for kind, s in more.items()})

    def _write_unanswered(self, sums: Mapping[str, Spending]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO unanswered VALUES (?, ?, ?, ?)",
            (
                (k, s.requests, s.tokens, None if s.usd is None else format(s.usd, "f"))
                for k, s in sums.items()
            ),
        )

    def settle_killed(self) -> None:
        """What was out when the last start was killed may be billed, and nobody heard of it."""
        with self._changing():
            left = self.unanswered().get(IN_FLIGHT)
            if left is not None:
                self._db.execute("DELETE FROM unanswered WHERE kind = ?", (IN_FLIGHT,))
                if left.requests:
                    self._add_unanswered({KILLED: left})

    def note_part(self, part: Part) -> None:
        """The part has its final name: its records need no longer wait."""
        with self._changing():
            self._db.execute(
                "INSERT INTO parts VALUES (?, ?, ?, ?)",
                (part.number, part.first_seq, part.last_seq, part.rows),
            )
            self._db.execute("DELETE FROM waiting WHERE seq BETWEEN ? AND ?", (part.first_seq, part.last_seq))

    # ---- mending

    def check_whole(self) -> None:
        """Raises RunError where any page of the file is damaged."""
        (first,) = self._query("PRAGMA quick_check(1)")[0]
        if first != "ok":
            raise RunError(f"{self.path}: damaged ({first})", kind="journal")

    def ids_of(self, part: Part) -> list[str]:
        """The ids whose answers went into a part."""
        ids = self._query("SELECT id FROM finished WHERE seq BETWEEN ? AND ?", part.first_seq, part.last_seq)
        return [identity for (identity,) in ids]

    def waiting_among(self, ids: Sequence[str]) -> list[str]:
        """Those of these rows whose answer is in no part yet."""
        found = self._query(
            "SELECT id FROM finished WHERE id IN (SELECT value FROM json_each(?))"
            " AND seq IN (SELECT seq FROM waiting)",
            json.dumps(list(ids)),
        )
        return [identity for (identity,) in found]

    def forget(self, part: Part, ids: Iterable[str]) -> None:
        """The part does not hold these answers: its rows count as not asked."""
        with self._changing():
            self._db.executemany("DELETE FROM finished WHERE id = ?", ((i,) for i in ids))
            self._db.execute("DELETE FROM parts WHERE number = ?", (part.number,))

    def adopt(self, number: int, contents: Mapping[str, int], waiting: Iterable[str]) -> None:
        """Take in a part that is on disk: id -> hash of what was asked. waiting: those that wait, no longer need to.

        It gets sequence numbers before all others, so that no part to come spans it.
        """
        gone = [(i,) for i in waiting]
        with self._changing():
            (least,) = self._db.execute(
                "SELECT min(0, coalesce((SELECT min(seq) FROM finished), 0),"
                " coalesce((SELECT min(first_seq) FROM parts), 0))"
            ).fetchone()
            first = least - len(contents)
            self._db.executemany(
                "DELETE FROM waiting WHERE seq = (SELECT seq FROM finished WHERE id = ?)", gone
            )
            self._db.executemany("DELETE FROM finished WHERE id = ?", gone)
            self._db.executemany(
                "INSERT INTO finished VALUES (?, ?, ?)",
                ((i, first + n, content) for n, (i, content) in enumerate(contents.items())),
            )
            self._db.executemany("DELETE FROM failed WHERE id = ?", ((i,) for i in contents))
            self._db.execute(
                "INSERT INTO parts VALUES (?, ?, ?, ?)",
                (number, first, first + len(contents) - 1, len(contents)),
            )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction. Raises RunError where it could not be made."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise _named(self.path, "written", error) from error

    def _check_still_there(self) -> None:
        """SQLite writes on into a deleted file; what it holds is then lost at the end."""
        try:
            there = self.path.stat().st_ino
        except OSError:
            there = 0
        if there != self._inode:
            raise RunError(f"{self.path}: has gone; was the run folder deleted or moved?", kind="folder_gone")

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    # ---- reading

    def finished(self, ids: Sequence[str]) -> dict[str, int]:
        """Which of these rows have an answer: id -> hash of what was asked."""
        return self._lookup("SELECT id, content FROM finished", ids)

    def failed(self, ids: Sequence[str]) -> dict[str, str]:
        """Which of these rows failed, and how: id -> kind."""
        return self._lookup("SELECT id, kind FROM failed", ids)

    def _lookup(self, select: str, ids: Sequence[str]) -> dict[str, Any]:
        in_these = "WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._query(f"{select} {in_these}", json.dumps(ids)))

    def _query(self, sql: str, *values: object) -> list[Any]:
        """All rows of a query. Raises RunError where the file is damaged."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _named(self.path, "read", error) from error

    def counts(self) -> tuple[int, int, int]:
        """Rows answered, rows failed, rows answered but not yet in a part."""
        answered, failed, waiting = (
            self._query(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608  our own names
            for table in ("finished", "failed", "waiting")
        )
        return answered, failed, waiting

    def waiting_count(self) -> int:
        return int(self._query("SELECT count(*) FROM waiting")[0][0])

    def waiting(self, limit: int, most_characters: int = 2**62) -> list[tuple[int, str]]:
        """The oldest answers that are in no part, (sequence number, record): up to `limit`, and no more
        than fit into `most_characters`, but at least one."""
        found: list[tuple[int, str]] = []
        characters = 0
        for seq, size in self._query("SELECT seq, length(record) FROM waiting ORDER BY seq LIMIT ?", limit):
            characters += size
            if found and characters > most_characters:
                break
            found += self._query("SELECT seq, record FROM waiting WHERE seq = ?", seq)
        return found

    def oldest_waiting_ids(self, limit: int) -> dict[int, str]:
        """Sequence number -> id of the oldest answers that are in no part. Reads the whole table."""
        return dict(
            self._query(
                "SELECT seq, id FROM finished WHERE seq IN (SELECT seq FROM waiting ORDER BY seq LIMIT ?)",
                limit,
            )
        )

    def failed_records(self) -> Iterator[str]:
        """Records of the rows that have no answer, by id; read as they are asked for."""
        try:
            for (record,) in self._db.execute("SELECT record FROM failed ORDER BY id"):
                yield record
        except sqlite3.Error as error:
            raise _named(self.path, "read", error) from error

    def failed_kinds(self) -> dict[str, int]:
        return dict(self._query("SELECT kind, count(*) FROM failed GROUP BY kind ORDER BY 2 DESC"))

    def unanswered(self) -> dict[str, Spending]:
        """Attempts of all starts that brought no answer, by kind; empty in a journal that does not keep them."""
        if not self._query("SELECT 1 FROM sqlite_schema WHERE name = 'unanswered'"):
            return {}
        rows = self._query(
            "SELECT kind, attempts, tokens, usd FROM unanswered WHERE attempts > 0 OR tokens > 0 ORDER BY attempts DESC"
        )
        return {k: Spending(n, tokens, None if usd is None else Decimal(usd)) for k, n, tokens, usd in rows}

    def parts(self) -> list[Part]:
        return [Part(*row) for row in self._query("SELECT * FROM parts ORDER BY number")]

    def snapshot(self) -> tuple[list[Part], list[str]]:
        """Parts and the records not yet in one, as of one moment."""
        with self.one_moment():
            return self.parts(), [record for _, record in self.waiting(-1)]

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """All that is read within is as of one moment, whatever a writer does meanwhile."""
        if self._db.in_transaction:
            yield
            return
        self._query("BEGIN")
        try:
            yield
        finally:
            self._query("COMMIT")


def _named(path: Path, verb: str, error: sqlite3.Error) -> RunError:
    """What to do about it, in one word."""
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith("SQLITE_CANTOPEN"):  # SQLite does not say why; the system does
        try:
            os.close(os.open(path, os.O_RDWR))
        except OSError as cause:
            return disk_error(path, verb, cause)
    primary = "_".join(name.split("_")[:2])  # SQLITE_IOERR_WRITE -> SQLITE_IOERR
    return RunError(f"{path}: cannot be {verb} ({error})", kind=kind_of_cause(primary) or "journal")


def is_blank(path: Path) -> bool:
    """Whether a start died while it made this journal: there, with nothing in it yet."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT 1 FROM sqlite_master").fetchone() is None
    return False


class Salvaged(NamedTuple):
    """What a damaged journal still gives. waiting: records that are in no part. failed: (kind, record)."""

    waiting: list[str]
    failed: list[tuple[str, str]]
    unanswered: dict[str, Spending]


def salvage(path: Path) -> Salvaged:
    """Read from both ends up to where it is damaged, and one by one between. Empty where it is no database."""
    waiting: dict[int, str] = {}
    failed: dict[str, tuple[str, str]] = {}
    unanswered: dict[str, Spending] = {}
    if not path.is_file():
        return Salvaged([], [], {})
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.Error):
                for seq, record in database.execute(f"SELECT seq, record FROM waiting ORDER BY seq {order}"):  # noqa: S608
                    waiting[seq] = record
            with contextlib.suppress(sqlite3.Error):
                for identity, kind, record in database.execute(f"SELECT * FROM failed ORDER BY id {order}"):  # noqa: S608
                    failed[identity] = (kind, record)
        for seq in _gaps(waiting):
            with contextlib.suppress(sqlite3.Error):
                for (record,) in database.execute("SELECT record FROM waiting WHERE seq = ?", (seq,)):
                    waiting[seq] = record
        with contextlib.suppress(sqlite3.Error, ArithmeticError):
            for kind, attempts, tokens, usd in database.execute("SELECT * FROM unanswered"):
                unanswered[kind] = Spending(attempts, tokens, None if usd is None else Decimal(usd))
    return Salvaged([waiting[seq] for seq in sorted(waiting)], list(failed.values()), unanswered)


def _gaps(found: Mapping[int, str]) -> list[int]:
    return [seq for seq in range(min(found), max(found)) if seq not in found] if found else []
