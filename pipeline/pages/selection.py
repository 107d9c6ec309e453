"""Which rows of a run a page shows, and in which order: filters, a sample, sorting.

Only the columns that a view needs are read, and 16 bytes a row are kept: where the row is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..nouns.errors import UsageError
from ..store import parts
from ..store.folder import RunFolder
from ..store.journal import Journal

ROWS_A_PAGE = 200
_RECORDS_A_SOURCE = 5000
_TEXT_COLUMNS = tuple(column.name for column in parts.SCHEMA if pa.types.is_string(column.type))
_NUMBER_COLUMNS = tuple(
    column.name
    for column in parts.SCHEMA
    if pa.types.is_integer(column.type)
    or pa.types.is_floating(column.type)
    or pa.types.is_decimal(column.type)
)
_COMPARISONS = {
    "=": pc.equal, "!=": pc.not_equal, ">": pc.greater, ">=": pc.greater_equal, "<": pc.less, "<=": pc.less_equal,
}  # fmt: skip
_SAID = {"=": "is", "!=": "is not"}
_SORT_COLUMNS = {"cost": "cost_usd", "latency": "latency_s", "id": "id"}

Sort = Literal["cost", "latency", "random", "id"]
Source = Path | list[str]  # a part, or records of the journal
Places = npt.NDArray[np.int64]  # (rows, 2): the number of the row's source, and its number in it


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on rows: a column, a sign (=, !=, >, >=, <, <=), and a text or a number.

    A row without a value in the column matches no condition but !=. Raises UsageError for an unknown column, a value
    that is no number in a column of numbers, and a column of texts that is compared by size.
    """

    column: str
    value: str
    sign: str = "="

    def __post_init__(self) -> None:
        if self.column in _NUMBER_COLUMNS:
            self._number()
        elif self.column not in _TEXT_COLUMNS:
            known = ", ".join((*_TEXT_COLUMNS, *_NUMBER_COLUMNS))
            raise UsageError(f"--filter {self}: one of {known} is needed")
        elif self.sign not in _SAID:
            raise UsageError(f"--filter {self}: {self.column} is a text; compare it with = or !=")

    def __str__(self) -> str:
        return f"{self.column}{self.sign}{self.value}"

    def _number(self) -> float:
        try:
            number = float(self.value.replace(",", "").replace("_", ""))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"--filter {self}: {self.column} holds numbers") from None
        return number

    def matches(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a table with the column match."""
        compare, column = _COMPARISONS[self.sign], table[self.column]
        if self.column in _NUMBER_COLUMNS:
            found = compare(pc.cast(column, pa.float64()), self._number())
        else:
            found = compare(column, self.value)
        matches: npt.NDArray[np.bool_] = pc.fill_null(found, self.sign == "!=").to_numpy()
        return matches


@dataclass(frozen=True, slots=True)
class View:
    """Which rows, and in which order.

    filters: all must match. sample: number of random rows, None for all rows.
    sort: cost and latency descending, id ascending, random; None for failed rows first, then in the order of
    their answers. seed: of the sample and of the random order.
    """

    filters: tuple[Filter, ...] = ()
    sample: int | None = None
    sort: Sort | None = None
    rows_a_page: int = ROWS_A_PAGE
    seed: int = 0

    def __str__(self) -> str:
        """For the page: empty where every row is shown in the usual order."""
        said = [f"{f.column} {_SAID.get(f.sign, f.sign)} {f.value}" for f in self.filters]
        said += [f"a random sample of {self.sample:,} rows"] if self.sample else []
        said += [f"by {self.sort}"] if self.sort else []
        return ", ".join(said)


def row_sources(folder: RunFolder, journal: Journal, scratch: Path) -> list[Source]:
    """All rows as of one moment: failed rows first, then the answers in the order they came.

    scratch: a folder for failed rows beyond the first few thousand.
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


def read_source(source: Source, columns: Sequence[str]) -> pa.Table:
    """Some columns of all rows of a source, in their order."""
    if isinstance(source, Path):
        batches = list(parts.read_batches([source], columns))
        return pa.Table.from_batches(batches) if batches else parts.to_table([], columns)
    return parts.to_table(source, columns)


def selected(sources: Sequence[Source], view: View) -> Places:
    """Where the rows of the view are stored, in its order."""
    key = _SORT_COLUMNS.get(view.sort or "")
    places, values = _matching(sources, view.filters, key)
    chance = np.random.default_rng(view.seed)
    picked: npt.NDArray[np.signedinteger[Any]] = np.arange(len(places))
    if view.sample is not None and view.sample < len(places):
        picked = np.sort(chance.choice(len(places), view.sample, replace=False))
    if view.sort == "random":
        picked = chance.permutation(picked)
    elif values is not None:
        order = "ascending" if key == "id" else "descending"
        picked = picked[pc.sort_indices(values.take(pa.array(picked)), sort_keys=[("", order)]).to_numpy()]
    found: Places = places[picked]
    return found


def _matching(
    sources: Sequence[Source], filters: Sequence[Filter], key: str | None
) -> tuple[Places, pa.ChunkedArray | None]:
    """The rows that match, as they are stored, and their values in the column `key`; None without key or rows."""
    columns = list(dict.fromkeys([*(f.column for f in filters), key or "status"]))
    places = [np.empty((0, 2), np.int64)]
    chunks: list[pa.Array] = []
    for number, source in enumerate(sources):
        table = read_source(source, columns)
        rows = np.flatnonzero(_matches(table, filters))
        places.append(np.column_stack((np.full(len(rows), number), rows)))
        if key:
            chunks += table[key].take(pa.array(rows)).chunks
    return np.concatenate(places), pa.chunked_array(chunks) if chunks else None


def _matches(table: pa.Table, filters: Sequence[Filter]) -> npt.NDArray[np.bool_]:
    matches = np.ones(table.num_rows, dtype=np.bool_)
    for one in filters:
        matches &= one.matches(table)
    return matches
