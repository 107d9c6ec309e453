"""The gallery: static pages to look through a run, picture beside caption. No request to outside.

Two passes, so that any number of rows can be filtered, sampled and sorted: the first keeps where each row
stands (sixteen bytes) and reads only the columns that it needs for that, the second fetches the rows a page
at a time. What a manifest or a server wrote is escaped by the template; a caption is text, never markup.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..nouns.config import IMAGE_DEFAULTS
from ..nouns.errors import RowError, UsageError, disk_error
from ..nouns.money import DOLLARS
from ..pictures.decode import Frame
from ..store import parts
from ..store.folder import RunFolder, utc_now
from ..store.journal import Journal
from . import html
from .thumbnail import thumbnail

ROWS_A_PAGE = 200
THUMBNAIL_SIDE_PX = 320
FURTHER_PICTURES = 8  # of a row, shown small
_RECORDS_A_SOURCE = 5000
_ROWS_FETCHED = 10_000
_COLUMNS = (
    "id", "image", "prompt", "content", "refusal", "tool_calls", "choices", "finish", "finish_reason", "model",
    "prompt_tokens", "completion_tokens", "cost_usd", "latency_s", "attempts", "error_kind", "error_message",
)  # fmt: skip
_TEXT_COLUMNS = tuple(field.name for field in parts.SCHEMA if pa.types.is_string(field.type))
Sort = Literal["cost", "latency", "random", "id"]
_SORT_COLUMNS = {"cost": "cost_usd", "latency": "latency_s", "id": "id"}


@dataclass(frozen=True, slots=True)
class View:
    """Which rows, and in which order.

    filters: (column, text that stands in it), all of them. sample: so many of them by chance, None for all.
    sort: None for failed rows first, then as they came.
    """

    filters: tuple[tuple[str, str], ...] = ()
    sample: int | None = None
    sort: Sort | None = None
    rows_a_page: int = ROWS_A_PAGE
    seed: int = 0

    def __post_init__(self) -> None:
        for column, _ in self.filters:
            if column not in _TEXT_COLUMNS:
                raise UsageError(f"--filter {column}=...: one of {', '.join(_TEXT_COLUMNS)} is needed")

    def __str__(self) -> str:
        said = [f"{column} is {value}" for column, value in self.filters]
        said += [f"{self.sample:,} rows by chance"] if self.sample else []
        said += [f"by {self.sort}"] if self.sort else []
        return ", ".join(said)


def write_gallery(folder: RunFolder, view: View | None = None) -> tuple[Path, int]:
    """Write gallery/index.html, its further pages and thumbnails; returns the first page and how many rows it all shows."""
    view = view or View()
    run = folder.read_run()
    journal = Journal(folder.journal)
    thumbnails = _Thumbnails(folder, run)
    template = html.template("gallery.html", run.get("currency", DOLLARS))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            with journal.one_moment():
                sources = _sources(folder, journal, Path(scratch))
        finally:
            journal.close()
        places = _chosen(sources, view)
        pages = max(1, -(-len(places) // view.rows_a_page))
        for page, rows in enumerate(_pages(sources, places, view.rows_a_page), 1):
            shown = [
                row | {"thumbnails": names}
                for row, names in zip(rows, threads.map(thumbnails.of, rows), strict=True)
            ]
            text = template.render(
                title=str(folder.path), css=html.css(), view=str(view), written=utc_now(), page=page, pages=pages,
                total=len(places), links=_near(page, pages), rows=shown,
            )  # fmt: skip
            folder.write_page(folder.gallery / _page_name(page), text)
    _remove_further_pages(folder, pages)
    return folder.gallery / "index.html", len(places)


def _page_name(page: int) -> str:
    return "index.html" if page == 1 else f"page-{page}.html"


def _near(page: int, pages: int) -> list[int]:
    return sorted({1, pages, *range(max(1, page - 4), min(pages, page + 4) + 1)})


def _remove_further_pages(folder: RunFolder, pages: int) -> None:
    """Of an earlier, longer gallery."""
    wanted = {_page_name(page) for page in range(1, pages + 1)}
    for old in folder.gallery.glob("page-*.html"):
        if old.name not in wanted:
            old.unlink()


# ------------------------------------------------------------------------------- which rows

Source = Path | list[str]  # a part, or records of the journal
Places = npt.NDArray[np.int64]  # a line a row: number of its source, number in it


def _sources(folder: RunFolder, journal: Journal, scratch: Path) -> list[Source]:
    """Failed rows first (they are what one looks for), then the answers in the order they came; as of one moment.

    scratch: a folder for failed rows, where they are many.
    """
    noted, waiting = journal.snapshot()
    found: list[Source] = []
    for number, portion in enumerate(_portions(journal.failed_records())):
        path = scratch / parts.part_name(number)
        if number == 0:
            found.append(portion)
            continue
        parts.write_table(path, portion)
        found.append(path)
    found += [folder.results / parts.part_name(part.number) for part in noted]
    return [*found, *_portions(iter(waiting))]


def _portions(records: Iterator[str]) -> Iterator[list[str]]:
    while portion := list(islice(records, _RECORDS_A_SOURCE)):
        yield portion


def _read(source: Source, columns: Sequence[str]) -> pa.Table:
    if isinstance(source, Path):
        batches = list(parts.read_batches([source], columns))
        return pa.Table.from_batches(batches) if batches else parts.to_table([], columns)
    return parts.to_table(source, columns)


def _chosen(sources: list[Source], view: View) -> Places:
    """Where the rows of the view stand, in its order."""
    key = _SORT_COLUMNS.get(view.sort or "")
    columns = list(dict.fromkeys([*(column for column, _ in view.filters), *([key] if key else ["status"])]))
    places, keys = [np.empty((0, 2), np.int64)], []
    for number, source in enumerate(sources):
        table = _read(source, columns)
        rows = np.flatnonzero(_fits(table, view.filters))
        places.append(np.column_stack((np.full(len(rows), number), rows)))
        if key:
            keys.append(table[key].take(pa.array(rows)))
    found = np.concatenate(places)
    chance = np.random.default_rng(view.seed)
    picked = np.arange(len(found))
    if view.sample is not None and view.sample < len(found):
        picked = np.sort(chance.choice(len(found), view.sample, replace=False))
    if view.sort == "random":
        picked = chance.permutation(picked)
    elif key and len(found):
        values = pa.chunked_array([c for k in keys for c in k.chunks]).take(pa.array(picked))
        order = "ascending" if key == "id" else "descending"
        picked = picked[pc.sort_indices(values, sort_keys=[("", order)]).to_numpy()]
    chosen: Places = found[picked]
    return chosen


def _fits(table: pa.Table, filters: Sequence[tuple[str, str]]) -> npt.NDArray[np.bool_]:
    fits = np.ones(table.num_rows, dtype=np.bool_)
    for column, value in filters:
        fits &= pc.fill_null(pc.equal(table[column], value), False).to_numpy()
    return fits


def _pages(sources: list[Source], places: Places, rows_a_page: int) -> Iterator[list[dict[str, Any]]]:
    """The rows page by page, at least one page. Some pages' rows are fetched together: in another order than that of
    the dataset each of them may need every part."""
    together = max(1, _ROWS_FETCHED // rows_a_page) * rows_a_page
    for start in range(0, max(1, len(places)), together):
        rows = _fetch(sources, places[start : start + together])
        for first in range(0, max(1, len(rows)), rows_a_page):
            yield rows[first : first + rows_a_page]


def _fetch(sources: list[Source], places: Places) -> list[dict[str, Any]]:
    """The rows at these places, in their order; each source is read once."""
    rows: list[dict[str, Any]] = [{}] * len(places)
    for number in np.unique(places[:, 0]):
        positions = np.flatnonzero(places[:, 0] == number)
        table = _read(sources[int(number)], _COLUMNS).take(pa.array(places[positions, 1]))
        for position, row in zip(positions, table.to_pylist(), strict=True):
            rows[int(position)] = row
    return rows


# ------------------------------------------------------------------------------- pictures


class _Thumbnails:
    """Small pictures in gallery/thumbnails, made once; anew where the file has changed since."""

    def __init__(self, folder: RunFolder, run: dict[str, Any]) -> None:
        pictures = IMAGE_DEFAULTS | run["answer_settings"]
        self._frame: Frame = pictures["frame"]
        self._background: str = pictures["background"]
        source = Path(run["source"])
        self._base = source if source.is_dir() else source.parent
        self._folder = folder.gallery / "thumbnails"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self._folder, "made", error) from error

    def of(self, row: dict[str, Any]) -> list[str]:
        """Their names relative to the gallery, of the row's first pictures; those that cannot be read are left out."""
        images = (row["image"] or [])[: 1 + FURTHER_PICTURES]
        return [name for image in images if (name := self._one(image)) is not None]

    def _one(self, image: str) -> str | None:
        if "://" in image:
            return None
        path = os.path.join(self._base, image)  # noqa: PTH118  absolute paths stay as they are
        what = f"{path}|{self._frame}|{self._background}".encode("utf-8", "surrogateescape")
        name = f"{hashlib.sha256(what).hexdigest()[:24]}.jpg"
        target = self._folder / name
        try:
            if not _is_newer(target, path):
                data = thumbnail(path, THUMBNAIL_SIDE_PX, self._frame, self._background)
                temporary = target.with_suffix(
                    f".{random.getrandbits(32):08x}.tmp"
                )  # two rows may have one picture
                temporary.write_bytes(data)
                temporary.replace(target)
        except RowError:
            return None
        except OSError as error:
            raise disk_error(target, "written", error) from error
        return f"thumbnails/{name}"


def _is_newer(target: Path, path: str) -> bool:
    with suppress(OSError, ValueError):
        return target.stat().st_mtime_ns >= Path(path).stat().st_mtime_ns
    return False
