"""The bytes of a file -> the bytes that are sent, in this process: decoded, on its canvas, encoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from PIL import Image

from ..nouns.errors import RowError
from .decode import Frame, decode
from .encode import DoesNotFit, Encoded, base64_size, encode
from .header import read_header

Size = tuple[int, int]


class Look(NamedTuple):
    """How a picture shall look.

    frame: first, middle or a number from 1. background: #rrggbb, under transparent pixels. jpeg_quality: 1 to 95.
    is_jpeg: never a PNG, even where that is smaller.
    """

    frame: Frame
    background: str
    jpeg_quality: int
    is_jpeg: bool = False


class Bounds(NamedTuple):
    """How large a picture may be.

    fit: (width, height) in pixels -> the size to send, never larger. canvas: that size with the border that the
    provider needs. base64_bytes: None for any.
    """

    fit: Callable[[int, int], Size]
    canvas: Callable[[int, int], Size]
    base64_bytes: int | None = None


class Render(Protocol):
    """A way to make a picture: here, or in another process."""

    def __call__(self, path: str, data: bytes, bounds: Bounds, look: Look) -> Encoded:
        """The picture as it is sent. path: for messages. data: of the file. Raises RowError that names path."""


def render(path: str, data: bytes, bounds: Bounds, look: Look) -> Encoded:
    """Decode and encode in this thread. Raises RowError that names path."""
    image, format_name = decode(path, data, read_header(data), bounds.fit, look.frame, look.background)
    canvas = bounds.canvas(*image.size)
    if canvas != image.size:
        image = _on_canvas(image, canvas, look.background)
    limit, source_format = bounds.base64_bytes, "JPEG" if look.is_jpeg else format_name
    try:
        return encode(image, source_format, look.jpeg_quality, None if limit is None else limit // 4 * 3)
    except DoesNotFit as error:
        raise RowError(
            f"{path}: {base64_size(error.min_bytes):,} bytes of base64 even at the smallest size and quality,"
            f" more than {limit:,} (--max-bytes, --max-request-bytes)",
            kind="image_too_large",
        ) from None


def _on_canvas(image: Image.Image, size: Size, background: str) -> Image.Image:
    canvas = Image.new("RGB", size, background)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas
