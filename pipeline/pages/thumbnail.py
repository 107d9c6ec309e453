"""A picture as it was sent, but small: for pages."""

from __future__ import annotations

from ..pictures.decode import Frame, decode
from ..pictures.encode import encode
from ..pictures.files import read_file
from ..pictures.header import read_header


def thumbnail(path: str, side_px: int, frame: Frame, background: str) -> bytes:
    """JPEG whose longest side is at most `side_px`. Raises RowError where the file is no picture."""

    def fit(width: int, height: int) -> tuple[int, int]:
        long = max(width, height, side_px)
        return max(1, width * side_px // long), max(1, height * side_px // long)

    data = read_file(path)
    image, _ = decode(path, data, read_header(data), fit, frame, background)
    return encode(image, "JPEG", 80, None).data
