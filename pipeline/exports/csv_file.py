"""csv: opens right in Excel. A byte order mark, no formula that runs, no line break inside a cell."""

from __future__ import annotations

import csv

from .caption_text import one_line
from .work import Work, fingerprint, location, with_text

_COLUMNS = ("id", "image_path", "caption", "label", "prompt", "model", "finish", "total_tokens", "cost_usd")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class CsvFile:
    """One line a row."""

    def write(self, work: Work) -> None:
        """Write captions.csv."""
        path = work.target / "captions.csv"
        with work.output.large(path, fingerprint(work.rows, "csv")) as temporary:
            if temporary is None:
                return
            with temporary.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(_COLUMNS)
                for entry in with_text(work):
                    work.output.summary.rows += 1
                    own = {"image_path": location(entry), "caption": entry.text}
                    writer.writerow([cell(own.get(name, entry.columns.get(name))) for name in _COLUMNS])


def cell(value: object) -> str:
    """The text of a cell; a text that a spreadsheet would compute gets an apostrophe before it."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = one_line(value.replace("\0", ""))
    return f"'{text}" if value.startswith(_FORMULA) or text.startswith(_FORMULA) else text
