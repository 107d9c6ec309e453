"""A damaged run folder -> one that can be resumed: every readable answer is kept, only lost rows are asked again.

Nothing is deleted: files that do not fit are moved to RUN/damaged/. Where the journal is whole, a part that does
not hold the expected rows is dropped from it and then adopted with the rows that it does hold. Where the journal is
damaged, a new one is made from the parts and from the answers and failures that can still be read from the old one.
It replaces the old one only when it is complete, so a repair that was killed can be started again.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from ..accounts.spent import spent_before
from ..nouns.console import Console
from ..nouns.errors import RunError, UsageError
from ..nouns.rows import Spending
from ..rules.prices import PriceBook
from ..store import mending, parts
from ..store.check import check, damage, open_whole
from ..store.folder import RunFolder
from ..store.journal import Entry, Journal
from ..store.salvage import salvage


@dataclass(slots=True)
class Repaired:
    """kept: answers that are in the folder now. lost: answers that the journal knew and that are asked again.

    settings_lost: run.json had to be made anew, without source and settings.
    """

    kept: int = 0
    lost: int = 0
    settings_lost: bool = False


def repair(folder: RunFolder, console: Console) -> Repaired:
    """Mend what `check` finds. console: gets one line for each change.

    Raises UsageError where this is no run folder, RunError where it is in use or cannot be changed.
    """
    try:
        check(folder)
        folder.lock()
        try:
            return _mend(folder, console)
        finally:
            folder.unlock()
    except OSError as error:
        raise RunError(f"{error.filename or folder.path}: {error.strerror}", kind="disk") from error


def _mend(folder: RunFolder, console: Console) -> Repaired:
    parts.remove_temporary(folder.results)
    _bring_up_to_date(folder, console)
    _mend_journal(folder, console)
    journal = Journal(folder.journal, create=True)
    try:
        forgotten = _forget_parts(folder, journal, console)
        _adopt_parts(folder, journal, console)
        lost = len(forgotten) - len(journal.finished(forgotten))
        kept = journal.counts().answered
        _account_for(lost, folder, journal)
    finally:
        journal.close()
    return Repaired(kept, lost, settings_lost=_mend_run(folder, kept, console))


def _account_for(lost: int, folder: RunFolder, journal: Journal) -> None:
    """Count lost answers as spent, at the average of the answers that are left: they were paid for."""
    spent = spent_before(folder, PriceBook(), {})
    if lost and spent.requests:
        usd = None if spent.usd is None else (spent.usd * lost / spent.requests).quantize(Decimal("1e-9"))
        journal.commit([], {"lost": Spending(lost, spent.tokens * lost // spent.requests, usd)})


def _move_aside(folder: RunFolder, path: Path, console: Console) -> None:
    """Move a file to RUN/damaged/, under a name that is free there."""
    aside = folder.path / "damaged"
    aside.mkdir(exist_ok=True)
    target, number = aside / path.name, 1
    while target.exists():
        number += 1
        target = aside / f"{path.name}.{number}"
    path.rename(target)
    console.tell(f"{path} moved to {target}")


# ------------------------------------------------------------------------------- the journal


def _mend_journal(folder: RunFolder, console: Console) -> None:
    """Replace a damaged journal by a new one with everything that can be read."""
    new, ready = folder.path / ".journal.new", folder.path / ".journal.ready"
    if not ready.exists():
        try:
            open_whole(folder).close()
            return
        except RunError as error:
            if error.facts.concerns != "folder":
                raise
        _make_journal(folder, new, console)
        new.rename(ready)
    for end in ("-wal", "-shm", ""):
        old = folder.journal.with_name(f"{folder.journal.name}{end}")
        if old.exists():
            _move_aside(folder, old, console)
    ready.rename(folder.journal)


def _make_journal(folder: RunFolder, path: Path, console: Console) -> None:
    """A journal at `path` from the parts, and from the old journal what can still be read of it."""
    for stale in folder.path.glob(f"{path.name}*"):
        stale.unlink()
    found = salvage(folder.journal)
    journal = Journal(path, create=True)
    try:
        _adopt_parts(RunFolder(folder.path), journal, console)
        _take_in_records(journal, found.waiting, found.failed)
        journal.commit([], found.unanswered)
    finally:
        journal.close()
    console.tell(
        f"{folder.journal}: made anew from the parts and from {len(found.waiting):,} answers of the old one"
    )


def _take_in_records(journal: Journal, waiting: list[str], failed: list[tuple[str, str]]) -> None:
    """Record answers that were in no part, and failures, unless the row has an answer already."""
    for kind, record in [*((None, record) for record in waiting), *failed]:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(record)
            if not journal.finished([row["id"]]):
                content = parts.content_hash(row["image"], row["prompt"])
                journal.commit([Entry(row["id"], kind, record, content)])


# ------------------------------------------------------------------------------- the parts


def _forget_parts(folder: RunFolder, journal: Journal, console: Console) -> list[str]:
    """Drop parts that do not hold the expected rows from the journal. Returns the ids that were noted for them."""
    forgotten: list[str] = []
    for part in journal.parts():
        path, ids = folder.results / parts.part_name(part.number), mending.ids_of(journal, part)
        if path.exists() and damage(path) is None and set(parts.read_part(path)) == set(ids):
            continue
        mending.forget(journal, part, ids)
        forgotten += ids
        console.tell(f"{path}: does not hold the {len(ids):,} answers that the journal expects in it")
    return forgotten


def _bring_up_to_date(folder: RunFolder, console: Console) -> None:
    """Give parts of an older version the columns of this one; their answers are whole."""
    for path in parts.on_disk(folder.results).values():
        try:
            parts.count_rows(path)
        except RunError as error:
            if not error.facts.is_upgradable:
                continue
        if not parts.is_up_to_date(path):
            parts.bring_up_to_date(path)
            console.tell(f"{path} brought up to date")


def _adopt_parts(folder: RunFolder, journal: Journal, console: Console) -> None:
    """Note every part whose answers are in no other part; move the others aside."""
    noted = {part.number for part in journal.parts()}
    for number, path in sorted(parts.on_disk(folder.results).items()):
        if number in noted:
            continue
        contents = {} if damage(path) is not None else parts.read_part(path)
        waiting = mending.waiting_among(journal, list(contents))
        if contents and set(contents) == set(mending.oldest_waiting_ids(journal, len(contents)).values()):
            continue  # a crash between name and note: the next start notes it
        if not contents or len(journal.finished(list(contents))) > len(waiting):
            _move_aside(folder, path, console)  # unreadable, or rows that another part has too
        else:
            mending.adopt(journal, number, contents, waiting)


# ------------------------------------------------------------------------------- run.json


def _mend_run(folder: RunFolder, rows: int, console: Console) -> bool:
    """True where run.json had to be made anew; the next start then takes its own source and settings for it."""
    try:
        folder.write_run(folder.read_run() | {"rows_left": None})  # the next start counts for itself
    except (RunError, UsageError) as error:
        if isinstance(error, RunError) and error.facts.concerns != "folder":
            raise
        if folder.run_json.exists():
            _move_aside(folder, folder.run_json, console)
        folder.write_run({"source": "", "rows": rows, "answer_settings": {}, "settings_lost": True})
        return True
    return False
