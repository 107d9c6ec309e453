"""What every reader yields, and the checks that all formats share.

A reader is a function `Path -> Iterator[Record]`. It yields records lazily, in the order of the file, and
raises UsageError that names file and line for what it cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..nouns.errors import UsageError

IMAGE_COLUMNS = ("image", "images", "file_name", "path")


class Record(NamedTuple):
    """One raw row of a source. where: "file:line", for messages. columns: by name, as the format has them."""

    where: str
    columns: Mapping[str, Any]


Reader = Callable[[Path], Iterator[Record]]


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Check the header of a table. Raises UsageError where it has no image column, or two of one name."""
    if not any(column in names for column in IMAGE_COLUMNS):
        raise UsageError(no_image_column(str(path), names))
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"{path}: two columns are called {', '.join(repeated)}; give each its own name")


def no_image_column(where: str, names: Sequence[str]) -> str:
    """The message for a table or a record without an image. where: "file" or "file:line"."""
    listed = ", ".join(names) or "none"
    return f"{where}: no image column; one of {', '.join(IMAGE_COLUMNS)} is needed, the columns are {listed}"
