"""A Parquet file with an image column, read in batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..nouns.errors import UsageError
from .record import Record, check_columns

_BATCH_ROWS = 4096


def read_parquet(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file. Raises UsageError that names file and row."""
    import pyarrow as pa  # noqa: PLC0415  only this kind of manifest needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(_BATCH_ROWS):
                for columns in batch.to_pylist():
                    number += 1
                    yield Record(f"{path}:row {number}", columns)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path}: not a readable Parquet file ({error})") from error
    # text that is not UTF-8, a date after the year 9999, an unknown time zone
    except (ValueError, ArithmeticError, LookupError) as error:
        raise UsageError(f"{path}:row {number + 1} or later: a value cannot be read ({error})") from error
