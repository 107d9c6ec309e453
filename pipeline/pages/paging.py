"""Rows page by page, and the files of the pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .selection import Places, Source, read_source

FIRST_PAGE = "index.html"
_ROWS_FETCHED = 10_000  # together, whatever a page has: one pass over the parts for many pages
_LINKED_NEIGHBOURS = 4

PageRows = list[dict[str, Any]]  # column -> value


def page_name(page: int) -> str:
    """The file of a page. page: from 1."""
    return FIRST_PAGE if page == 1 else f"page-{page}.html"


def page_count(rows: int, rows_a_page: int) -> int:
    """How many pages there are; at least one."""
    return max(1, -(-rows // rows_a_page))


def linked_pages(page: int, pages: int) -> list[int]:
    """The pages that a page links to: the first, the last, and those around it."""
    first, last = max(1, page - _LINKED_NEIGHBOURS), min(pages, page + _LINKED_NEIGHBOURS)
    return sorted({1, pages, *range(first, last + 1)})


def remove_further_pages(folder: Path, pages: int) -> None:
    """Remove the pages of an earlier, longer gallery. pages: how many there are now."""
    wanted = {page_name(page) for page in range(1, pages + 1)}
    for old in folder.glob("page-*.html"):
        if old.name not in wanted:
            old.unlink()


def page_rows(
    sources: Sequence[Source], places: Places, columns: Sequence[str], rows_a_page: int
) -> Iterator[PageRows]:
    """The rows of each page, at least one page.

    Several pages are fetched together: in an order other than that of the dataset each may need every part.
    """
    together = max(1, _ROWS_FETCHED // rows_a_page) * rows_a_page
    for start in range(0, max(1, len(places)), together):
        rows = _fetch(sources, places[start : start + together], columns)
        for first in range(0, max(1, len(rows)), rows_a_page):
            yield rows[first : first + rows_a_page]


def _fetch(sources: Sequence[Source], places: Places, columns: Sequence[str]) -> PageRows:
    """The rows at these places, in their order; each source is read once."""
    rows: PageRows = [{}] * len(places)
    for number in np.unique(places[:, 0]):
        positions = np.flatnonzero(places[:, 0] == number)
        table = read_source(sources[int(number)], columns).take(pa.array(places[positions, 1]))
        for position, row in zip(positions, table.to_pylist(), strict=True):
            rows[int(position)] = row
    return rows
