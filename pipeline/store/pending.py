"""The rows that a start would ask: those of the source without the finished and the failed ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ..nouns.rows import Row
from . import empties
from .journal import Journal

_ROWS_A_BATCH = 256  # looked up in the journal with one query
_BYTES_A_BATCH = 32 * 2**20  # of pictures that stand in the manifest
EXAMPLES = 5


class PendingRows:
    """One pass over the rows of a source, in order.

    rows: all rows of the source. journal: None for a new run, in which all rows are pending. retry_failed: kinds of
    failed rows that are pending again; empty for all kinds, None for no failed row. With `empties.KIND` also answered
    rows without a caption.
    Synchronous, for one thread; its counts are complete after the last batch.
    """

    def __init__(
        self, rows: Iterator[Row], journal: Journal | None, retry_failed: frozenset[str] | None
    ) -> None:
        self._rows = rows
        self._journal = journal
        self._retry_failed = retry_failed
        # counted up by `batches`, of the rows it has passed
        self.finished = 0  # rows that have an answer
        self.failed = 0  # rows that failed and are not asked again
        self.changed = 0  # finished rows that ask something else now than when they were answered
        self.changed_examples: list[str] = []  # ids of the first few of these

    def batches(self) -> Iterator[list[Row]]:
        """The pending rows, some hundred at a time; a batch may be empty. Raises RunError where the journal fails."""
        while batch := self._next_batch():
            yield batch if self._journal is None else self._pending(batch, self._journal)

    def _next_batch(self) -> list[Row]:
        """Fewer rows where they bring their pictures with them."""
        batch, size = [], 0
        for row in islice(self._rows, _ROWS_A_BATCH):
            batch.append(row)
            size += sum(len(data) for _, data in row.embedded)
            if size > _BYTES_A_BATCH:
                break
        return batch

    def _pending(self, batch: list[Row], journal: Journal) -> list[Row]:
        ids = [row.id for row in batch]
        finished, failed = journal.finished(ids), journal.failed(ids)
        again = empties.among(journal.database, ids) if empties.KIND in (self._retry_failed or ()) else set()
        open_rows = [row for row in batch if row.id not in finished or row.id in again]
        pending = [row for row in open_rows if row.id not in failed or self._is_retried(failed[row.id])]
        self.finished += len(batch) - len(open_rows)
        self.failed += len(open_rows) - len(pending)
        self._note_changed(
            [row.id for row in batch if finished.get(row.id, row.content_hash) != row.content_hash]
        )
        return pending

    def _is_retried(self, kind: str) -> bool:
        again = self._retry_failed
        return again is not None and (not again or kind in again)

    def _note_changed(self, ids: list[str]) -> None:
        self.changed += len(ids)
        self.changed_examples += ids[: EXAMPLES - len(self.changed_examples)]
