"""A folder and all folders in it: which files are images, and in which order they come."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

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

# what storage and operating systems keep beside the user's files: thumbnails, deleted files, old versions of files
_SYSTEM_FOLDER = re.compile(
    r"@eadir|@(?:tmp|recycle|recently-snapshot|sharebin|database|sharesnap)|#(?:recycle|snapshot)|~snapshot"  # Synology, QNAP, NetApp
    r"|\$recycle\.bin|recycle(?:d|r)|system volume information|found\.\d{3}|\$windows\.~\w+"  # Windows
    r"|__macosx|network trash folder|temporary items|thevolumesettingsfolder|lost\+found",  # macOS, Linux
    re.I,
)

OnOtherFile = Callable[[str], None]
_Inode = tuple[int, int]
_Listed = tuple[_Inode, list[os.DirEntry[str]]]


def _ignore(_name: str) -> None:
    pass


class LeftOut(NamedTuple):
    """Is told, with its path below the source, of what is no row.

    file: that is not an image. system_folder: of a storage or operating system. unreadable: a folder that cannot be
    listed, with the reason.
    """

    file: OnOtherFile = _ignore
    system_folder: OnOtherFile = _ignore
    unreadable: OnOtherFile = _ignore


def read_folder(folder: Path, left_out: LeftOut | None = None) -> Iterator[Record]:
    """One record an image, in natural order (2.jpg before 10.jpg), with its path relative to `folder`.

    left_out: None for silence. Hidden files and folders, run folders inside `folder`, and links back up are left
    out silently. Raises UsageError where `folder` itself cannot be listed.
    """
    try:
        listed = _listed(str(folder))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be listed ({error.strerror})") from error
    yield from _walk(listed, "", (), left_out or LeftOut())


def _walk(listed: _Listed, prefix: str, above: tuple[_Inode, ...], left_out: LeftOut) -> Iterator[Record]:
    """prefix: of relative paths, "" or "a/b/". above: the folders around this one, to notice a loop of links."""
    here, entries = listed
    if here in above or (prefix and any(entry.name == _RUN_FOLDER_MARK for entry in entries)):
        return
    for entry in entries:
        name = prefix + entry.name
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _walk_inner(entry, name, (*above, here), left_out)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS:  # noqa: PTH122
            yield Record(entry.path, {"image": name})
        else:
            left_out.file(printable(name))


def _walk_inner(
    entry: os.DirEntry[str], name: str, above: tuple[_Inode, ...], left_out: LeftOut
) -> Iterator[Record]:
    if _SYSTEM_FOLDER.fullmatch(entry.name):
        left_out.system_folder(printable(name))
        return
    try:
        listed = _listed(entry.path)
    except OSError as error:
        left_out.unreadable(f"{printable(name)} ({error.strerror})")
        return
    yield from _walk(listed, f"{name}/", above, left_out)


def _listed(folder: str) -> _Listed:
    """Raises OSError."""
    info = os.stat(folder)  # noqa: PTH116  names may be undecodable; text throughout
    entries = sorted(os.scandir(folder), key=lambda entry: _natural_key(entry.name))
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
