"""A damaged run folder -> one that goes on: what is there is kept, only what is really lost is asked again.

Nothing is deleted: what does not fit is moved to RUN/damaged/. Journal whole: a part that does not hold what
it should is forgotten, and taken in again with what it does hold. Journal damaged: a new one is made from the
parts, with the answers and failures that can still be read from the old one; it takes the old one's place
when it is complete, so a repair that is killed is begun again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from ..accounts.spent import spent_before
from ..nouns.errors import RunError, UsageError
from ..nouns.rows import Spending
from ..rules.prices import PriceBook
from ..store import parts
from ..store.check import check, damage, open_whole
from ..store.folder import RunFolder
from ..store.journal import Entry, Journal, salvage


@dataclass(slots=True)
class Repaired:
    """kept: answers that are there afterwards. lost: of which the journal knew, and that are asked again."""

    kept: int = 0
    lost: int = 0
    settings_lost: bool = False


def repair(folder: RunFolder, tell: Callable[[str], None]) -> Repaired:
    """Mend what `check` finds.

    Raises UsageError where this is no run folder, RunError where it is in use or cannot be changed.
    """
    try:
        check(folder)
        folder.lock()
        try:
            return _mend(folder, tell)
        finally:
            folder.unlock()
    except OSError as error:
        raise RunError(f"{error.filename or folder.path}: {error.strerror}", kind="disk") from error


def _mend(folder: RunFolder, tell: Callable[[str], None]) -> Repaired:
    parts.remove_temporary(folder.results)
    _bring_up_to_date(folder, tell)
    _mend_journal(folder, tell)
    journal = Journal(folder.journal, create=True)
    try:
        forgotten = _forget_parts(folder, journal, tell)
        _take_in_parts(folder, journal, tell)
        lost = len(forgotten) - len(journal.finished(forgotten))
        kept = journal.counts()[0]
        _account_for(lost, folder, journal)
    finally:
        journal.close()
    return Repaired(kept, lost, settings_lost=_mend_run(folder, kept, tell))


def _account_for(lost: int, folder: RunFolder, journal: Journal) -> None:
    """Answers that are lost were paid for: a budget counts them at the average of what is there."""
    spent = spent_before(folder, PriceBook(), {})
    if lost and spent.requests:
        usd = None if spent.usd is None else (spent.usd * lost / spent.requests).quantize(Decimal("1e-9"))
        journal.commit([], {"lost": Spending(lost, spent.tokens * lost // spent.requests, usd)})


def _set_aside(folder: RunFolder, path: Path, tell: Callable[[str], None]) -> None:
    """Out of the way, under a name that nothing has."""
    aside = folder.path / "damaged"
    aside.mkdir(exist_ok=True)
    target, number = aside / path.name, 1
    while target.exists():
        number += 1
        target = aside / f"{path.name}.{number}"
    path.rename(target)
    tell(f"{path} moved to {target}")


# ------------------------------------------------------------------------------- the journal


def _mend_journal(folder: RunFolder, tell: Callable[[str], None]) -> None:
    """In the place of a damaged one put a new one with all that can be read."""
    new, ready = folder.path / ".journal.new", folder.path / ".journal.ready"
    if not ready.exists():
        try:
            open_whole(folder).close()
            return
        except RunError as error:
            if error.facts.concerns != "folder":
                raise
        for stale in folder.path.glob(".journal.new*"):
            stale.unlink()
        found = salvage(folder.journal)
        journal = Journal(new, create=True)
        try:
            _take_in_parts(RunFolder(folder.path), journal, tell)
            _take_in_records(journal, found.waiting, found.failed)
            journal.commit([], found.unanswered)
        finally:
            journal.close()
        tell(f"{folder.journal} made anew from the parts and {len(found.waiting):,} answers of the old one")
        new.rename(ready)
    for end in ("-wal", "-shm", ""):
        old = folder.journal.with_name(f"{folder.journal.name}{end}")
        if old.exists():
            _set_aside(folder, old, tell)
    ready.rename(folder.journal)


def _take_in_records(journal: Journal, waiting: list[str], failed: list[tuple[str, str]]) -> None:
    """Answers that were in no part, and failures, that nothing newer has replaced."""
    for kind, record in [*((None, record) for record in waiting), *failed]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(record)
            if not journal.finished([row["id"]]):
                content = parts.content_hash(row["image"], row["prompt"])
                journal.commit([Entry(row["id"], kind, record, content)])


# ------------------------------------------------------------------------------- the parts


def _forget_parts(folder: RunFolder, journal: Journal, tell: Callable[[str], None]) -> list[str]:
    """Drop the notes of parts that do not hold what they should; the ids that were in them."""
    forgotten: list[str] = []
    for part in journal.parts():
        path, ids = folder.results / parts.part_name(part.number), journal.ids_of(part)
        if path.exists() and damage(path) is None and set(parts.read_part(path)) == set(ids):
            continue
        journal.forget(part, ids)
        forgotten += ids
        tell(f"{path}: does not hold the {len(ids):,} answers that it should")
    return forgotten


def _bring_up_to_date(folder: RunFolder, tell: Callable[[str], None]) -> None:
    """Parts of an older version get the columns of this one: their answers are whole."""
    for path in parts.on_disk(folder.results).values():
        try:
            parts.count_rows(path)
        except RunError as error:
            if error.facts.is_upgradable:
                parts.bring_up_to_date(path)
                tell(f"{path} brought up to date")


def _take_in_parts(folder: RunFolder, journal: Journal, tell: Callable[[str], None]) -> None:
    """Note every part that holds answers which nothing else holds; set the others aside."""
    noted = {part.number for part in journal.parts()}
    for number, path in sorted(parts.on_disk(folder.results).items()):
        if number in noted:
            continue
        contents = {} if damage(path) is not None else parts.read_part(path)
        waiting = journal.waiting_among(list(contents))
        if contents and set(contents) == set(journal.oldest_waiting_ids(len(contents)).values()):
            continue  # a crash between name and note: the next start notes it
        if not contents or len(journal.finished(list(contents))) > len(waiting):
            _set_aside(folder, path, tell)  # unreadable, or rows that another part has too
        else:
            journal.adopt(number, contents, waiting)


# ------------------------------------------------------------------------------- run.json


def _mend_run(folder: RunFolder, rows: int, tell: Callable[[str], None]) -> bool:
    """True where it had to be made anew: the next start says with which settings it goes on."""
    try:
        folder.write_run(folder.read_run() | {"rows_left": None})  # the next start counts for itself
    except (RunError, UsageError) as error:
        if isinstance(error, RunError) and error.facts.concerns != "folder":
            raise
        if folder.run_json.exists():
            _set_aside(folder, folder.run_json, tell)
        folder.write_run({"source": "", "rows": rows, "answer_settings": {}, "settings_lost": True})
        return True
    return False
