"""CSV with a header line, quoted as RFC 4180 says; also with semicolons or tabs, as spreadsheets write it."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..nouns.errors import UsageError
from .record import Record, check_columns, image_column
from .text import numbered_lines

_MAX_FIELD_BYTES = 2**27  # a caption or JSON of another tool; the module's own bound is 131,072
_DELIMITERS = (",", ";", "\t", "|")


def read_csv(path: Path) -> Iterator[Record]:
    """The rows of a CSV or TSV file; an empty line, also of commas, is none. Raises UsageError that names file and line."""
    csv.field_size_limit(_MAX_FIELD_BYTES)
    lines: Iterator[str] = (line for _, line in numbered_lines(path))
    first = next(lines, "")
    skipped = 0
    if _is_separator_line(first):
        delimiter, skipped = first[4], 1
    else:
        delimiter, lines = _delimiter(first), itertools.chain([first], lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise UsageError(f"{path}: empty; the first line must name the columns")
        names = [name.strip() for name in header]
        check_columns(path, names)
        for fields in reader:
            values = [field.strip() for field in fields]
            if any(values):
                yield _record(f"{path}:{reader.line_num + skipped}", names, values)
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num + skipped}: broken CSV ({error})") from error


def _is_separator_line(line: str) -> bool:
    """`sep=;`, which Excel reads and writes before the header."""
    return line[:4].lower() == "sep=" and len(line.rstrip("\r\n")) == 5


def _delimiter(header: str) -> str:
    """The one that gives an image column, and most columns; a comma where none does."""
    counts = {}
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            continue
        if image_column(names) is not None:
            counts[delimiter] = len(names)
    return max(counts, key=lambda delimiter: counts[delimiter]) if counts else ","


def _record(where: str, names: list[str], values: list[str]) -> Record:
    if any(values[len(names) :]):
        raise UsageError(
            f"{where}: {len(values)} fields, but the header names {len(names)} columns"
            " (a comma in a text needs quotes around the text)"
        )
    columns: dict[str, Any] = {}
    for number, (name, value) in enumerate(zip(names, values, strict=False), 1):
        if name:
            columns[name] = value
        elif value:  # spreadsheets leave columns without name and content
            columns[f"column {number}"] = value
    images = image_column(names)
    if images is not None and columns.get(images, "").startswith("["):
        columns[images] = _list_or_path(columns[images])
    return Record(where, columns)


def _list_or_path(cell: str) -> Any:
    """The JSON list in a cell, which is how CSV holds several images; a path may begin with a bracket too."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, list) else cell
