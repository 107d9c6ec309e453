"""JSONL: one JSON object a line, in UTF-8."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ..nouns.errors import UsageError
from .record import Record
from .text import numbered_lines


def read_jsonl(path: Path) -> Iterator[Record]:
    """The objects of a JSONL file; blank lines are skipped. Raises UsageError that names file and line."""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            columns = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: broken JSON ({error})") from error
        if not isinstance(columns, dict):
            raise UsageError(f"{where}: a line must be a JSON object, not {type(columns).__name__}")
        yield Record(where, columns)
