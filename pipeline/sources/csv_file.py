"""CSV with a header line, in UTF-8, quoted as RFC 4180 says."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..nouns.errors import UsageError
from .record import IMAGE_COLUMNS, Record, check_columns
from .text import numbered_lines

_MAX_FIELD_BYTES = 2**27  # a caption or JSON of another tool; the module's own bound is 131,072


def read_csv(path: Path) -> Iterator[Record]:
    """The rows of a CSV file; an empty line is none. Raises UsageError that names file and line."""
    csv.field_size_limit(_MAX_FIELD_BYTES)
    reader = csv.reader((line for _, line in numbered_lines(path)), strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise UsageError(f"{path}: empty; the first line must name the columns")
        names = [name.strip() for name in header]
        check_columns(path, names)
        for fields in reader:
            if fields:
                yield _record(f"{path}:{reader.line_num}", names, fields)
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: broken CSV ({error})") from error


def _record(where: str, names: list[str], fields: list[str]) -> Record:
    if len(fields) > len(names):
        raise UsageError(
            f"{where}: {len(fields)} fields, but the header names {len(names)} columns"
            " (a comma in a text needs quotes around the text)"
        )
    columns: dict[str, Any] = dict(zip(names, fields, strict=False))
    for name in IMAGE_COLUMNS:
        if columns.get(name, "").startswith("["):
            columns[name] = _list_or_path(columns[name])
    return Record(where, columns)


def _list_or_path(cell: str) -> Any:
    """The JSON list in a cell, which is how CSV holds several images; a path may begin with a bracket too."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, list) else cell
