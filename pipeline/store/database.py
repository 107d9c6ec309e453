"""The journal's SQLite file: connection, transactions, and SQLite's errors as errors with a kind.

A reader opens the file read-write and never writes: `mode=ro` cannot read a WAL that no other process holds open.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..nouns.errors import RunError, disk_error, kind_of_cause

_BUSY_SECONDS = 30.0  # how long SQLite waits for another connection's lock


class Database:
    """One connection. Its caller makes sure that one thread at a time uses it.

    path: the file. create: True for the one writer, which may make the file; False opens what is there.
    Raises RunError where the file cannot be opened.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        self.path = path
        with self._naming("used as a journal"), contextlib.ExitStack() as undo:
            self._connection = self._connect("mode=rwc" if create else "mode=rw")
            undo.callback(self.close)
            if create:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
            else:
                self._allow_reading()
            # of the file that was opened: SQLite writes on into a deleted file without an error
            self._inode = path.stat().st_ino
            undo.pop_all()

    def _connect(self, parameters: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?{parameters}"
        return sqlite3.connect(
            uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )

    def _allow_reading(self) -> None:
        """Read the file as it lies there where SQLite cannot make its side files (no access, a full disk).

        Only where its log is empty, as a run leaves it that has ended.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        try:
            self._connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:
            if log.exists() and log.stat().st_size:
                raise
            self._connection.close()
            self._connection = self._connect("mode=ro&immutable=1")

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._connection.close()

    def query(self, sql: str, *values: object) -> list[Any]:
        """All rows of a query. Raises RunError where the file cannot be read."""
        with self._naming("read"):
            return self._connection.execute(sql, values).fetchall()

    def stream(self, sql: str) -> Iterator[Any]:
        """The rows of a query, read while they are consumed. Raises RunError where the file cannot be read."""
        with self._naming("read"):
            yield from self._connection.execute(sql)

    def change(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run an INSERT or DELETE once for each of `rows`, its values. Only inside `changing`."""
        self._connection.executemany(sql, rows)

    def run(self, sql: str) -> None:
        """Run a CREATE TABLE or a PRAGMA. Raises RunError where it fails."""
        with self._naming("used as a journal"):
            self._connection.execute(sql)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction: all changes inside are made or none. Raises RunError where they cannot be made.

        Also where the file was deleted since it was opened: what SQLite wrote there would be lost.
        """
        self._check_still_there()
        with self._naming("written"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """Everything that is read inside is as of one moment, even if a writer commits meanwhile."""
        if self._connection.in_transaction:
            yield
            return
        self.query("BEGIN")
        try:
            yield
        finally:
            self.query("COMMIT")

    def _check_still_there(self) -> None:
        try:
            inode = self.path.stat().st_ino
        except OSError:
            inode = 0
        if inode != self._inode:
            raise RunError(f"{self.path}: has gone; was the run folder deleted or moved?", kind="folder_gone")

    @contextlib.contextmanager
    def _naming(self, verb: str) -> Iterator[None]:
        """SQLite's errors as RunErrors that say what could not be done to which file."""
        try:
            yield
        except sqlite3.Error as error:
            raise _run_error(self.path, verb, error) from error


def _run_error(path: Path, verb: str, error: sqlite3.Error) -> RunError:
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith("SQLITE_CANTOPEN"):  # SQLite does not say why it cannot open a file; the system does
        try:
            os.close(os.open(path, os.O_RDWR))
        except OSError as cause:
            return disk_error(path, verb, cause)
    primary = "_".join(name.split("_")[:2])  # SQLITE_IOERR_WRITE -> SQLITE_IOERR
    return RunError(f"{path}: cannot be {verb} ({error})", kind=kind_of_cause(primary) or "journal")


def is_blank(path: Path) -> bool:
    """Whether a journal file has no table yet: the start that made it died at once."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
    return False
