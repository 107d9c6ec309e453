"""The rows of a run as tables, some columns at a time: the parts, and what still waits in the journal.

Works on a finished, running or interrupted run. A batch at a time, so memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from ..store import parts
from ..store.folder import RunFolder
from ..store.journal import Journal

# long texts that many rows share: read as they stand in the file, once
_REPEATED = frozenset({"prompt", "extra"})


def answered(
    folder: RunFolder, journal: Journal, columns: Sequence[str]
) -> Iterator[tuple[Path | None, pa.Table]]:
    """Answered rows, each once, as of one moment; with the part that they stand in, None for the journal."""
    noted, waiting = journal.snapshot()
    for part in noted:
        path = folder.results / parts.part_name(part.number)
        for batch in parts.read_batches([path], columns, _REPEATED & set(columns)):
            yield path, pa.Table.from_batches([batch])
    for table in parts.tables(waiting, columns):
        yield None, table


def failed(journal: Journal, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Rows that have no answer now."""
    return parts.tables(journal.failed_records(), columns)
