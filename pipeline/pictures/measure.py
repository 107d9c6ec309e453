"""What a picture will be sent as, by its header alone: some thousand files a second."""

from __future__ import annotations

from dataclasses import dataclass

from ..nouns.errors import RowError
from ..nouns.rows import PictureBounds
from .decode import (
    JPEG_FORMATS,
    MAX_JPEG_PIXELS,
    MAX_PIXELS,
    Frame,
    jpeg_size,
    opened,
    orientation_of,
)
from .encode import base64_size
from .files import read_ends, read_file, read_tail
from .header import read_header
from .render import Bounds, Look
from .renderer import Renderer
from .segments import JPEG_END, JPEG_SIGNATURE, PNG_SIGNATURE

_FIRST_BYTES = (16_384, 262_144)  # a camera's preview may stand before the size
_LAST_BYTES = 65_536
_ENDS = {"jpeg": JPEG_END, "png": b"\x60\x82"}
_BYTES_A_PIXEL = 0.2  # of a photo as JPEG of quality 85, roughly


@dataclass(frozen=True, slots=True)
class Measured:
    """The picture of a file. width, height: in pixels as stored, before the orientation is applied.

    orientation: EXIF 1 to 8. is_plain: as in `Header`. byte_count: of the file.
    """

    width: int
    height: int
    orientation: int
    is_jpeg: bool
    is_plain: bool
    byte_count: int

    def sent_size(self, bounds: PictureBounds, count: int) -> tuple[int, int]:
        """Width and height in pixels as it is sent, upright. count: pictures in its row."""

        def fit(width: int, height: int) -> tuple[int, int]:
            return bounds.fit(width, height, count)

        size = self.width, self.height
        if not self._is_sent_as_it_is(bounds, count):
            size = jpeg_size(*size, fit)[1] if self.is_jpeg else fit(*size)
            size = bounds.canvas(*size)
        return (size[1], size[0]) if self.orientation >= 5 else size

    def sent_bytes(self, bounds: PictureBounds, count: int) -> int:
        """Bytes of its base64: exact where the file is sent as it is, else an estimate. count: pictures in its row."""
        if self._is_sent_as_it_is(bounds, count):
            return base64_size(self.byte_count)
        width, height = self.sent_size(bounds, count)
        return round(width * height * _BYTES_A_PIXEL * 4 / 3)

    def _is_sent_as_it_is(self, bounds: PictureBounds, count: int) -> bool:
        size = self.width, self.height
        return self.is_plain and self.orientation == 1 and bounds.canvas(*bounds.fit(*size, count)) == size


def measure(path: str, frame: Frame) -> Measured:
    """Read the header of a file. frame: first, middle or a number from 1. Raises RowError where it shows no picture."""
    data, size = b"", 0
    for first_bytes in _FIRST_BYTES:
        data, size = read_ends(path, first_bytes)
        if (header := read_header(data)) is not None:
            is_jpeg = header.format == "jpeg"
            if header.width * header.height > (MAX_JPEG_PIXELS if is_jpeg else MAX_PIXELS):
                raise RowError(
                    f"{path}: {header.width} x {header.height} pixels; shrink it first",
                    kind="image_too_large",
                )
            if not (data.endswith(_ENDS[header.format]) or _ends_before_its_end(path, size)):
                _check_whole(path, frame)  # may be cut: only decoding tells
            # of a PNG only the whole file would tell
            is_plain = header.is_plain if is_jpeg or size <= first_bytes else True
            return Measured(header.width, header.height, header.orientation, is_jpeg, is_plain, size)
        if not data.startswith((JPEG_SIGNATURE, PNG_SIGNATURE)):
            break
    with opened(path, read_file(path), frame) as image:
        return Measured(*image.size, orientation_of(image), image.format in JPEG_FORMATS, False, size)


def measure_bytes(path: str, data: bytes, frame: Frame) -> Measured:
    """The same of a picture that is no file. path: for messages. Raises RowError."""
    if (header := read_header(data)) is not None:
        is_jpeg = header.format == "jpeg"
        size = header.width, header.height
        return Measured(*size, header.orientation, is_jpeg, header.is_plain, len(data))
    with opened(path, data, frame) as image:
        return Measured(*image.size, orientation_of(image), image.format in JPEG_FORMATS, False, len(data))


def _ends_before_its_end(path: str, size: int) -> bool:
    """Phones append data behind the end mark of a JPEG. In a small file the mark may be that of a preview."""
    return size > 4 * _LAST_BYTES and JPEG_END in read_tail(path, _LAST_BYTES)


def _check_whole(path: str, frame: Frame) -> None:
    """Raises RowError where the picture cannot be decoded; an eighth of it costs little."""
    data = read_file(path)
    bounds = Bounds(lambda w, h: (max(1, w // 8), max(1, h // 8)), lambda w, h: (w, h))
    Renderer().render(path, data, "", bounds, Look(frame, "#ffffff", jpeg_quality=30))
