"""Names of files in an export, from the names of pictures. Pure text."""

from __future__ import annotations

import os
import re

_ESCAPED_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")


def undecodable(name: str) -> str:
    """A name as the file system has it; the dataset writes a byte that is no UTF-8 as \\udcXX."""
    return _ESCAPED_BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), name)


def inside(image: str) -> str:
    """A relative path that stays below a folder. image: relative or absolute, perhaps with `..`."""
    parts = os.path.normpath(image).split(os.sep)
    kept = ["up" if part == ".." else part for part in parts if part not in ("", ".")]
    return "/".join(kept) or "unnamed"


def with_extension(path: str, extension: str) -> str:
    """a/b.jpg -> a/b.txt. extension: with its dot."""
    return os.path.splitext(path)[0] + extension


def shown(name: str) -> str:
    """For a message: one line for any name, and not too long."""
    text = name.encode("utf-8", "backslashreplace").decode().encode("unicode_escape").decode()
    readable = name if name.isprintable() else text
    return readable if len(readable) <= 120 else f"{readable[:80]}...{readable[-30:]}"


def text_of(name: str) -> str:
    """For a file of UTF-8: bytes that are none become \\udcXX."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
