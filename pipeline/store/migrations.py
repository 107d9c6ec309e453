"""The journal's schema as a list of steps forward: step N makes version N of version N - 1.

A step is never changed once it was released, and none leads back. The version is in SQLite's `user_version`.
Each step is one transaction with its version, so a start that dies in between leaves the version before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..nouns.errors import RunError
from .database import Database

Step = Callable[[Database], None]

_UNANSWERED = """
CREATE TABLE IF NOT EXISTS unanswered (
    kind TEXT PRIMARY KEY, attempts INTEGER NOT NULL, tokens INTEGER NOT NULL, usd TEXT) WITHOUT ROWID
"""


def _make_version_1(database: Database) -> None:
    """finished: id -> place in the order of answers, hash of what was asked. waiting: answers that are in no part.

    failed: rows without an answer now. parts: which numbers of the order each part holds.
    """
    database.run(
        "CREATE TABLE finished (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, content INTEGER NOT NULL) WITHOUT ROWID"
    )
    database.run("CREATE TABLE waiting (seq INTEGER PRIMARY KEY, record TEXT NOT NULL)")
    database.run("CREATE TABLE failed (id TEXT PRIMARY KEY, kind TEXT NOT NULL, record TEXT NOT NULL)")
    database.run(
        "CREATE TABLE parts (number INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,"
        " rows INTEGER NOT NULL)"
    )
    database.run(_UNANSWERED)


def _make_version_2(database: Database) -> None:
    """empty: ids of answers without a caption. unscanned: parts of which that is not known. better: answers that came for
    such rows later, with what the replaced one cost once that is known."""
    database.run("CREATE TABLE empty (id TEXT PRIMARY KEY) WITHOUT ROWID")
    database.run("CREATE TABLE unscanned (number INTEGER PRIMARY KEY)")
    database.run(
        "CREATE TABLE better (id TEXT PRIMARY KEY, record TEXT NOT NULL, tokens INTEGER, usd TEXT) WITHOUT ROWID"
    )
    database.run("INSERT INTO unscanned SELECT number FROM parts")
    database.run(
        "INSERT INTO empty SELECT f.id FROM waiting w JOIN finished f ON f.seq = w.seq WHERE json_valid(w.record)"
        " AND trim(coalesce(json_extract(w.record, '$.content'), ''), char(32, 9, 10, 13)) = ''"
        " AND json_extract(w.record, '$.tool_calls') IS NULL AND json_extract(w.record, '$.refusal') IS NULL"
    )


STEPS: tuple[Step, ...] = (_make_version_1, _make_version_2)
SCHEMA_VERSION = len(STEPS)
# Readers open a journal without changing it (`status` beside a run of an older program), so they read older
# versions too. A step after which the queries of `Journal` fail on the version before raises this number.
OLDEST_READABLE_VERSION = 1


def migrate(database: Database, steps: Sequence[Step] = STEPS) -> None:
    """Bring a journal to the newest version; a new file gets all steps. Only for the one writer.

    Raises RunError where the file cannot be changed. A newer version is left alone: `check_version` refuses it.
    """
    for version, step in enumerate(steps, 1):
        if read_version(database) < version:
            with database.changing():
                step(database)
                database.run(f"PRAGMA user_version={version}")
    if read_version(database) >= 1:  # early journals of version 1 lack this table
        with database.changing():
            database.run(_UNANSWERED)


def check_version(database: Database) -> None:
    """Raises RunError: `version` for a journal of a newer program, `journal` for one that is too old or none."""
    version = read_version(database)
    if not OLDEST_READABLE_VERSION <= version <= SCHEMA_VERSION:
        raise RunError(
            f"{database.path}: journal version {version}, this program reads {SCHEMA_VERSION}",
            kind="version" if version > SCHEMA_VERSION else "journal",
        )


def read_version(database: Database) -> int:
    """The schema's version; 0 for a file without a schema. Raises RunError where the file cannot be read."""
    return int(database.query("PRAGMA user_version")[0][0])
