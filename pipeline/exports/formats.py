"""The table of formats. A new one takes one file and one line here."""

from __future__ import annotations

from .csv_file import CsvFile
from .json_lines import JsonRows
from .sidecar import Sidecar
from .work import Format

FORMATS: dict[str, Format] = {
    "txt": Sidecar(".txt"),
    "caption": Sidecar(".caption"),
    "kohya": JsonRows("kohya"),
    "kohya-json": JsonRows("kohya-json"),
    "csv": CsvFile(),
    "jsonl": JsonRows("jsonl"),
    "chat": JsonRows("chat"),
    "axolotl": JsonRows("axolotl"),
    "llava": JsonRows("llava"),
}
