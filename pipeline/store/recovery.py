"""The start of a run on a locked folder: clear away what a crash left, and open the journal only if all fits."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..nouns.errors import RunError
from . import empties, mending, parts, unanswered
from .folder import RunFolder
from .journal import Journal, Part

# an empty part that readers take along, so that the dataset has its columns before it has rows
EMPTY_PART = "schema.parquet"


def open_journal(folder: RunFolder) -> Journal:
    """The journal of a locked folder, for its one writer; made where this is a new run.

    Raises RunError where the folder does not fit together (a part or the journal is missing), since
    going on would then lose answers or pay for them twice.
    """
    on_disk = parts.on_disk(folder.results)
    if on_disk and not folder.journal.exists():
        raise RunError(
            f"{folder.journal}: missing, but {folder.results} holds {len(on_disk)} parts; without it nothing says"
            f" which rows are finished. Put it back, or run `captionmill repair {folder.path}`",
            kind="damaged_run",
        )
    parts.remove_temporary(folder.results)
    parts.remove_temporary(folder.path)
    _bring_up_to_date(folder, on_disk)
    journal = Journal(folder.journal, create=True)
    with contextlib.ExitStack() as undo:
        undo.callback(journal.close)
        _check_noted_parts(journal, on_disk)
        _note_part_of_a_crash(journal, on_disk)
        unanswered.settle_killed(journal.database)
        empties.bring_up_to_date(folder.results, journal.database)
        undo.pop_all()
    return journal


def _bring_up_to_date(folder: RunFolder, on_disk: dict[int, Path]) -> None:
    """Give the parts of a run of an earlier version the columns of this one, once: the empty part comes last.

    A reader of the whole folder takes the columns of its first file for those of all.
    """
    empty = folder.results / EMPTY_PART
    if empty.exists() and parts.has_columns(empty, folder.label_columns):
        return
    for path in on_disk.values():
        parts.count_rows(path)  # what is damaged or much older is for `repair`
        if not parts.is_up_to_date(path):
            parts.bring_up_to_date(path)
    parts.write_table(empty, [], folder.label_columns)


def _check_noted_parts(journal: Journal, on_disk: dict[int, Path]) -> None:
    """Raises RunError where a part that the journal knows is missing or has another number of rows."""
    noted = {part.number: part.rows for part in journal.parts()}
    run = journal.path.parent
    if missing := sorted(noted.keys() - on_disk.keys()):
        names = ", ".join(parts.part_name(n) for n in missing[:5])
        raise RunError(
            f"{run / 'results'}: {names} missing, though the journal knows of it; put it back,"
            f" or run `captionmill repair {run}`",
            kind="damaged_run",
        )
    for number, rows in noted.items():
        if (found := parts.count_rows(on_disk[number])) != rows:
            raise RunError(
                f"{on_disk[number]}: {found} rows, the journal knows of {rows}; put the right file back,"
                f" or run `captionmill repair {run}`",
                kind="damaged_part",
            )


def _note_part_of_a_crash(journal: Journal, on_disk: dict[int, Path]) -> None:
    """Note the one part that may have got its final name before the crash: its records still wait in the journal.

    Raises RunError for any other part that the journal does not know.
    """
    noted = {part.number for part in journal.parts()}
    for number in sorted(on_disk.keys() - noted):
        path = on_disk[number]
        ids = parts.read_ids(path)
        oldest = mending.oldest_waiting_ids(journal, len(ids))
        if not ids or ids != set(oldest.values()):
            raise RunError(
                f"{path}: the journal does not know this part. Was journal.sqlite replaced or emptied? Put the"
                " right one back; going on without it would pay for these rows again",
                kind="damaged_run",
            )
        journal.note_part(Part(number, min(oldest), max(oldest), len(ids)))
