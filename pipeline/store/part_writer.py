"""Parts of the dataset from the answers that wait in the journal, in a thread beside the one that commits.

hidden temporary file, fsync, rename, fsync of the folder (`parts.write_table`), and only then one transaction
that notes the part and drops its records: a crash in between leaves a whole part whose records still wait.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from . import parts
from .folder import RunFolder
from .journal import Journal, Part
from .journal_writer import JournalWriter

FIRST_PART_SECONDS = 5.0  # after the start: a user wants to see early whether the answers are any good
LONGEST_WAIT_SECONDS = 120.0  # after the last part: how long an answer waits for its part at the most
PAUSE_AFTER_FAILURE_SECONDS = 10.0


class PartWriter:
    """Decides when a part is due, and writes it.

    rows_per_part: answers that make a part; a part is also due `FIRST_PART_SECONDS` after the start and
    `LONGEST_WAIT_SECONDS` after the last one. Times are of `time.monotonic`.
    """

    def __init__(self, folder: RunFolder, writer: JournalWriter, rows_per_part: int) -> None:
        self._folder = folder
        self._writer = writer
        self._rows_per_part = rows_per_part
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parts")
        # answers in the journal that are in no part; up with each commit (`add`), down with each noted part
        self._waiting_rows = writer.journal.counts().waiting
        self._due_at = time.monotonic() + FIRST_PART_SECONDS  # seconds; moved on by each part
        self._not_before = time.monotonic()  # seconds; moved on by a part that failed
        self._writing: asyncio.Task[None] | None = None  # set while parts are being written, by `add`

    def add(self, answers: int) -> None:
        """So many more answers are durable in the journal. Begins to write a part if one is due."""
        self._waiting_rows += answers
        now = time.monotonic()
        is_full = self._waiting_rows >= self._rows_per_part
        is_late = self._waiting_rows > 0 and now > self._due_at
        if self._writing is None and (is_full or is_late) and now >= self._not_before:
            self._writing = asyncio.create_task(self.write(self._rows_per_part if is_full else 1))
            self._writing.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        if not task.cancelled() and task.exception() is not None:
            # the journal has the rows; the error comes up, with its message, at the end if it is still true
            self._not_before = time.monotonic() + PAUSE_AFTER_FAILURE_SECONDS

    async def idle(self) -> None:
        """Return when no part is being written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def write(self, at_least_rows: int) -> None:
        """Write parts until fewer than `at_least_rows` answers wait, not counting those that come meanwhile.

        Raises RunError where a part cannot be written; its answers then stay in the journal.
        """
        loop = asyncio.get_running_loop()
        left = self._waiting_rows
        while left >= at_least_rows:
            part = await loop.run_in_executor(self._thread, self._write_part)
            if part is None:  # answers that wait to take the place of empty ones were counted too
                self._waiting_rows -= left
                break
            await self._writer.note_part(part)
            self._waiting_rows -= part.rows
            left -= part.rows
        self._due_at = time.monotonic() + LONGEST_WAIT_SECONDS

    def _write_part(self) -> Part | None:
        """In the thread, with a connection of its own: a journal in WAL mode is read beside its writer."""
        reader = Journal(self._folder.journal)
        try:
            waiting = reader.waiting(self._rows_per_part, parts.MOST_TABLE_CHARACTERS)
            number = max((part.number for part in reader.parts()), default=-1) + 1
        finally:
            reader.close()
        if not waiting:
            return None
        path = self._folder.results / parts.part_name(number)
        rows = parts.write_table(path, [record for _, record in waiting], self._folder.label_columns)
        return Part(number, waiting[0][0], waiting[-1][0], rows)

    async def write_failures(self) -> None:
        """Replace failures.parquet by the rows that have no answer now. Raises RunError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write_failures)

    def _write_failures(self) -> None:
        reader = Journal(self._folder.journal)
        try:
            parts.write_table(self._folder.failures, reader.failed_records(), self._folder.label_columns)
        finally:
            reader.close()

    def close(self) -> None:
        """Finish the part that was begun."""
        self._thread.shutdown(wait=True)
