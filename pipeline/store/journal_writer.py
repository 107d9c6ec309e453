"""The journal's one writing connection and the one thread that uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..nouns.rows import Spending
from . import empties, mending
from .journal import Entry, Journal, Part


class JournalWriter:
    """Writes to the journal in a thread of its own, so that the event loop never waits for the disk."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    async def commit(
        self, entries: Sequence[Entry], lost: Mapping[str, Spending], in_flight: Spending | None
    ) -> None:
        """As `Journal.commit`. Raises RunError."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self.journal.commit, entries, lost, in_flight)

    async def note_part(self, part: Part) -> None:
        """As `Journal.note_part`. Raises RunError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.journal.note_part, part)

    async def unfinish(self, ids: list[str]) -> None:
        """As `mending.unfinish`. Raises RunError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, mending.unfinish, self.journal, ids)

    async def put_into_parts(self, results: Path) -> None:
        """As `empties.put_into_parts`, after the parts were written. Raises RunError."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, empties.put_into_parts, results, self.journal.database)

    def close(self) -> None:
        """Finish what was begun, then close the file."""
        self._thread.shutdown(wait=True)
        self.journal.close()
