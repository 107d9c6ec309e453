"""A folder and all folders in it: which files are images, and in which order they come."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..nouns.errors import UsageError
from .record import Record
from .text import printable

# which files of a folder are rows; their bytes say what they really are
IMAGE_EXTENSIONS = frozenset([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".dib",
    ".tif", ".tiff", ".ico", ".icns", ".cur", ".jp2", ".j2k", ".jpx", ".jpf", ".heic", ".heif", ".hif", ".tga",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".sgi", ".rgb", ".ras", ".qoi", ".dds", ".psd", ".xbm", ".xpm", ".fits",
])  # fmt: skip
_RUN_FOLDER_MARK = "journal.sqlite"  # a folder with this file is the output of a run
_DIGITS = re.compile(r"(\d+)")

OnOtherFile = Callable[[str], None]
_Inode = tuple[int, int]


def _ignore(_name: str) -> None:
    pass


def read_folder(folder: Path, on_other_file: OnOtherFile = _ignore) -> Iterator[Record]:
    """One record an image, in natural order (2.jpg before 10.jpg), with its path relative to `folder`.

    on_other_file: is called with the relative path of each file that is not an image. Hidden files and folders,
    run folders inside `folder`, and links back up are left out. Raises UsageError where a folder cannot be listed.
    """
    yield from _walk(str(folder), "", (), on_other_file)


def _walk(
    folder: str, prefix: str, above: tuple[_Inode, ...], on_other_file: OnOtherFile
) -> Iterator[Record]:
    """prefix: of relative paths, "" or "a/b/". above: the folders around this one, to notice a loop of links."""
    here, entries = _listed(folder)
    if here in above or (prefix and any(entry.name == _RUN_FOLDER_MARK for entry in entries)):
        return
    for entry in entries:
        name = prefix + entry.name
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _walk(entry.path, f"{name}/", (*above, here), on_other_file)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS:  # noqa: PTH122
            yield Record(entry.path, {"image": name})
        else:
            on_other_file(printable(name))


def _listed(folder: str) -> tuple[_Inode, list[os.DirEntry[str]]]:
    try:
        info = os.stat(folder)  # noqa: PTH116  names may be undecodable; text throughout
        entries = sorted(os.scandir(folder), key=lambda entry: _natural_key(entry.name))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed ({error.strerror})") from error
    return (info.st_dev, info.st_ino), entries


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False for a link to itself too: that becomes one row, which fails."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Numbers by their value, letters without case; the name itself where all else is equal."""
    parts = _DIGITS.split(name.casefold())
    return [int(part) if n % 2 else part for n, part in enumerate(parts)], name
