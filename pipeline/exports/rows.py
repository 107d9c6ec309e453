"""The answered rows of one run or several, as an export sees them: as of one moment, any number of times."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..accounts.run_images import RunImages
from ..nouns.errors import UsageError
from ..store import parts
from ..store.folder import RunFolder
from ..store.journal import Journal
from .caption_text import TextSettings
from .names import undecodable

_COLUMNS = (
    "id", "image", "prompt", "extra", "content", "label", "finish", "model", "prompt_tokens", "completion_tokens",
    "total_tokens", "cost_usd", "finished_at",
)  # fmt: skip


class Watcher(Protocol):
    """Sees the progress of an export."""

    def advance(self, rows: int) -> None:
        """So many more rows were read."""


@dataclass(frozen=True, slots=True)
class Picture:
    """name: as the dataset has it. path: of the file; None where it is a URL."""

    name: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One answered row. raw: its text as it is in the dataset. text: finished, perhaps empty. columns: by name."""

    id: str
    pictures: tuple[Picture, ...]
    raw: str
    text: str
    columns: dict[str, Any]

    @property
    def label(self) -> str | None:
        """The label; None where the run has none."""
        return self.columns.get("label")

    @property
    def extra(self) -> dict[str, Any]:
        """The other columns of the manifest."""
        found = json.loads(self.columns.get("extra") or "{}")
        return found if isinstance(found, dict) else {}

    def value(self, column: str) -> Any:
        """Of a column of the dataset or of the manifest; None where it has none."""
        return self.columns[column] if column in self.columns else self.extra.get(column)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows and which text. filters: (column, exact text), all must match. text: a column of the dataset or of
    the manifest. settings: how the text is finished."""

    filters: tuple[tuple[str, str], ...] = ()
    text: str = "content"
    settings: TextSettings = field(default_factory=TextSettings)


@dataclass(frozen=True, slots=True)
class _Source:
    images: RunImages
    parts: list[Path]
    waiting: list[str]
    rows: int


class Rows:
    """The rows of some runs at the moment when this is made. Each iteration reads them again.

    Raises UsageError where there is no run; RunError, while iterating, where a file is damaged.
    """

    def __init__(self, runs: Sequence[Path], selection: Selection, watcher: Watcher | None = None) -> None:
        self.selection = selection
        self._watcher = watcher
        self._sources = [_source(RunFolder(run)) for run in runs]
        asked = [selection.text, *(column for column, _ in selection.filters)]
        self._columns = list(dict.fromkeys([*_COLUMNS, *(c for c in asked if c in parts.SCHEMA.names)]))

    def __len__(self) -> int:
        """Rows before filters."""
        return sum(source.rows for source in self._sources)

    def __iter__(self) -> Iterator[Entry]:
        for source in self._sources:
            for batch in self._batches(source):
                for record in batch.to_pylist():
                    if self._matches(record):
                        yield self._entry(record, source.images)
                if self._watcher:
                    self._watcher.advance(batch.num_rows)

    def manifest_columns(self) -> Iterator[set[str]]:
        """The names of the manifest's columns, row by row, before filters."""
        for source in self._sources:
            for batch in parts.read_batches(source.parts, ["extra"]):
                yield from (set(json.loads(text or "{}")) for text in batch["extra"].to_pylist())
            for table in parts.tables(source.waiting, ["extra"]):
                yield from (set(json.loads(text or "{}")) for text in table["extra"].to_pylist())

    def _batches(self, source: _Source) -> Iterator[Any]:
        for batch in parts.read_batches(source.parts, self._columns):
            for start in range(0, batch.num_rows, 2000):
                yield batch.slice(start, 2000)
        yield from parts.tables(source.waiting, self._columns)

    def _matches(self, record: dict[str, Any]) -> bool:
        return all(_text(_value(record, column)) == wanted for column, wanted in self.selection.filters)

    def _entry(self, record: dict[str, Any], images: RunImages) -> Entry:
        raw = _text(_value(record, self.selection.text))
        pictures = tuple(Picture(name, _path(images, name)) for name in record["image"] or ())
        return Entry(record["id"], pictures, raw, self.selection.settings.finish(raw), record)


def _source(folder: RunFolder) -> _Source:
    run = folder.read_run()
    journal = Journal(folder.journal)
    try:
        noted, waiting = journal.snapshot()
    finally:
        journal.close()
    paths = [folder.results / parts.part_name(part.number) for part in noted]
    return _Source(RunImages.of_run(run), paths, waiting, sum(map(parts.count_rows, paths)) + len(waiting))


def check_columns(rows: Rows) -> None:
    """Raises UsageError where no row has a column that was asked for."""
    asked = [rows.selection.text, *(column for column, _ in rows.selection.filters)]
    missing = {column for column in asked if column not in parts.SCHEMA.names}
    if not missing:
        return
    names: set[str] = set()
    for names_of_row in rows.manifest_columns():
        names |= names_of_row
        if missing <= names:
            return
    known = ", ".join(sorted({*parts.SCHEMA.names, *names}))
    raise UsageError(f"no row has a column {min(missing - names)!r}; columns of this run: {known}")


def _value(record: dict[str, Any], column: str) -> Any:
    if column in record:
        return record[column]
    found = json.loads(record.get("extra") or "{}")
    return found.get(column) if isinstance(found, dict) else None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _path(images: RunImages, name: str) -> str | None:
    path = images.path(name)
    if path is not None and "\\udc" in path and not os.path.lexists(path):
        return images.path(undecodable(name))
    return path
