"""Rows page by page, and the files of the pages."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .selection import Places, Source, read_source

FIRST_PAGE = "index.html"
_ROWS_FETCHED = 10_000  # in memory at a time
_MAX_FILES = 200  # open at once
_POSITION = "position of the view"
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
    sources: Sequence[Source], places: Places, columns: Sequence[str], rows_a_page: int, scratch: Path
) -> Iterator[PageRows]:
    """The rows of each page, at least one page.

    Every source is read once: in an order other than that of the dataset each page may need rows of every part, so
    the rows are first sorted into files of some pages each. scratch: a folder for these.
    """
    together = max(_ROWS_FETCHED, -(-len(places) // _MAX_FILES)) // rows_a_page * rows_a_page or rows_a_page
    if len(places) <= together:
        rows = _fetch(sources, places, columns)
        yield from (rows[first : first + rows_a_page] for first in range(0, max(1, len(rows)), rows_a_page))
        return
    _distribute(sources, places, columns, together, scratch)
    for number, start in enumerate(range(0, len(places), together)):
        table = _in_order(_file(scratch, number))
        for first in range(start, min(start + together, len(places)), rows_a_page):
            yield table.slice(first - start, rows_a_page).to_pylist()


def _distribute(
    sources: Sequence[Source], places: Places, columns: Sequence[str], together: int, scratch: Path
) -> None:
    """Write file n with rows n * together and following, each with its position, in the order of the sources."""
    by_source = np.argsort(places[:, 0], kind="stable")
    bounds = np.searchsorted(places[by_source, 0], np.arange(len(sources) + 1))
    with contextlib.ExitStack() as files:
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        for number, source in enumerate(sources):
            positions = np.sort(by_source[bounds[number] : bounds[number + 1]])
            if not len(positions):
                continue
            table = read_source(source, columns).take(pa.array(places[positions, 1]))
            table = table.append_column(_POSITION, pa.array(positions)).combine_chunks()
            starts = np.flatnonzero(np.diff(positions // together, prepend=-1))
            for first, end in itertools.pairwise([*starts.tolist(), len(positions)]):
                target = int(positions[first] // together)
                if target not in writers:
                    writers[target] = files.enter_context(
                        pa.ipc.new_file(_file(scratch, target), table.schema)
                    )
                writers[target].write_table(table.slice(first, end - first))


def _in_order(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    path.unlink()
    order = pc.sort_indices(table[_POSITION])
    return table.drop_columns([_POSITION]).take(order)


def _file(scratch: Path, number: int) -> Path:
    return scratch / f"pages-{number}.arrow"


def _fetch(sources: Sequence[Source], places: Places, columns: Sequence[str]) -> PageRows:
    """The rows at these places, in their order; each source is read once."""
    rows: PageRows = [{}] * len(places)
    for number in np.unique(places[:, 0]):
        positions = np.flatnonzero(places[:, 0] == number)
        table = read_source(sources[int(number)], columns).take(pa.array(places[positions, 1]))
        for position, row in zip(positions, table.to_pylist(), strict=True):
            rows[int(position)] = row
    return rows
