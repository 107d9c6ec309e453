"""Rows with the headers of their pictures: what a plan needs to know of them. Read in threads, sent nowhere."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from ..nouns.config import RunConfig
from ..nouns.errors import RowError
from ..nouns.image_path import is_remote
from ..nouns.rows import Row
from ..pictures.measure import Measured, measure, measure_bytes

Looked = list[tuple[Row, "tuple[Measured, ...] | RowError | None"]]  # None: by URL, not looked at


def read_headers(
    batches: Iterable[list[Row]], count: int, config: RunConfig, sample: int | None
) -> Iterator[Looked]:
    """Rows with the headers of their pictures, in order.

    batches: of the rows. count: how many rows they hold together. sample: read so many rows only, evenly spread;
    None for all. A row whose picture cannot be read comes with the error.
    """
    wanted = min(sample or count, count)
    at = 0
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="measure") as threads:
        under_way: deque[Future[Looked]] = deque()
        for batch in batches:
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
        embedded = dict(row.embedded)
        if any(is_remote(path) for path in row.paths):
            looked.append((row, None))
            continue
        try:
            pictures = tuple(_measure(path, embedded.get(path), config) for path in row.paths)
            looked.append((replace(row, embedded=()), pictures))
        except RowError as error:
            looked.append((row, error))
    return looked


def _measure(path: str, data: bytes | None, config: RunConfig) -> Measured:
    """data: None for a file."""
    return measure(path, config.frame) if data is None else measure_bytes(path, data, config.frame)
