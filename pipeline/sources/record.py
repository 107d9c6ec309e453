"""What every reader yields, and the checks that all formats share.

A reader is a function `Path -> Iterator[Record]`. It yields records lazily, in the order of the file, and
raises UsageError that names file and line for what it cannot read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..nouns.errors import UsageError

# of several, the first one counts; upper and lower case do not matter
IMAGE_COLUMNS = (
    "image", "images", "file_name", "path", "filename", "file_path", "filepath", "image_path", "image_file",
    "image_filename", "image_name", "img", "img_path", "picture", "photo", "file",
)  # fmt: skip
_LARGEST_WHOLE = 2**53  # from here on a float has no place for the last digit


class Record(NamedTuple):
    """One raw row of a source. where: "file:line", for messages. columns: by name, as the format has them."""

    where: str
    columns: Mapping[str, Any]


class Embedded(NamedTuple):
    """A picture that stands in the manifest itself.

    name: of the file that it was; None where the manifest does not say. data: its bytes; None where the reader was
    not asked for them.
    """

    name: str | None
    data: bytes | None


Reader = Callable[[Path], Iterator[Record]]


def image_column(names: Sequence[str]) -> str | None:
    """The column with the images: the first of IMAGE_COLUMNS that there is. None where there is none."""
    by_plain_name: dict[str, str] = {}
    for name in names:
        by_plain_name.setdefault(name.strip().lower().replace(" ", "_"), name)
    return next((by_plain_name[column] for column in IMAGE_COLUMNS if column in by_plain_name), None)


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Check the header of a table. Raises UsageError where it has no image column, or two of one name."""
    if image_column(names) is None:
        raise UsageError(no_image_column(str(path), names))
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise UsageError(f"{path}: two columns are called {', '.join(repeated)}; give each its own name")


def no_image_column(where: str, names: Sequence[str]) -> str:
    """The message for a table or a record without an image. where: "file" or "file:line"."""
    listed = ", ".join(names) or "none"
    return f"{where}: no image column; one of {', '.join(IMAGE_COLUMNS)} is needed, the columns are {listed}"


def plain(value: Any) -> Any:
    """A value of JSON or Parquet without what only floats have: NaN and infinity are null, 1001.0 is 1001.

    pandas makes floats of whole numbers as soon as one of a column is missing.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < _LARGEST_WHOLE else value
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value
