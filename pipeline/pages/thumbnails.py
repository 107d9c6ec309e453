"""Small pictures for pages: each as it was sent, but small."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path

from ..accounts.run_images import RunImages
from ..nouns.errors import RowError, disk_error
from ..pictures.files import read_file
from ..pictures.render import Bounds, Look
from ..pictures.renderer import Renderer

SIDE_PX = 320
_JPEG_QUALITY = 80


def thumbnail(images: RunImages, path: str, data: bytes | None = None) -> bytes:
    """JPEG whose longest side is at most SIDE_PX. Raises RowError where the file is not a picture.

    images: of the run, for the frame and the background that it sent. data: of the picture; None for a file.
    """

    def fit(width: int, height: int) -> tuple[int, int]:
        long = max(width, height, SIDE_PX)
        return max(1, width * SIDE_PX // long), max(1, height * SIDE_PX // long)

    look = Look(images.frame, images.background, _JPEG_QUALITY, is_jpeg=True)
    bounds = Bounds(fit, canvas=lambda width, height: (width, height))
    return Renderer().render(path, read_file(path) if data is None else data, "", bounds, look).data


def data_url(images: RunImages, image: str) -> str | None:
    """A thumbnail inside the page itself. image: as the dataset names it. None for a URL or an unreadable file."""
    path = images.path(image)
    if path is None:
        return None
    try:
        data = None if Path(path).exists() else next((d for _, d in images.embedded({image})), None)
        return f"data:image/jpeg;base64,{base64.b64encode(thumbnail(images, path, data)).decode()}"
    except RowError:
        return None


class ThumbnailFolder:
    """Thumbnails as files, made once, and anew where the picture has changed since. Safe in several threads.

    folder: is made if needed. Raises RunError where it cannot be written.
    """

    def __init__(self, folder: Path, images: RunImages) -> None:
        self._folder = folder
        self._images = images
        self._embedded: set[str] = set()  # images with a thumbnail that are no files; `add_embedded` adds
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(folder, "made", error) from error

    def add_embedded(self, images: Set[str]) -> None:
        """Make the thumbnails of those images that stand in the manifest. Call it before `names`."""
        source = str(self._images.source)
        for image, data in self._images.embedded(images):
            target = self._target(str(self._images.path(image)))
            try:
                if not _is_newer(target, source):
                    _write(target, thumbnail(self._images, image, data))
            except RowError:
                continue
            except OSError as error:
                raise disk_error(target, "written", error) from error
            self._embedded.add(image)

    def names(self, images: Sequence[str]) -> list[str]:
        """The file names of some images' thumbnails; URLs and unreadable files are left out."""
        return [name for image in images if (name := self._name(image)) is not None]

    def _name(self, image: str) -> str | None:
        path = self._images.path(image)
        if path is None:
            return None
        target = self._target(path)
        if image in self._embedded:
            return target.name
        try:
            if not _is_newer(target, path):
                _write(target, thumbnail(self._images, path))
        except RowError:
            return None
        except OSError as error:
            raise disk_error(target, "written", error) from error
        return target.name

    def _target(self, path: str) -> Path:
        what = f"{path}|{self._images.frame}|{self._images.background}"
        return (
            self._folder / f"{hashlib.sha256(what.encode('utf-8', 'surrogateescape')).hexdigest()[:24]}.jpg"
        )


def _write(target: Path, data: bytes) -> None:
    # a name of its own: two threads may write the thumbnail of one picture at once
    temporary = target.with_suffix(f".{random.getrandbits(32):08x}.tmp")
    temporary.write_bytes(data)
    temporary.replace(target)


def _is_newer(target: Path, path: str) -> bool:
    with suppress(OSError, ValueError):
        return target.stat().st_mtime_ns >= Path(path).stat().st_mtime_ns
    return False
