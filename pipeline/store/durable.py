"""What makes a file survive a power cut: fsync, and the rename that follows it."""

from __future__ import annotations

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, path: Path) -> None:
    """Give a complete temporary file its final name in the same folder, durable on return.

    The order is the promise: a reader, or a start after a power cut, finds the old file or the whole new one.
    Raises OSError.
    """
    fsync(temporary)
    temporary.replace(path)
    fsync(path.parent)
