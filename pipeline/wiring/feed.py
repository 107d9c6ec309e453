"""The rows of one start: read from the source and looked up in the journal, in a thread, as fast as they are needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..nouns.errors import RunError, UsageError
from ..nouns.rows import Row, Tally
from ..sources.manifest import Manifest, Survey
from ..store.journal import Journal
from ..store.pending import PendingRows


@dataclass(frozen=True, slots=True)
class Feed:
    """Where rows come from.

    survey: of the manifest. journal: its path. retry_failed: as of `PendingRows`. most_rows: yield only so many
    pending rows; None for all. is_all_done: the last start left no row, so no row is looked up. tally: gets the
    counts of finished and changed rows while the rows are read.
    """

    manifest: Manifest
    survey: Survey
    journal: Path
    retry_failed: frozenset[str] | None
    most_rows: int | None
    is_all_done: bool
    tally: Tally

    async def batches(self) -> AsyncGenerator[list[Row]]:
        """The pending rows in order, some hundred at a time, no batch empty.

        Raises RunError where the manifest changed since it was surveyed, or the journal cannot be read.
        """
        if self.is_all_done:
            self.tally.done_before = self.survey.total
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        journal = Journal(self.journal)
        pending = PendingRows(_rows(self.manifest), journal, self.retry_failed)
        batches = pending.batches()
        room = self.most_rows
        try:
            while room is None or room > 0:
                batch = await asyncio.get_running_loop().run_in_executor(thread, next, batches, None)
                if batch is None:
                    return
                self._count(pending)
                if room is not None:
                    batch = batch[:room]
                    room -= len(batch)
                if batch:
                    yield batch
        finally:
            thread.shutdown(wait=True)  # a lookup may still be under way when we are cancelled
            journal.close()

    def _count(self, pending: PendingRows) -> None:
        self.tally.done_before = pending.finished + pending.failed
        self.tally.changed = pending.changed
        self.tally.changed_examples = pending.changed_examples


def _rows(manifest: Manifest) -> Iterator[Row]:
    try:
        yield from manifest.rows()
    except UsageError as error:  # it was whole when it was surveyed
        raise RunError(f"{error} (the manifest changed during the run)", kind="manifest") from error
