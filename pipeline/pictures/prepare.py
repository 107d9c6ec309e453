"""A row's pictures, ready to be sent.

A JPEG or PNG that is plain, upright, in sRGB and within the bounds is sent as it is, without its metadata (read,
hash, base64: about 0.1 ms for 100 KB). Any other picture is decoded, turned upright, shrunk and encoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pybase64

from ..nouns.config import ImageSettings
from ..nouns.errors import RowError
from ..nouns.rows import Picture, PictureBounds, Row
from .cache import PictureCache
from .colour import is_srgb
from .decode import embedded_profile
from .encode import Encoded, base64_size
from .files import read_file
from .header import Header, read_header
from .metadata import without_metadata
from .notes import DecodeNotes
from .render import Bounds, Look
from .renderer import Renderer

Fetched = Mapping[str, bytes | RowError]  # by URL


class PicturePreparer:
    """Prepares the pictures of one run.

    settings: quality, frame, background. bounds: sizes and bytes. notes: of what is being decoded; None keeps none.
    Safe in several threads.
    """

    def __init__(
        self, settings: ImageSettings, bounds: PictureBounds, notes: DecodeNotes | None = None
    ) -> None:
        self._settings = settings
        self._look = Look(settings.frame, settings.background, settings.jpeg_quality)
        self._bounds = bounds
        self._renderer = Renderer(notes)
        self._cache = PictureCache()

    def prepare_row(self, row: Row, fetched: Fetched | None = None) -> tuple[Picture, ...]:
        """All pictures of a row, in their order. Raises RowError for the first that cannot be read.

        fetched: by URL, what was downloaded; None where no picture is a URL.
        """
        files = [(path, _bytes_of(path, fetched)) for path in row.paths]
        pictures = [self.prepare(path, data, len(files)) for path, data in files]
        max_bytes = self._bounds.request_bytes
        if max_bytes is None or sum(len(p.base64) for p in pictures) <= max_bytes:
            return tuple(pictures)
        share = _share([len(p.base64) for p in pictures], max_bytes)
        return tuple(
            picture if len(picture.base64) <= share else self.prepare(path, data, len(files), share)
            for picture, (path, data) in zip(pictures, files, strict=True)
        )

    def prepare(self, path: str, data: bytes, count: int = 1, base64_bytes: int | None = None) -> Picture:
        """One picture, ready to be sent. Raises RowError that names path.

        data: the bytes of its file. count: pictures in its row. base64_bytes: the bound of its base64; None for the
        run's.
        """
        max_bytes = self._bounds.base64_bytes if base64_bytes is None else base64_bytes
        sha256 = hashlib.sha256(data).hexdigest()
        header = read_header(data)
        if header is not None and self._may_pass(header, data, count):
            sent = without_metadata(data) if self._settings.strip_metadata else data
            if sent is not None and (max_bytes is None or base64_size(len(sent)) <= max_bytes):
                return _picture(Encoded(sent, header.mime, (header.width, header.height)), sha256)
        return self._cache.get(
            (sha256, count, max_bytes),
            lambda: _picture(self._render(path, data, sha256, count, max_bytes), sha256),
        )

    def _may_pass(self, header: Header, data: bytes, count: int) -> bool:
        """Whether every server shows the file's own bytes as we would, so that nothing has to be decoded."""
        size = header.width, header.height
        if not (header.is_plain and header.orientation == 1 and self._fit(*size, count) == size):
            return False
        if not header.has_profile:
            return True
        try:
            return is_srgb(*embedded_profile(data))
        except (OSError, SyntaxError, ValueError):  # decoding gives the reason
            return False

    def _fit(self, width: int, height: int, count: int) -> tuple[int, int]:
        """The size to send, with the border that the provider needs."""
        size = self._bounds.fit(width, height, count)
        return self._bounds.canvas(*size)

    def _render(self, path: str, data: bytes, sha256: str, count: int, max_bytes: int | None) -> Encoded:
        bounds = Bounds(lambda w, h: self._bounds.fit(w, h, count), self._bounds.canvas, max_bytes)
        return self._renderer.render(path, data, sha256, bounds, self._look)


def _bytes_of(path: str, fetched: Fetched | None) -> bytes:
    found = fetched.get(path) if fetched else None
    if isinstance(found, RowError):
        raise found
    if found == b"":
        raise RowError(f"{path}: the picture in the manifest is empty or broken", kind="image_broken")
    return read_file(path) if found is None else found


def _picture(encoded: Encoded, sha256: str) -> Picture:
    return Picture(
        base64=pybase64.b64encode(encoded.data),
        mime=encoded.mime,
        width=encoded.size[0],
        height=encoded.size[1],
        byte_count=len(encoded.data),
        sha256=sha256,
    )


def _share(sizes: list[int], max_bytes: int) -> int:
    """The bound of each picture with which all together stay within `max_bytes`; smaller ones keep their size."""
    available, ordered = max_bytes, sorted(sizes)
    for position, size in enumerate(ordered):
        share = available // (len(ordered) - position)
        if size > share:
            return share
        available -= size
    return ordered[-1]
