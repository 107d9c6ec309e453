"""Whether a run folder fits together: run.json, journal and parts, each against the others. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..edges import parts
from ..edges.folder import RunFolder
from ..edges.journal import Journal
from ..nouns.errors import RunError, UsageError
from ..nouns.rows import Row


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. rows: answers that it concerns, None where nobody can say."""

    what: str
    rows: int | None = None

    def __str__(self) -> str:
        return self.what if self.rows is None else f"{self.what} ({self.rows:,} answers)"


def check(folder: RunFolder) -> list[Finding]:
    """All that is wrong with a run folder; empty where nothing is. Raises UsageError where it is none."""
    if not (folder.exists or parts.on_disk(folder.results)):
        raise UsageError(
            f"{folder.path}: neither run.json nor a journal nor a part in it, so this is no run folder"
        )
    return [*_check_run(folder), *_check_journal(folder)]


def _check_run(folder: RunFolder) -> Iterator[Finding]:
    try:
        folder.read_run()
    except (RunError, UsageError) as error:
        yield Finding(f"{error}: to which settings the answers belong is not known")


def _check_journal(folder: RunFolder) -> Iterator[Finding]:
    here = parts.on_disk(folder.results)
    try:
        journal = open_whole(folder)
    except RunError as error:
        yield Finding(f"{error}: what is finished is only known from the parts")
        for path in here.values():
            if (problem := unreadable(path)) is not None:
                yield Finding(problem)
        return
    try:
        noted = {part.number: part for part in journal.parts()}
        for number, part in noted.items():
            path = folder.results / parts.part_name(number)
            if number not in here:
                yield Finding(f"{path}: missing, though the journal knows of it", part.rows)
            elif (lost := len(set(journal.ids_of(part)) - readable_ids(folder, number))) > 0:
                yield Finding(
                    unreadable(path) or f"{path}: not all rows that the journal knows of are in it", lost
                )
        unknown = here.keys() - noted.keys()
        for number in sorted(unknown):
            path = here[number]
            ids = readable_ids(folder, number)
            if not ids:
                yield Finding(unreadable(path) or f"{path}: empty")
            elif ids != set(journal.oldest_waiting_ids(len(ids)).values()):  # else the next start notes it
                yield Finding(f"{path}: the journal does not know this part", len(ids))
    finally:
        journal.close()


def open_whole(folder: RunFolder) -> Journal:
    """The journal. Raises RunError where it is missing or damaged anywhere."""
    if not folder.journal.exists():
        raise RunError(f"{folder.journal}: missing", kind="damaged_run")
    journal = Journal(folder.journal)
    try:
        journal.check_whole()
    except RunError:
        journal.close()
        raise
    return journal


def unreadable(path: Path) -> str | None:
    """Why a part cannot be read; None where it can."""
    try:
        parts.read_ids(path)
    except RunError as error:
        return str(error)
    return None


def readable_ids(folder: RunFolder, number: int) -> set[str]:
    """The ids in a part; none where it cannot be read."""
    try:
        return parts.read_ids(folder.results / parts.part_name(number))
    except RunError:
        return set()


def content_hash(record: dict[str, object]) -> int:
    """Of what a record asked, as its row had it."""
    images, prompt = record.get("image"), record.get("prompt")
    return Row("", tuple(images) if isinstance(images, list) else (), (), str(prompt or "")).content_hash
