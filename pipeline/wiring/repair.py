"""A damaged run folder -> one that goes on: what is there is kept, only what is really lost is asked again.

Nothing is deleted: what does not fit is moved to RUN/damaged/. Journal whole: each part is held against
it, and rows of a part that is gone are forgotten, so that they are asked again. Journal damaged: a new one
is made from the parts, with the answers and failures that can still be read from the old one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..edges import parts
from ..edges.folder import RunFolder
from ..edges.journal import Entry, Journal, salvage
from ..nouns.errors import RunError, UsageError
from .checkup import check, content_hash, open_whole, readable_ids


@dataclass(slots=True)
class Repaired:
    """kept: answers that are there afterwards. lost: of which the journal knew, and that are asked again."""

    kept: int = 0
    lost: int = 0
    settings_lost: bool = False


def repair(folder: RunFolder, tell: Callable[[str], None]) -> Repaired:
    """Mend what `check` finds. Raises UsageError where this is no run folder, RunError where it is in use."""
    check(folder)
    folder.lock()
    try:
        parts.remove_temporary(folder.results)
        done = Repaired()
        journal = _journal(folder, tell)
        try:
            _mend_noted(folder, journal, done, tell)
            _mend_unknown(folder, journal, tell)
            done.kept = journal.counts()[0]
        finally:
            journal.close()
        done.settings_lost = _mend_run(folder, done.kept, tell)
        return done
    finally:
        folder.unlock()


def _set_aside(folder: RunFolder, path: Path, tell: Callable[[str], None]) -> None:
    """Out of the way, under a name that nothing has."""
    damaged = folder.path / "damaged"
    damaged.mkdir(exist_ok=True)
    target, number = damaged / path.name, 1
    while target.exists():
        number += 1
        target = damaged / f"{path.name}.{number}"
    path.rename(target)
    tell(f"{path} moved to {target}")


# ------------------------------------------------------------------------------- the journal


def _journal(folder: RunFolder, tell: Callable[[str], None]) -> Journal:
    """The one that is there, or a new one with what can be read from it."""
    try:
        open_whole(folder).close()
    except RunError:
        waiting, failed = salvage(folder.journal)
        for path in (
            folder.journal,
            *(folder.journal.with_name(f"journal.sqlite-{end}") for end in ("wal", "shm")),
        ):
            if path.exists():
                _set_aside(folder, path, tell)
        journal = Journal(folder.journal, create=True)
        _adopt_parts(folder, journal, tell)
        _adopt_records(journal, waiting, failed)
        tell(f"{folder.journal} made anew from the parts and {len(waiting):,} answers of the old one")
        return journal
    return Journal(folder.journal, create=True)


def _adopt_parts(folder: RunFolder, journal: Journal, tell: Callable[[str], None]) -> None:
    for number, path in sorted(parts.on_disk(folder.results).items()):
        try:
            rows = parts.read_rows(path, ("id", "image", "prompt"))
        except RunError:
            _set_aside(folder, path, tell)
            continue
        ids = {str(row["id"]): content_hash(row) for row in rows}
        if len(ids) != len(rows) or journal.finished(list(ids)):
            _set_aside(folder, path, tell)  # a copy of rows that another part has
        else:
            journal.adopt(number, ids)


def _adopt_records(journal: Journal, waiting: list[str], failed: list[tuple[str, str]]) -> None:
    entries = []
    for record in waiting:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(record)
            entries.append(Entry(row["id"], None, record, content_hash(row)))
    known = journal.finished([entry.id for entry in entries])
    journal.commit(entry for entry in entries if entry.id not in known)
    for kind, record in failed:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            identity = json.loads(record)["id"]
            if not journal.finished([identity]):
                journal.commit([Entry(identity, kind, record)])


# ------------------------------------------------------------------------------- the parts


def _mend_noted(folder: RunFolder, journal: Journal, done: Repaired, tell: Callable[[str], None]) -> None:
    for part in journal.parts():
        expected, there = set(journal.ids_of(part)), readable_ids(folder, part.number)
        if there == expected:
            continue
        path = folder.results / parts.part_name(part.number)
        kept = there if there <= expected else set()
        if not kept and path.exists():
            _set_aside(folder, path, tell)
        journal.forget(part, expected - kept, len(kept))
        done.lost += len(expected - kept)
        tell(f"{path}: {len(expected - kept):,} answers are lost and will be asked again")


def _mend_unknown(folder: RunFolder, journal: Journal, tell: Callable[[str], None]) -> None:
    noted = {part.number for part in journal.parts()}
    for number, path in sorted(parts.on_disk(folder.results).items()):
        if number in noted:
            continue
        ids = readable_ids(folder, number)
        if ids and ids == set(journal.oldest_waiting_ids(len(ids)).values()):
            continue  # a crash between name and note: the next start notes it
        if not ids or journal.finished(list(ids)):
            _set_aside(folder, path, tell)
            continue
        rows = parts.read_rows(path, ("id", "image", "prompt"))
        journal.adopt(number, {str(row["id"]): content_hash(row) for row in rows})
        tell(f"{path}: {len(rows):,} answers taken in")


# ------------------------------------------------------------------------------- run.json


def _mend_run(folder: RunFolder, rows: int, tell: Callable[[str], None]) -> bool:
    """True where it had to be made anew: the next start says with which settings it goes on."""
    try:
        folder.write_run(folder.read_run() | {"rows_left": None})  # the next start counts for itself
    except (RunError, UsageError):
        if folder.run_json.exists():
            _set_aside(folder, folder.run_json, tell)
        folder.write_run({"source": "", "rows": rows, "answer_settings": {}, "settings_lost": True})
        return True
    return False
