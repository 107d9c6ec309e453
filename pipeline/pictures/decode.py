"""The bytes of a file -> a picture as it is sent: upright, in its size, 8 bits, sRGB, without transparency.

The order makes each step cheaper for the next: the JPEG decoder itself shrinks by powers of two, then one good
resampling, then colour, background and orientation.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from ..nouns.errors import RowError
from . import colour
from .header import Header, is_heif, is_unusual_jpeg
from .metadata import without_metadata
from .segments import PNG_SIGNATURE

# What may be opened: every raster format that Pillow reads itself. Not EPS and WMF, which run other
# programs, nor names that need a plugin.
FORMATS = (
    "JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "ICO", "CUR", "ICNS", "JPEG2000",
    "PPM", "PCX", "DCX", "SGI", "QOI", "DDS", "PSD", "SUN", "XBM", "XPM", "MSP", "FLI", "FITS",
    "BLP", "FTEX", "GBR", "PIXAR", "SPIDER", "TGA",
)  # fmt: skip
JPEG_FORMATS = ("JPEG", "MPO")
MAX_PIXELS = 180_000_000  # that are decoded at all: about 0.5 GB as RGB
MAX_JPEG_PIXELS = 250_000_000  # of a JPEG, whose decoder can shrink
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
LARGE_PIXELS = 30_000_000  # pictures above this are decoded one at a time, in a process of their own
_MAX_SIDE_PX = 262_144  # no camera, scanner or slide is longer; a damaged header often is
_MAX_COEFFICIENT_BYTES = 900 * 2**20
_STRIP_ROWS = 256
DRAFT_SHARE = (
    0.97  # of the bound: a half or quarter of the size that is at least this large is taken as it is
)
# formats whose frames are moments or pages; elsewhere they are layers, depth maps, other sizes
_FRAME_FORMATS = ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "FLI", "DCX")
_PLAIN_MODES = {
    "1": "L",
    "PA": "RGBA",
    "La": "LA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
}

# 3: upside down, 6 and 8: turned phone, the others are mirrored
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Size = tuple[int, int]
Fit = Callable[[int, int], Size]  # width, height -> the size to send, never larger
Frame = Literal["first", "middle"] | int

warnings.filterwarnings("ignore", module="PIL")  # about metadata; what matters raises
# MAX_PIXELS is checked for every picture before it is decoded; this is for pictures inside of it
Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS
# what decoders and libtiff say of a valid file that they cannot read
UNSUPPORTED = re.compile(
    r"unsupported|not supported|not (?:yet )?implemented|not configured|not available|cannot handle|unrecognized"
    r"|unknown (?:pixel|raw|compression|encoding|format|data)|can(?:not|'t) (?:read|decode) (?:this|such)",
    re.I,
)


def decode(
    path: str, data: bytes, header: Header | None, fit: Fit, frame: Frame, background: str
) -> tuple[Image.Image, str]:
    """The picture, L or RGB, and the format that it was in.

    path: for messages. header: what `read_header` says of data. fit: the size to send. frame: first, middle or
    a number from 1. background: #rrggbb, under transparent pixels. Raises RowError that names path.
    """
    if header is not None:
        limit = MAX_JPEG_PIXELS if header.format == "jpeg" else MAX_PIXELS
        _check_size(path, (header.width, header.height), limit)
    try:
        with _open(path, data) as image:
            _seek(image, frame)
            is_jpeg = image.format in JPEG_FORMATS
            _check_size(path, image.size, MAX_JPEG_PIXELS if is_jpeg else MAX_PIXELS)
            if is_jpeg:
                _check_coefficients(path, image)
            size = _draft(image, fit) if is_jpeg else fit(*image.size)
            _check_size(path, image.size, MAX_PIXELS)
            if image.format == "PNG":
                _rescale_transparency(image, depth=data[24])
            return _upright(image, header, size, background), image.format or ""
    except RowError:
        raise
    # decoders raise many things on damaged files: OSError, SyntaxError, ValueError, struct.error ...
    except Exception as error:
        raise _named(path, data, error) from error


def _named(path: str, data: bytes, error: Exception) -> RowError:
    """What a decoder raised, as the error of a row: too large, not supported, or damaged."""
    if isinstance(error, MemoryError):
        return RowError(f"{path}: not enough memory to decode it", kind="image_too_large")
    if isinstance(error, Image.DecompressionBombError):
        return RowError(f"{path}: a picture inside it is too large ({error})", kind="image_too_large")
    if isinstance(error, NotImplementedError) or UNSUPPORTED.search(str(error)) or is_unusual_jpeg(data):
        return RowError(
            f"{path}: a variant of its format that cannot be read ({error}); convert it first",
            kind="image_format",
        )
    return RowError(f"{path}: damaged picture ({error})", kind="image_broken")


def bound_inner_pictures() -> None:
    """For a process that decodes any format: Pillow refuses twice this number of pixels, also inside a picture."""
    Image.MAX_IMAGE_PIXELS = MAX_JPEG_PIXELS // 2


def embedded_profile(data: bytes) -> tuple[bytes | None, str]:
    """The ICC profile of a JPEG or PNG and the mode of its pixels; nothing is decoded.

    Raises what Pillow raises for a broken header.
    """
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        mode = "RGB" if image.mode == "P" else image.mode
        return image.info.get("icc_profile"), mode


def _upright(image: Image.Image, header: Header | None, size: Size, background: str) -> Image.Image:
    image.load()
    orientation = header.orientation if header else orientation_of(image)
    picture = _shrunk_in_strips(image, size) or _plain(image, image)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    picture = _flatten(colour.to_srgb(picture, image.info.get("icc_profile")), background)
    picture.info = {}  # else comments and profiles of the file are saved too
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


# ------------------------------------------------------------------------------- opening


def _register_heif() -> bool:
    try:
        import pillow_heif  # noqa: PLC0415  optional, and slow to import
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def opened(path: str, data: bytes, frame: Frame) -> Image.Image:
    """The picture at its frame with size, format and EXIF, not decoded yet. Raises RowError that names path.

    path: for messages. frame: first, middle or a number from 1.
    """
    try:
        image = _open(path, data)
        _seek(image, frame)
    except RowError:
        raise
    except Exception as error:  # decoders raise many things on damaged files, as in `decode`
        raise _named(path, data, error) from error
    _check_size(path, image.size, MAX_JPEG_PIXELS if image.format in JPEG_FORMATS else MAX_PIXELS)
    return image


def _open(path: str, data: bytes) -> Image.Image:
    formats: tuple[str, ...] = FORMATS
    if is_heif(data):
        if not _register_heif():
            raise RowError(
                f"{path}: a HEIC picture; install the extra to read it: pip install 'captionmill[heif]'",
                kind="image_format",
            )
        formats = ("HEIF",)
    if data.startswith(PNG_SIGNATURE):
        data = without_metadata(data) or data  # a compressed text can be a decompression bomb
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise RowError(
            f"{path}: not a picture in a format that can be read (starts with {data[:8]!r})",
            kind="image_format",
        ) from error


def _seek(image: Image.Image, frame: Frame) -> None:
    """Go to the frame that is sent; the last one where the file has fewer."""
    count = getattr(image, "n_frames", 1) if frame != "first" and image.format in _FRAME_FORMATS else 1
    if count > 1:
        image.seek(count // 2 if isinstance(frame, str) else min(frame, count) - 1)


def _check_size(path: str, size: Size, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels or max(size) > _MAX_SIDE_PX:
        raise RowError(
            f"{path}: {size[0]} x {size[1]} pixels, more than {max_pixels:,} in all; shrink it first",
            kind="image_too_large",
        )


def _check_coefficients(path: str, image: Image.Image) -> None:
    """A progressive JPEG is kept as coefficients of two bytes until its last scan, however small it is sent."""
    layers = getattr(image, "layer", [])
    if not (image.info.get("progressive") and layers):
        return
    # (component, horizontal, vertical, table): of samples in each block
    samples = sum(across * down for _, across, down, *_ in layers)
    largest = max(across for _, across, *_ in layers) * max(down for _, _, down, *_ in layers)
    width, height = image.size
    if 2 * width * height * samples / largest > _MAX_COEFFICIENT_BYTES:
        raise RowError(
            f"{path}: a progressive JPEG of {width} x {height} pixels takes too much memory; save it as baseline",
            kind="image_too_large",
        )


def _draft(image: Image.Image, fit: Fit) -> Size:
    """Let the JPEG decoder itself shrink to a half, a quarter or an eighth, at a third of the cost.

    A half or a quarter that is only a few per cent smaller than the bound is sent as it is (an eighth is
    blurred: averages of blocks); otherwise the decoder stays above the bound. Returns the size to resize to.
    """
    width, height = image.size
    divisor, size = jpeg_size(width, height, fit)
    image.draft(None, size if divisor is None else (max(1, width // divisor), max(1, height // divisor)))
    return size


def jpeg_size(width: int, height: int, fit: Fit) -> tuple[int | None, Size]:
    """(divisor, size): the divisor of the decoder whose result is sent, else None; and the size that is sent."""
    size = fit(width, height)
    for divisor in (2, 4):
        drafted = -(-width // divisor), -(-height // divisor)
        if max(drafted) >= DRAFT_SHARE * max(size) and fit(*drafted) == drafted:
            return divisor, drafted
    return None, size


def orientation_of(image: Image.Image) -> int:
    """EXIF 1 to 8; 1 where there is none."""
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) else 1


# ------------------------------------------------------------------------------- pixels


def _shrunk_in_strips(image: Image.Image, size: Size) -> Image.Image | None:
    """A large picture, shrunk by a whole number before the last resampling; None where that is not needed.

    Most conversions and a resampling with transparency make a copy of what they are given; of a strip, that is
    little.
    """
    factor = int(min(image.width / size[0], image.height / size[1]) / 2)
    if image.width * image.height <= LARGE_PIXELS or factor < 2 or image.mode in ("RGB", "L", "I", "F"):
        return None
    shrunk = None
    for top in range(0, image.height, _STRIP_ROWS * factor):
        strip = image.crop((0, top, image.width, min(image.height, top + _STRIP_ROWS * factor)))
        piece = _plain(strip, image).reduce(factor)
        if shrunk is None:
            shrunk = Image.new(piece.mode, (-(-image.width // factor), -(-image.height // factor)))
        shrunk.paste(piece, (0, top // factor))
    return shrunk


def _plain(image: Image.Image, file: Image.Image) -> Image.Image:
    """8 bits, no palette, transparency as a channel: what can be resampled.

    image: the picture, or a strip of it. file: what was opened.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image, file)
    if image.mode not in ("LA", "RGBA") and image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "P":
        return image.convert("RGB")
    if image.mode == "CMYK" and file.format in JPEG_FORMATS and "adobe" not in image.info:
        # writers other than Adobe store it inverted; the decoder assumes Adobe
        return ImageChops.invert(image)
    return image.convert(_PLAIN_MODES[image.mode]) if image.mode in _PLAIN_MODES else image


