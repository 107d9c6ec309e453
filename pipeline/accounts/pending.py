"""The rows that a start would ask, with the headers of their pictures: read as a run reads them, sent nowhere."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from ..nouns.config import RunConfig
from ..nouns.errors import RowError
from ..nouns.image_path import is_remote
from ..nouns.rows import Row
from ..pictures.measure import Measured, measure
from ..sources.manifest import Manifest
from ..store.folder import RunFolder
from ..store.journal import Journal

_ROWS_A_BATCH = 256

Looked = list[tuple[Row, "tuple[Measured, ...] | RowError | None"]]  # None: by URL, not looked at


class PendingRows:
    """The rows that a start would ask, in order. finished, failed: those that it would not, after `rows`."""

    def __init__(
        self, manifest: Manifest, folder: RunFolder | None, retry_failed: frozenset[str] | None
    ) -> None:
        self._manifest = manifest
        self._folder = folder
        self._retry_failed = retry_failed
        self.finished = self.failed = 0

    def rows(self) -> Iterator[list[Row]]:
        """Some hundred at a time; a batch may be empty."""
        rows = self._manifest.rows()
        journal = None if self._folder is None else Journal(self._folder.journal)
        self.finished = self.failed = 0
        try:
            while batch := list(islice(rows, _ROWS_A_BATCH)):
                yield batch if journal is None else self._without_done(batch, journal)
        finally:
            if journal is not None:
                journal.close()

    def _without_done(self, batch: list[Row], journal: Journal) -> list[Row]:
        ids = [row.id for row in batch]
        finished, failed = journal.finished(ids), journal.failed(ids)
        again = self._retry_failed
        if again is not None:
            failed = {identity: kind for identity, kind in failed.items() if again and kind not in again}
        self.finished += len(finished)
        self.failed += len(failed)
        return [row for row in batch if row.id not in finished and row.id not in failed]


def look(left: PendingRows, count: int, config: RunConfig, sample: int | None) -> Iterator[Looked]:
    """The rows that are left, or an even sample of them, with the headers of their pictures."""
    wanted = min(sample or count, count)
    at = 0
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="measure") as threads:
        under_way: deque[Future[Looked]] = deque()
        for batch in left.rows():
            # evenly spread, and exactly so many
            chosen = [
                row for n, row in enumerate(batch, at) if (n + 1) * wanted // count > n * wanted // count
            ]
            at += len(batch)
            under_way.append(threads.submit(_measure_rows, chosen, config))
            if len(under_way) > 2 * (os.cpu_count() or 1):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _measure_rows(rows: list[Row], config: RunConfig) -> Looked:
    looked: Looked = []
    for row in rows:
        if any(map(is_remote, row.paths)):
            looked.append((row, None))
            continue
        try:
            looked.append((row, tuple(measure(path, config.frame) for path in row.paths)))
        except RowError as error:
            looked.append((row, error))
    return looked
