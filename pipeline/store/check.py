"""Whether a run folder fits together: run.json, journal and parts, each against the others. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..nouns.errors import RunError, UsageError
from . import mending, parts
from .folder import RunFolder
from .journal import Journal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. rows: answers that it concerns, None where that is unknown."""

    what: str
    rows: int | None = None

    def __str__(self) -> str:
        return self.what if self.rows is None else f"{self.what} ({self.rows:,} answers)"


def check(folder: RunFolder) -> list[Finding]:
    """All that is wrong with a run folder; empty where nothing is.

    Raises UsageError where it is none, RunError where it cannot be looked at.
    """
    if not (folder.exists or parts.on_disk(folder.results)):
        raise UsageError(
            f"{folder.path}: neither run.json nor a journal nor a part in it, so this is no run folder"
        )
    return [*_check_run(folder), *_check_journal(folder)]


def _check_run(folder: RunFolder) -> Iterator[Finding]:
    try:
        folder.read_run()
    except (RunError, UsageError) as error:
        _pass_on(error)
        yield Finding(f"{error}: cannot tell which settings produced these answers")


def _check_journal(folder: RunFolder) -> Iterator[Finding]:
    before = parts.on_disk(folder.results)
    try:
        journal = open_whole(folder)
    except RunError as error:
        _pass_on(error)
        yield Finding(f"{error}: only the parts tell which rows are finished")
        for path in before.values():
            if (problem := damage(path)) is not None:
                yield Finding(problem)
        return
    try:
        yield from _check_parts(folder, journal, before)
    finally:
        journal.close()


def _check_parts(folder: RunFolder, journal: Journal, before: dict[int, Path]) -> Iterator[Finding]:
    """Each part against the journal. before: the parts on disk before the journal was read."""
    noted = {part.number: part for part in journal.parts()}
    expected = {number: set(mending.ids_of(journal, part)) for number, part in noted.items()}
    now = parts.on_disk(folder.results)  # a run may be going on: what was noted meanwhile is there by now
    for number, part in noted.items():
        path = folder.results / parts.part_name(number)
        if number not in now:
            yield Finding(f"{path}: missing, though the journal knows of it", part.rows)
        elif (problem := damage(path)) is not None:
            yield Finding(problem, part.rows)
        elif (ids := set(parts.read_part(path))) != expected[number]:
            lost = len(expected[number] - ids) or None
            yield Finding(f"{path}: its rows are not those that the journal knows of", lost)
    for number in sorted(before.keys() - noted.keys()):
        if (finding := _check_unknown(before[number], journal)) is not None:
            yield finding


def _check_unknown(path: Path, journal: Journal) -> Finding | None:
    """A part without a note; None for one that a crash left between name and note: the next start notes it."""
    if (problem := damage(path)) is not None:
        return Finding(problem)
    ids = set(parts.read_part(path))
    if ids and ids == set(mending.oldest_waiting_ids(journal, len(ids)).values()):
        return None
    return Finding(f"{path}: the journal does not know this part", len(ids))


def open_whole(folder: RunFolder) -> Journal:
    """The journal. Raises RunError where it is missing or damaged anywhere."""
    if not folder.journal.exists():
        raise RunError(f"{folder.journal}: missing", kind="damaged_run")
    journal = Journal(folder.journal)
    try:
        mending.check_whole(journal)
    except RunError:
        journal.close()
        raise
    return journal


def damage(path: Path) -> str | None:
    """What is wrong with a part itself; None where it is whole. Raises RunError where it cannot be looked at."""
    try:
        parts.read_part(path)
    except RunError as error:
        _pass_on(error)
        return str(error)
    return None


def _pass_on(error: RunError | UsageError) -> None:
    if isinstance(error, RunError) and error.facts.concerns != "folder":
        raise error