def _eight_bits(image: Image.Image, file: Image.Image) -> Image.Image:
    """16 bits scaled by their range; 32 bits and floats from 0 to 1, to 255 or to 65,535, else by their extremes."""
    if image.mode.startswith("I;16"):
        return _sixteen_bits(image, getattr(file, "tag_v2", {}))
    low, high = image.getextrema()
    assert isinstance(low, int | float) and isinstance(high, int | float)  # noqa: S101  one band
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its floats are not all numbers")
    scale, offset = 255 / ((high - low) or 1), low
    if low >= 0 and high <= 65_535:
        whole = 1.0 if image.mode == "F" and high <= 1 else 255.0 if high <= 255 else 65_535.0
        scale, offset = 255 / whole, 0.0
    return image.point(lambda value: value * scale + (0.5 - offset * scale)).convert("L")


def _sixteen_bits(image: Image.Image, tags: Any) -> Image.Image:
    """Scaled by its number of bits: in a scan of 12 bits 4,095 is white. tags: of a TIFF, else empty."""
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    white = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    grey = image.convert("I").point(lambda value: value * (255 / white) + 0.5).convert("L")
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero; the decoder handles that for 8 bits only
        grey = ImageChops.invert(grey)
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        mask = Image.fromarray(np.where(np.asarray(image) == hidden, 0, 255).astype(np.uint8))
        grey.putalpha(mask)
    return grey


def _rescale_transparency(image: Image.Image, depth: int) -> None:
    """A PNG gives its transparent colour in the file's own depth, but samples are decoded to 8 bits."""
    hidden = image.info.get("transparency")
    if image.mode == "L" and isinstance(hidden, int) and depth in (2, 4):
        image.info["transparency"] = hidden * (255 // (2**depth - 1))
    elif image.mode == "RGB" and isinstance(hidden, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in hidden)


def _flatten(image: Image.Image, background: str) -> Image.Image:
    """Transparent pixels over the background: servers disagree about the colour under them."""
    if image.mode not in ("LA", "RGBA"):
        return image
    rgba = image.convert("RGBA")
    backdrop = Image.new("RGBA", rgba.size, background)
    return Image.alpha_composite(backdrop, rgba).convert("RGB")
