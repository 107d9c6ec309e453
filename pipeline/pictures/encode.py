"""A picture -> JPEG or PNG, the smaller of the two, within a number of bytes."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

from PIL import Image

JPEG, PNG = "image/jpeg", "image/png"
# photos and pictures that were lossy before: a PNG of them is never smaller
_PHOTO_FORMATS = ("JPEG", "MPO", "HEIF", "AVIF", "JPEG2000")
_SAMPLE_STRIPS = 8
_SAMPLE_ROWS = 16
_SMALL_SIDE_PX = 512  # at this size quality is lowered before the picture is shrunk further
_MIN_SIDE_PX = 64
_LOWER_QUALITIES = (70, 50, 30)


class DoesNotFit(Exception):
    """Too many bytes even at the smallest size and the lowest quality. min_bytes: what it takes there."""

    def __init__(self, min_bytes: int) -> None:
        super().__init__(min_bytes)
        self.min_bytes = min_bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """data: the file. size: width and height in pixels."""

    data: bytes
    mime: str
    size: tuple[int, int]


def encode(image: Image.Image, source_format: str, quality: int, max_bytes: int | None) -> Encoded:
    """Photos as JPEG, flat graphics and text as PNG where that is smaller.

    image: L or RGB. source_format: Pillow's name. quality: of JPEG, 1 to 95. max_bytes: None for any; reached by
    a smaller size first, then by a lower quality. Raises DoesNotFit.
    """
    may_be_png = source_format not in _PHOTO_FORMATS and _is_flat(image, quality)
    encoded = _smaller(image, may_be_png, quality)
    if max_bytes is None:
        return encoded
    while len(encoded.data) > max_bytes and max(image.size) > _SMALL_SIDE_PX:
        image = _shrunk(image, max_bytes / len(encoded.data), _SMALL_SIDE_PX)
        encoded = _smaller(image, may_be_png, quality)
    for lower in _LOWER_QUALITIES:
        if len(encoded.data) > max_bytes and lower < quality:
            encoded = _jpeg(image, lower)
    while len(encoded.data) > max_bytes and max(image.size) > _MIN_SIDE_PX:
        image = _shrunk(image, max_bytes / len(encoded.data), _MIN_SIDE_PX)
        encoded = _jpeg(image, min(quality, _LOWER_QUALITIES[-1]))
    if len(encoded.data) > max_bytes:
        raise DoesNotFit(len(encoded.data))
    return encoded


def base64_size(byte_count: int) -> int:
    """Characters of the base64 text of so many bytes, padding included."""
    return -(-byte_count // 3) * 4


def _shrunk(image: Image.Image, share: float, min_side: int) -> Image.Image:
    """To a little under `share` of its pixels, the long side no shorter than `min_side`."""
    scale = max(0.95 * math.sqrt(share), min_side / max(image.size))
    size = max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _smaller(image: Image.Image, may_be_png: bool, quality: int) -> Encoded:
    jpeg = _jpeg(image, quality)
    if not may_be_png:
        return jpeg
    png = Encoded(_save(image, "PNG"), PNG, image.size)
    return png if len(png.data) <= len(jpeg.data) else jpeg


def _is_flat(image: Image.Image, quality: int) -> bool:
    """Whether a PNG may be smaller, judged by some strips of the picture: encoding all of it costs as much as decoding."""
    width, height = image.size
    if height > _SAMPLE_STRIPS * _SAMPLE_ROWS:
        sample = Image.new(image.mode, (width, _SAMPLE_STRIPS * _SAMPLE_ROWS))
        for strip in range(_SAMPLE_STRIPS):
            top = strip * (height - _SAMPLE_ROWS) // (_SAMPLE_STRIPS - 1)
            sample.paste(image.crop((0, top, width, top + _SAMPLE_ROWS)), (0, strip * _SAMPLE_ROWS))
    else:
        sample = image
    # the fastest compression is up to half as large again as the usual one
    return len(_save(sample, "PNG", compress_level=1)) < 1.5 * len(_jpeg(sample, quality).data)


def _jpeg(image: Image.Image, quality: int) -> Encoded:
    return Encoded(_save(image, "JPEG", quality=quality), JPEG, image.size)


def _save(image: Image.Image, format_name: str, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()
