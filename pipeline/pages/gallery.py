"""The gallery: static pages to look through a run, picture beside caption. No request to outside.

Two passes, so that any number of rows can be filtered, sampled and sorted: `selection` finds the rows of the
view, `paging` fetches them a page at a time. The template escapes what a manifest or a server wrote; a caption
is text, never markup.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..accounts.run_images import RunImages
from ..nouns.money import DOLLARS
from ..store import empties
from ..store.folder import RunFolder, utc_now
from ..store.journal import Journal
from . import html
from .paging import (
    FIRST_PAGE,
    PageRows,
    linked_pages,
    page_count,
    page_name,
    page_rows,
    remove_further_pages,
)
from .selection import Places, Source, View, read_source, row_sources, selected
from .thumbnails import ThumbnailFolder

_THUMBNAILS = "thumbnails"  # folder in the gallery
_MAX_PICTURES = 9  # of a row: the first large, the others small
_COLUMNS = (
    "id", "image", "prompt", "content", "reasoning", "refusal", "tool_calls", "choices", "finish", "finish_reason", "model",
    "prompt_tokens", "completion_tokens", "cost_usd", "latency_s", "attempts", "error_kind", "error_message",
)  # fmt: skip


def write_gallery(folder: RunFolder, view: View | None = None) -> tuple[Path, int]:
    """Write gallery/index.html, its further pages and thumbnails. view: None for all rows, failed ones first.

    Returns the first page, and the number of rows on all pages. Raises RunError where the disk refuses.
    """
    view = view or View()
    run = folder.read_run()
    template = html.template("gallery.html", run.get("currency", DOLLARS))
    with tempfile.TemporaryDirectory() as scratch:
        sources, empty = _sources_of_one_moment(folder, Path(scratch))
        places = selected(sources, view)
        pages = page_count(len(places), view.rows_a_page)
        rows_of_pages = page_rows(sources, places, _COLUMNS, view.rows_a_page, Path(scratch))
        thumbnails = ThumbnailFolder(folder.gallery / _THUMBNAILS, RunImages.of_run(run))
        thumbnails.add_embedded(_image_names(sources, places))
        for page, rows in enumerate(_with_thumbnails(thumbnails, rows_of_pages), 1):
            text = template.render(
                title=str(folder.path), css=html.css(), view=str(view), written=utc_now(), page=page, pages=pages,
                total=len(places), empty=empty, links=linked_pages(page, pages), rows=rows,
            )  # fmt: skip
            folder.write_page(folder.gallery / page_name(page), text)
    remove_further_pages(folder.gallery, pages)
    return folder.gallery / FIRST_PAGE, len(places)


def _sources_of_one_moment(folder: RunFolder, scratch: Path) -> tuple[list[Source], int]:
    """Where the rows are, and how many answers of the run have no caption."""
    journal = Journal(folder.journal)
    try:
        with journal.one_moment():
            return row_sources(folder, journal, scratch), empties.count(journal.database) or 0
    finally:
        journal.close()


def _with_thumbnails(thumbnails: ThumbnailFolder, rows_of_pages: Iterator[PageRows]) -> Iterator[PageRows]:
    """The rows of each page, each with `thumbnails`: paths relative to the gallery. Decoding is done in threads."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for rows in rows_of_pages:
            shown = [(row["image"] or [])[:_MAX_PICTURES] for row in rows]
            yield [
                row | {"thumbnails": [f"{_THUMBNAILS}/{name}" for name in names]}
                for row, names in zip(rows, threads.map(thumbnails.names, shown), strict=True)
            ]


def _image_names(sources: list[Source], places: Places) -> frozenset[str]:
    """Of all rows of the view."""
    names: set[str] = set()
    for number in np.unique(places[:, 0]):
        images = read_source(sources[int(number)], ["image"]).take(
            pa.array(places[places[:, 0] == number, 1])
        )
        names.update(name for row in images["image"].to_pylist() for name in (row or [])[:_MAX_PICTURES])
    return frozenset(names)
