"""Lines of a UTF-8 file, and text that every file format takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..nouns.errors import UsageError

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a UTF-8 file. Raises UsageError that names the line."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1 and raw[:2] in _UTF_16_MARKS:
                raise UsageError(f"{path}: this is UTF-16; save it as UTF-8")
            content = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
            try:
                yield number, content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{path}:{number}: not UTF-8 (byte 0x{content[error.start]:02x} at column {error.start + 1});"
                    " save the file as UTF-8"
                ) from error


def printable(name: str) -> str:
    """The same text with what UTF-8 cannot hold (a file name in an unknown encoding) as \\udcXX escapes."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")
