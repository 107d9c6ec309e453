"""A table for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def as_lines(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """The rows as lines with aligned columns: the first `left` columns to the left, the others to the right."""
    widths = [max(_width(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell + " " * (width - _width(cell)) if i < left else " " * (width - _width(cell)) + cell
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    """Width in terminal columns: a Chinese character takes two."""
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)
