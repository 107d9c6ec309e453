"""Journal first, Parquet from it: the order of writes that makes a crash harmless.

    record(outcome)   -> one transaction with whatever else came in meanwhile (group commit);
                         returns when it is durable, so a row that counts as done is done
    every M answers   -> hidden temporary part, fsync, rename, fsync of the folder (parts.write_table),
                         then one transaction: note the part, drop its records
    open              -> remove temporary files, and note the one part that may have got its final
                         name without the note: its records still wait in the journal

Two threads: one owns the journal's connection, one makes parts, so that a commit never waits for a
part. The event loop waits for neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..nouns.errors import RunError
from ..nouns.rows import Spending
from . import parts
from .folder import RunFolder
from .journal import Entry, Journal, Part

LONGEST_WAIT_FOR_PART_SECONDS = 120.0
ACCOUNT_SECONDS = 2.0
GRACE_SECONDS = 60.0  # for somebody to make room on a full disk, or to give back a permission
PAUSE_AFTER_FAILED_PART_SECONDS = 10.0
WAIT_FOR_FIRST_PART_SECONDS = 5.0  # of a start: somebody wants to see whether it works
# an empty part that readers take along, so that the dataset has its columns before it has rows
EMPTY_PART = "schema.parquet"


class Checkpoint:
    """The durable side of one run. Open it with `open_checkpoint`, close it with `close`.

    rows_per_part: answers that make a part; a part is also written five seconds after the start and two
    minutes after the last one.
    """

    def __init__(self, folder: RunFolder, journal: Journal, rows_per_part: int) -> None:
        self._folder = folder
        self._journal = journal
        self._rows_per_part = rows_per_part
        self.grace_seconds = GRACE_SECONDS
        self._journal_thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._parts_thread = ThreadPoolExecutor(1, thread_name_prefix="parts")
        self._pending: list[tuple[Entry, asyncio.Future[None]]] = []
        self._unanswered: dict[str, Spending] = {}
        self.in_flight: Callable[[], Spending] | None = None  # where a budget keeps account of it
        self._committing: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._waiting_rows = journal.waiting_count()
        self._part_due_at = time.monotonic() + WAIT_FOR_FIRST_PART_SECONDS
        self._no_part_before = time.monotonic()

    async def record(self, entry: Entry) -> None:
        """Return when the row is durable. Raises RunError where it could not be made so."""
        committed = asyncio.get_running_loop().create_future()
        self._pending.append((entry, committed))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_groups())
        await committed

    def unanswered(self, kind: str, spending: Spending) -> None:
        """Note an attempt that brought no answer; durable with the next row, or at the end."""
        self._unanswered[kind] = self._unanswered.get(kind, Spending()) + spending

    async def keep_account(self) -> None:
        """Write down now and then what is out, also before the first answer. Until cancelled."""
        while True:
            await asyncio.sleep(ACCOUNT_SECONDS)
            if self._committing is None and (self._unanswered or self.in_flight):
                await self._write_account()

    async def _write_account(self) -> None:
        """Figures: no reason to hold up anything else where the disk is full."""
        in_flight = self.in_flight and self.in_flight()
        unanswered, self._unanswered = self._unanswered, {}
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._journal_thread, self._journal.commit, [], unanswered, in_flight)
        except RunError:
            self._put_back(unanswered)

    def _put_back(self, unanswered: dict[str, Spending]) -> None:
        for kind, spending in unanswered.items():
            self.unanswered(kind, spending)

    async def _commit_groups(self) -> None:
        """One transaction after the other; each takes all that came while the last one was written."""
        loop = asyncio.get_running_loop()
        while self._pending:
            waiting, self._pending = self._pending, []
            group = [entry for entry, _ in waiting]
            try:
                await self._commit(loop, group)
            except BaseException as error:
                reason = error if isinstance(error, RunError) else _unexpected(error)
                if not isinstance(error, RunError):  # nobody will come for those that queued meanwhile
                    waiting, self._pending = [*waiting, *self._pending], []
                for _, committed in waiting:
                    if not committed.done():  # somebody still waits for it
                        committed.set_exception(reason)
                if not isinstance(error, RunError):
                    self._committing = None
                    raise
            else:
                self._waiting_rows += sum(entry.failure_kind is None for entry in group)
                for _, committed in waiting:
                    if not committed.done():
                        committed.set_result(None)
                self._write_part_if_due()
        self._committing = None

    async def _commit(self, loop: asyncio.AbstractEventLoop, group: list[Entry]) -> None:
        """One transaction. On a full disk again for a while: nothing new is sent meanwhile, since every
        worker waits for its row, and the answers that are in memory are paid for."""
        give_up_at = loop.time() + self.grace_seconds
        unanswered, self._unanswered = self._unanswered, {}
        in_flight = self.in_flight and self.in_flight()
        while True:
            try:
                await loop.run_in_executor(
                    self._journal_thread, self._journal.commit, group, unanswered, in_flight
                )
                return
            except RunError as error:
                if not error.facts.may_clear or loop.time() >= give_up_at:
                    self._put_back(unanswered)
                    ids = ", ".join(e.id for e in group[:5]) + (" ..." if len(group) > 5 else "")
                    raise RunError(
                        f"{error}; {len(group)} finished rows could not be saved: {ids}", kind=error.kind
                    ) from error
            await asyncio.sleep(min(1.0, self.grace_seconds))

    # ---- parts

    def _write_part_if_due(self) -> None:
        is_full = self._waiting_rows >= self._rows_per_part
        now = time.monotonic()
        is_late = now > self._part_due_at
        if now < self._no_part_before:
            return
        if (is_full or (is_late and self._waiting_rows)) and self._writing is None:
            self._writing = asyncio.create_task(self._write_parts(self._rows_per_part if is_full else 1))
            self._writing.add_done_callback(self._part_written)

    def _part_written(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        if not task.cancelled() and task.exception() is not None:
            # it comes up again at the next part or at the end, with its message; the journal has the rows
            self._no_part_before = time.monotonic() + PAUSE_AFTER_FAILED_PART_SECONDS

    async def _write_parts(self, at_least_rows: int) -> None:
        """Write parts until fewer than `at_least_rows` answers wait; those that come meanwhile wait on."""
        loop = asyncio.get_running_loop()
        left = self._waiting_rows
        while left >= at_least_rows:
            part = await loop.run_in_executor(self._parts_thread, self._write_part)
            if part is None:
                break
            await loop.run_in_executor(self._journal_thread, self._journal.note_part, part)
            self._waiting_rows -= part.rows
            left -= part.rows
        self._part_due_at = time.monotonic() + LONGEST_WAIT_FOR_PART_SECONDS

    def _write_part(self) -> Part | None:
        """In the parts thread, with a connection of its own: a journal in WAL mode is read beside its writer."""
        reader = Journal(self._folder.journal)
        try:
            waiting = reader.waiting(self._rows_per_part, parts.MOST_TABLE_CHARACTERS)
            number = max((part.number for part in reader.parts()), default=-1) + 1
        finally:
            reader.close()
        if not waiting:
            return None
        path = self._folder.results / parts.part_name(number)
        rows = parts.write_table(path, [record for _, record in waiting])
        return Part(number, waiting[0][0], waiting[-1][0], rows)

    # ---- the end

    async def finish(self) -> None:
        """Put everything that waits into parts and the failed rows into failures.parquet."""
        if self._committing is not None:
            await self._committing
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._unanswered or self.in_flight:
            await self._write_account()
        await self._write_parts(at_least_rows=1)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._parts_thread, self._write_failures)

    def _write_failures(self) -> None:
        reader = Journal(self._folder.journal)
        try:
            parts.write_table(self._folder.failures, reader.failed_records())
        finally:
            reader.close()

    def close(self) -> None:
        self._parts_thread.shutdown(wait=True)
        self._journal_thread.shutdown(wait=True)
        self._journal.close()


def _unexpected(error: BaseException) -> RunError:
    return RunError(f"{type(error).__name__} while saving: {error}", kind="unexpected")


def open_checkpoint(folder: RunFolder, rows_per_part: int) -> Checkpoint:
    """Open or create the journal of a locked folder and clear away what a crash left.

    Raises RunError where the folder does not fit together (a part or the journal is missing), since
    going on would then lose or double paid answers.
    """
    on_disk = parts.on_disk(folder.results)
    if on_disk and not folder.journal.exists():
        raise RunError(
            f"{folder.journal}: missing, but {folder.results} holds {len(on_disk)} parts; without it nobody"
            f" knows what is finished. Put it back, or `captionmill repair {folder.path}`",
            kind="damaged_run",
        )
    parts.remove_temporary(folder.results)
    parts.remove_temporary(folder.path)
    if not (folder.results / EMPTY_PART).exists():
        parts.write_table(folder.results / EMPTY_PART, [])
    journal = Journal(folder.journal, create=True)
    try:
        _reconcile(journal, on_disk)
        journal.settle_killed()
    except BaseException:
        journal.close()
        raise
    return Checkpoint(folder, journal, rows_per_part)


def _reconcile(journal: Journal, on_disk: dict[int, Path]) -> None:
    noted = {part.number: part.rows for part in journal.parts()}
    if missing := sorted(noted.keys() - on_disk.keys()):
        names = ", ".join(parts.part_name(n) for n in missing[:5])
        raise RunError(
            f"{journal.path.parent / 'results'}: {names} missing, though the journal knows of it; put it back,"
            f" or `captionmill repair {journal.path.parent}`",
            kind="damaged_run",
        )
    for number, rows in noted.items():
        if (found := parts.count_rows(on_disk[number])) != rows:
            raise RunError(
                f"{on_disk[number]}: {found} rows, the journal knows of {rows}; put the right file back,"
                f" or `captionmill repair {journal.path.parent}`",
                kind="damaged_part",
            )
    for number in sorted(on_disk.keys() - noted.keys()):
        path = on_disk[number]
        ids = parts.read_ids(path)
        oldest = journal.oldest_waiting_ids(len(ids))
        if not ids or ids != set(oldest.values()):
            raise RunError(
                f"{path}: the journal does not know this part. Was journal.sqlite replaced or emptied? Put the"
                " right one back; going on without it would pay for these rows again",
                kind="damaged_run",
            )
        journal.note_part(Part(number, min(oldest), max(oldest), len(ids)))
