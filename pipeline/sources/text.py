"""Lines of a text file, and text that every file format takes."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from ..nouns.errors import UsageError

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CHUNK_BYTES = 2**16


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a text file in UTF-8, or in UTF-16 as Excel and PowerShell write it.

    Raises UsageError that names the line.
    """
    with path.open("rb") as file:
        mark, encoding = _encoding(file.peek(4)[:4])
        if encoding != "utf-8":
            yield from enumerate(_utf_16_lines(path), 1)
            return
        file.read(len(mark))  # not seek: it may be a pipe
        for number, content in enumerate(file, 1):
            try:
                yield number, content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{path}:{number}: not UTF-8 (byte 0x{content[error.start]:02x} at column {error.start + 1});"
                    " save the file as UTF-8"
                ) from error


def _encoding(first: bytes) -> tuple[bytes, str]:
    """(byte order mark, encoding) by the first four bytes of a file."""
    for mark, encoding in _MARKS:
        if first.startswith(mark):
            return mark, encoding
    # without a mark: of two ASCII characters every other byte is zero
    zeros = tuple(byte == 0 for byte in first)
    if zeros == (False, True, False, True):
        return b"", "utf-16-le"
    return b"", "utf-16-be" if zeros == (True, False, True, False) else "utf-8"


def text_chunks(path: Path) -> Iterator[str]:
    """A text file piece by piece, with lines of any length. Raises UsageError where it is not UTF-8 or UTF-16."""
    with path.open("rb") as file:
        mark, encoding = _encoding(file.peek(4)[:4])
        file.read(len(mark))  # not seek: it may be a pipe
        decoder = codecs.getincrementaldecoder(encoding)()
        is_over = False
        while not is_over:
            chunk = file.read(_CHUNK_BYTES)
            is_over = not chunk
            try:
                yield decoder.decode(chunk, final=is_over)
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{path}: not {'UTF-8' if encoding == 'utf-8' else 'UTF-16'}; save the file as UTF-8"
                ) from error


def _utf_16_lines(path: Path) -> Iterator[str]:
    rest = ""
    for chunk in text_chunks(path):
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            yield line + "\n"
    if rest:
        yield rest


def printable(name: str) -> str:
    """The same text with what UTF-8 cannot hold (a file name in an unknown encoding) as \\udcXX escapes."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")
