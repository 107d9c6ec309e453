"""The bytes of a picture's file. Never waits on a pipe or a device."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from ..nouns.errors import RowError, disk_error

MAX_FILE_BYTES = 512 * 2**20
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def read_file(path: str) -> bytes:
    """The whole file.

    Raises RowError where there is no regular file, or it is empty, too large, or changes while it is read;
    RunError where this process may open no more files.
    """
    with _opened(path) as (descriptor, before):
        # one call for the usual file: each system call lets go of the interpreter, and waits to get it back
        data = os.read(descriptor, before.st_size + 1)
        while len(data) < before.st_size and (more := os.read(descriptor, before.st_size + 1 - len(data))):
            data += more
        after = os.fstat(descriptor)
    if after.st_mtime_ns != before.st_mtime_ns or after.st_size != len(data):
        raise RowError(
            f"{path}: changed while it was read; once it is complete, retry it with --retry-failed image_changing",
            kind="image_changing",
        )
    if not data:
        raise RowError(f"{path}: the file is empty", kind="image_broken")
    return data


def read_ends(path: str, first_bytes: int) -> tuple[bytes, int]:
    """The first bytes of a file with its last two behind them (a JPEG's end mark), and its size.

    Raises RowError as `read_file` does.
    """
    with _opened(path) as (descriptor, info):
        data = os.read(descriptor, first_bytes)
        if info.st_size > len(data):
            data += os.pread(descriptor, 2, max(0, info.st_size - 2))
    if not info.st_size:
        raise RowError(f"{path}: the file is empty", kind="image_broken")
    return data, info.st_size


def read_tail(path: str, last_bytes: int) -> bytes:
    """The last bytes of a file that is longer than that. Raises RowError as `read_file` does."""
    with _opened(path) as (descriptor, info):
        return os.pread(descriptor, last_bytes, info.st_size - last_bytes)


def spelled_otherwise(path: str) -> str | None:
    """A path that is not there, found under another spelling; None where there is none.

    Lists come from other systems: accents as one character or as two (NFC, NFD), spaces as %20, backslashes between
    folders. Each part of the path is tried as it is first, and no other spelling of a part leads out of its folder.
    """
    found = os.sep if path.startswith(os.sep) else ""
    for part in filter(None, path.split(os.sep)):  # noqa: PTH206  may be undecodable
        spellings = (os.path.join(found, other) for other in _spellings(part))  # noqa: PTH118
        there = next((other for other in spellings if os.path.lexists(other)), None)
        if there is None:
            return None
        found = there
    return found or None


def _spellings(part: str) -> Iterator[str]:
    """part: of a path, between two separators."""
    yield part
    plain = unquote(part) if "%" in part else part
    for text in dict.fromkeys((part, plain)):
        inner = text.replace("\\", os.sep).strip()
        if any(piece in ("", os.pardir) for piece in inner.split(os.sep)) or "\0" in inner:  # noqa: PTH206
            continue
        yield inner
        for form in ("NFC", "NFD"):
            yield unicodedata.normalize(form, inner)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, os.stat_result]]:
    """The descriptor of a regular file, and what it was when it was opened."""
    try:
        descriptor = _descriptor(path)
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise RowError(f"{path}: not a regular file", kind="image_unreadable")
            if info.st_size > MAX_FILE_BYTES:
                raise RowError(
                    f"{path}: {info.st_size:,} bytes, more than {MAX_FILE_BYTES:,}", kind="image_too_large"
                )
            yield descriptor, info
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise RowError(f"{path}: no such file", kind="image_missing") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if isinstance(error, OSError) and error.errno in (
            errno.EMFILE,
            errno.ENFILE,
        ):  # the process is out of descriptors; the picture is fine
            raise disk_error(path, "read", error) from error
        reason = getattr(error, "strerror", None) or error
        raise RowError(f"{path}: cannot be read ({reason})", kind="image_unreadable") from error


def _descriptor(path: str) -> int:
    """Raises OSError, ValueError."""
    try:
        return os.open(path, _READ_FLAGS)
    except FileNotFoundError:
        other = spelled_otherwise(path)
        if other is None or other == path:
            raise
        return os.open(other, _READ_FLAGS)
