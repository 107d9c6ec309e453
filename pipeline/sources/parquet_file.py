"""A Parquet file with an image column, read in batches. The column has paths, or the pictures themselves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nouns.errors import UsageError
from .record import Embedded, Record, check_columns, image_column, plain

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_ROWS = 4096
_BATCH_BYTES = 16 * 2**20
_BUFFER_BYTES = 2**20


def read_parquet(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file, with the pictures that stand in it. Raises UsageError that names file and row."""
    return _read(path, with_pictures=True)


def read_parquet_names(path: Path) -> Iterator[Record]:
    """The same without the bytes of pictures, which are not read from the disk. Raises UsageError."""
    return _read(path, with_pictures=False)


def _read(path: Path, with_pictures: bool) -> Iterator[Record]:
    import pyarrow as pa  # noqa: PLC0415  only this kind of manifest needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            layout = _Layout(path, file)
            columns = layout.columns(with_pictures)
            for batch in file.iter_batches(_batch_rows(file, with_pictures), columns=columns):
                for values in batch.to_pylist() or [{}] * batch.num_rows:
                    number += 1
                    yield Record(f"{path}:row {number}", layout.record(values))
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a readable Parquet file ({error})") from error
    # text that is not UTF-8, a date after the year 9999, an unknown time zone
    except (ValueError, ArithmeticError, LookupError) as error:
        raise UsageError(f"{path}:row {number + 1} or later: a value cannot be read ({error})") from error


def _batch_rows(file: pq.ParquetFile, with_pictures: bool) -> int:
    """As many as take some megabytes, by what the footer says of the row groups."""
    if not with_pictures:
        return _BATCH_ROWS
    groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, largest)))


class _Layout:
    """Which column has the images, and in what form. Raises UsageError where there is none."""

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        schema: pa.Schema = file.schema_arrow
        self._schema = schema
        pictures = [field.name for field in schema if _has_bytes(field.type)]
        name = image_column(schema.names)
        self._is_known = name is not None
        if name is None and len(pictures) == 1:
            name = pictures[0]  # its content says what it is
        if name is None:
            check_columns(path, schema.names)  # raises
        self.image = str(name)
        self._is_embedded = self.image in pictures and not _has_paths_only(file, self.image)
        # a second picture beside the image (a mask, a thumbnail) is no text for a prompt
        self._left_out = {other for other in pictures if other != self.image}

    def columns(self, with_pictures: bool) -> list[str]:
        """What to read."""
        wanted = [name for name in self._schema.names if name not in self._left_out]
        kind = self._schema.field(self.image).type
        if (with_pictures and self._is_embedded) or not _has_bytes(kind):
            return wanted
        wanted.remove(self.image)
        if _is_struct(kind) and kind.get_field_index("path") >= 0:
            wanted.append(f"{self.image}.path")
        elif not _is_binary(kind):  # a list: how many there are is part of the row
            wanted.append(self.image)
        return wanted

    def record(self, values: dict[str, Any]) -> dict[str, Any]:
        """The columns of a row, with pictures as Embedded."""
        if self._is_embedded:
            found = values.get(self.image)
            pictures = found if isinstance(found, list) else [found]
            embedded = [_embedded(item) for item in pictures]
            values = values | {self.image: embedded if isinstance(found, list) else embedded[0]}
        elif isinstance(found := values.get(self.image), dict):
            values = values | {self.image: found.get("path")}
        columns = {name: plain(value) for name, value in values.items()}
        return columns if self._is_known else {"image": columns.pop(self.image), **columns}


def _embedded(value: Any) -> Embedded | str:
    if isinstance(value, dict):
        name, data = value.get("path"), value.get("bytes")
        if "bytes" in value and data is None and name:
            return str(name)
        return Embedded(name, data)
    return Embedded(None, value)


def _has_paths_only(file: pq.ParquetFile, name: str) -> bool:
    """Whether the bytes of all rows are null, so that the paths lead to files. By the footer's statistics."""
    leaf = f"{name}.bytes"
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        columns = map(partial(_column, group), range(group.num_columns))
        found = next((column for column in columns if column.path_in_schema == leaf), None)
        if found is None or found.statistics is None or found.statistics.null_count != group.num_rows:
            return False
    return file.metadata.num_row_groups > 0


def _column(group: Any, number: int) -> Any:
    return group.column(number)


def _has_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are pictures: bytes, {bytes, path}, or lists of those."""
    if str(kind).startswith(("list", "large_list")):
        return _has_bytes(kind.value_type)
    return _is_binary(kind) or (_is_struct(kind) and bool(kind.get_field_index("bytes") >= 0))


def _is_struct(kind: pa.DataType) -> bool:
    return str(kind).startswith("struct")


def _is_binary(kind: pa.DataType) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view") or str(kind).startswith("fixed_size_binary")
