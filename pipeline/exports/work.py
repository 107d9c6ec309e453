"""What every format gets: the rows, the place, and the output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from .names import text_of
from .output import Output
from .rows import Entry, Rows

NO_TEXT = "no text"


@dataclass(frozen=True, slots=True)
class Options:
    """append: add to the text of a .txt that is there. pictures: how pictures get below the target.
    shard_bytes: of the pictures in one shard of webdataset and parquet."""

    append: bool = False
    pictures: Literal["symlink", "hardlink", "copy"] = "symlink"
    shard_bytes: int = 500_000_000


@dataclass(frozen=True, slots=True)
class Work:
    """out: what --out names; None for the usual place: beside the pictures, or `folder`, RUN/exports/FORMAT."""

    rows: Rows
    output: Output
    options: Options
    out: Path | None
    folder: Path

    @property
    def target(self) -> Path:
        """The folder for formats that make files of their own."""
        return self.out or self.folder


class Format(Protocol):
    """One format."""

    def write(self, work: Work) -> None:
        """Write what is new or changed. Raises UsageError where the rows do not fit the format, RunError for the disk."""


def with_text(work: Work) -> Iterator[Entry]:
    """The rows that have a text; the others are counted."""
    for entry in work.rows:
        if entry.text and entry.pictures:
            yield entry
        else:
            work.output.summary.skip(NO_TEXT, entry.id)


def fingerprint(rows: Rows, *more: object) -> bytes:
    """Of all that an export of these rows shows. more: settings of the format."""
    digest = hashlib.blake2b(repr(more).encode(), digest_size=16)
    for entry in rows:
        seen = (entry.id, entry.text, [p.name for p in entry.pictures], entry.columns)
        digest.update(repr(seen).encode("utf-8", "backslashreplace"))
    return digest.digest()


def location(entry: Entry, number: int = 0) -> str:
    """Absolute path or URL of a picture, as text of UTF-8."""
    picture = entry.pictures[number]
    return text_of(picture.name if picture.path is None else str(Path(picture.path).absolute()))
