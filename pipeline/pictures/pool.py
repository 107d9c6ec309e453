"""Pictures prepared in threads, ahead of the requests: Pillow and hashlib release the GIL."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ..nouns.errors import RowError
from ..nouns.image_path import is_remote
from ..nouns.rows import Prepared, Row
from .prepare import Fetched, PicturePreparer
from .remote import RemotePictures

_SHARED_HOP_SECONDS = 0.01
_ROWS_DOWNLOADED_AT_ONCE = 32


class PicturePool:
    """Prepares the pictures of rows in threads.

    remote: downloads the pictures that are URLs; None where there are none. threads: None means one per core.
    """

    def __init__(
        self, preparer: PicturePreparer, remote: RemotePictures | None = None, threads: int | None = None
    ) -> None:
        self._preparer = preparer
        self._remote = remote
        self._threads = threads or max(2, os.cpu_count() or 1)
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="prepare")

    @property
    def calls_at_once(self) -> int:
        """How many concurrent calls of `prepare` keep it busy: one more than threads, or enough for downloads to overlap."""
        return self._threads + 1 if self._remote is None else _ROWS_DOWNLOADED_AT_ONCE

    async def prepare(self, rows: Sequence[Row]) -> list[Prepared]:
        """The first of `rows` with their pictures: as many as take about 10 ms, at least one.

        A hop to a thread and back costs as much as a small picture, so several small ones share one hop. A row
        whose picture cannot be read comes with its RowError.
        """
        loop = asyncio.get_running_loop()
        if self._remote is None:
            return await loop.run_in_executor(self._executor, self._prepare_some, rows, None)
        rows = rows[:1]  # a row waits for its own download only
        fetched = await self._remote.fetch_all([path for path in rows[0].paths if is_remote(path)])
        return await loop.run_in_executor(self._executor, self._prepare_some, rows, fetched)

    def _prepare_some(self, rows: Sequence[Row], fetched: Fetched | None) -> list[Prepared]:
        until = time.monotonic() + _SHARED_HOP_SECONDS
        done: list[Prepared] = []
        for row in rows:
            try:
                done.append((_without_bytes(row), self._preparer.prepare_row(row, _found(row, fetched))))
            except RowError as error:
                done.append((_without_bytes(row), error))
            except MemoryError:
                done.append((row, RowError(f"{row.id}: not enough memory for it", kind="image_too_large")))
            if time.monotonic() > until:
                break
        return done

    def close(self) -> None:
        """Stop the threads without waiting for the picture that one may be preparing."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _found(row: Row, fetched: Fetched | None) -> Fetched | None:
    """What need not be read from files: downloads, and pictures that stand in the manifest."""
    return {**(fetched or {}), **dict(row.embedded)} if row.embedded else fetched


def _without_bytes(row: Row) -> Row:
    """Once the pictures are prepared, the row needs them no more."""
    return replace(row, embedded=()) if row.embedded else row
