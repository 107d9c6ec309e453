"""What a damaged journal still gives: read around its damaged pages, without any trust in its schema version."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..nouns.rows import Spending
from .unanswered import spending


class Salvaged(NamedTuple):
    """What could be read. waiting: records that are in no part, in their order. failed: (kind, record)."""

    waiting: list[str]
    failed: list[tuple[str, str]]
    unanswered: dict[str, Spending]


def salvage(path: Path) -> Salvaged:
    """Read each table from both ends up to where it is damaged, and what lies between record by record.

    Empty where the file is missing or no database.
    """
    if not path.is_file():
        return Salvaged([], [], {})
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        waiting = _read_waiting(connection)
        failed = _read_failed(connection)
        unanswered = _read_unanswered(connection)
    return Salvaged([waiting[seq] for seq in sorted(waiting)], failed, unanswered)


def _read_waiting(connection: sqlite3.Connection) -> dict[int, str]:
    found: dict[int, str] = {}
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.Error):
            for seq, record in connection.execute(f"SELECT seq, record FROM waiting ORDER BY seq {order}"):  # noqa: S608
                found[seq] = record
    for seq in _gaps(found):
        with contextlib.suppress(sqlite3.Error):
            for (record,) in connection.execute("SELECT record FROM waiting WHERE seq = ?", (seq,)):
                found[seq] = record
    return found


def _gaps(found: Mapping[int, str]) -> list[int]:
    return [seq for seq in range(min(found), max(found)) if seq not in found] if found else []


def _read_failed(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.Error):
            for identity, kind, record in connection.execute(f"SELECT * FROM failed ORDER BY id {order}"):  # noqa: S608
                found[identity] = (kind, record)
    return list(found.values())


def _read_unanswered(connection: sqlite3.Connection) -> dict[str, Spending]:
    found: dict[str, Spending] = {}
    with contextlib.suppress(sqlite3.Error, ArithmeticError):
        for kind, *figures in connection.execute("SELECT * FROM unanswered"):
            found[kind] = spending(*figures)
    return found
