"""File -> upright picture within bounds, or the file's own bytes without metadata. The one place that sees Pillow here.

The cheapest way first: a JPEG or PNG that is plain, upright and small enough is sent as it is, but for its metadata (read,
hash, base64: about 0.1 ms for 100 KB). Anything else is decoded, turned, shrunk and sent as JPEG.
Pillow and hashlib release the GIL, so pictures are prepared in threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import stat
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pybase64
from PIL import Image, UnidentifiedImageError

from ..nouns.config import ImageSettings
from ..nouns.errors import RowError
from ..nouns.metadata import without_metadata
from ..nouns.rows import Picture, Prepared, Row
from ..nouns.sniff import Header, is_heif, read_header

# What may be opened: raster formats whose decoders run no code and no other program.
FORMATS = (
    "JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "ICO", "ICNS", "JPEG2000",
    "PPM", "TGA", "PCX", "SGI", "QOI", "DDS",
)  # fmt: skip
MOST_PIXELS = 180_000_000  # what one thread may decode: about 0.5 GB as RGB
DRAFT_SHARE = 0.97
MOST_FILE_BYTES = 512 * 2**20
_SHARED_HOP_SECONDS = 0.01
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)

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


def _register_heif() -> bool:
    try:
        import pillow_heif  # noqa: PLC0415  optional, and slow to import
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


class PicturePreparer:
    """Prepares the pictures of one run.

    settings: bounds and quality. All methods may be called from several threads.
    """

    def __init__(self, settings: ImageSettings) -> None:
        self._max_side_px = settings.max_side
        self._jpeg_quality = settings.jpeg_quality
        self._background = settings.background
        self._strips_metadata = settings.strip_metadata

    def prepare_row(self, row: Row) -> tuple[Picture, ...]:
        """All pictures of a row, in their order. Raises RowError for the first that can't be read."""
        return tuple(self.prepare(path) for path in row.paths)

    def prepare(self, path: str) -> Picture:
        """One picture, ready to be sent. Raises RowError that names the file."""
        data = read_file(path)
        header = read_header(data)
        if header and header.is_plain and header.orientation == 1 and self._fits(header):
            sent = without_metadata(data) if self._strips_metadata else data
            mime, size = header.mime, (header.width, header.height)
        else:
            sent, mime, size = self._encode(path, data, header)
        return Picture(
            base64=pybase64.b64encode(sent),
            mime=mime,
            width=size[0],
            height=size[1],
            byte_count=len(sent),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def _fits(self, header: Header) -> bool:
        return max(header.width, header.height) <= self._max_side_px

    def _encode(self, path: str, data: bytes, header: Header | None) -> tuple[bytes, str, tuple[int, int]]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about metadata; what matters raises
                with _open(path, data) as image:
                    upright = self._upright(image, header)
                    out = io.BytesIO()
                    upright.save(out, "JPEG", quality=self._jpeg_quality)
                    return out.getvalue(), "image/jpeg", upright.size
        except RowError:
            raise
        except MemoryError as error:
            raise RowError(f"{path}: not enough memory to decode it", kind="image_too_large") from error
        # decoders raise what they like on damaged files: OSError, SyntaxError, ValueError, struct.error ...
        except Exception as error:
            raise RowError(f"{path}: damaged picture ({error})", kind="image_broken") from error

    def _upright(self, image: Image.Image, header: Header | None) -> Image.Image:
        """Decoded, shrunk into the bound, turned upright, in L or RGB."""
        size = self._target_size(image.size)
        if image.format in ("JPEG", "MPO"):
            size = self._draft(image, size)
        image.load()
        orientation = header.orientation if header else _orientation(image)
        flat = self._flatten(_eight_bits(image))
        if flat.size != size:
            flat = flat.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        if flat.mode not in ("L", "RGB"):
            flat = flat.convert("RGB")
        return flat.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else flat

    def _draft(self, image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
        """Let the JPEG decoder itself shrink to a half, a quarter or an eighth, at a third of the cost.

        Where a half or a quarter lies within a few per cent under the bound it is the size that is sent
        (an eighth is soft: mere averages of blocks); otherwise the decoder stays above `size`. Returns the size to resize to.
        """
        width, height = image.size
        for divisor in (2, 4):
            drafted = -(-width // divisor), -(-height // divisor)
            if DRAFT_SHARE * self._max_side_px <= max(drafted) <= self._max_side_px:
                image.draft(None, (width // divisor, height // divisor))
                return drafted
        image.draft(None, size)
        return size

    def _target_size(self, size: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, self._max_side_px / max(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def _flatten(self, image: Image.Image) -> Image.Image:
        """Transparent pixels over the background; JPEG has none and hidden colours must not show."""
        if not image.has_transparency_data:
            return image.convert("RGB") if image.mode == "P" else image
        rgba = image.convert("RGBA")
        backdrop = Image.new("RGBA", rgba.size, self._background)
        return Image.alpha_composite(backdrop, rgba).convert("RGB")


def read_file(path: str) -> bytes:
    """The bytes of a regular file. Raises RowError for anything else, without waiting on pipes."""
    if path.startswith(("http://", "https://")):
        raise RowError(f"{path}: pictures are read from files; download it first", kind="image_remote")
    try:
        descriptor = os.open(path, _READ_FLAGS)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123  not a path
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise RowError(f"{path}: not a regular file", kind="image_unreadable")
            if info.st_size > MOST_FILE_BYTES:
                raise RowError(
                    f"{path}: {info.st_size:,} bytes, more than {MOST_FILE_BYTES:,}", kind="image_too_large"
                )
            data = file.readall()
    except FileNotFoundError as error:
        raise RowError(f"{path}: no such file", kind="image_missing") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise RowError(f"{path}: cannot be read ({reason})", kind="image_unreadable") from error
    if not data:
        raise RowError(f"{path}: the file is empty", kind="image_broken")
    return data


def _open(path: str, data: bytes) -> Image.Image:
    formats: tuple[str, ...] = FORMATS
    if is_heif(data):
        if not _register_heif():
            raise RowError(
                f"{path}: a HEIC picture; install the extra to read it: pip install 'captionmill[heif]'",
                kind="image_format",
            )
        formats = ("HEIF",)
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise RowError(
            f"{path}: not a picture in a format that can be read (starts with {data[:8]!r})",
            kind="image_format",
        ) from error
    if image.width * image.height > MOST_PIXELS:
        raise RowError(
            f"{path}: {image.width} x {image.height} pixels, more than {MOST_PIXELS:,} in all",
            kind="image_too_large",
        )
    return image


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and float grey scaled, not clipped, to 8 bits."""
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in ("I", "F"):
        low, high = image.getextrema()
        assert isinstance(low, int | float) and isinstance(high, int | float)  # noqa: S101  one band
        scale = 255 / ((high - low) or 1)
        return image.point(lambda value: value * scale - low * scale).convert("L")
    return image


Image.MAX_IMAGE_PIXELS = None  # MOST_PIXELS is checked for every picture, before it is decoded


class PicturePool:
    """Prepares pictures in threads, ahead of the requests.

    threads: None means one a core.
    """

    def __init__(self, preparer: PicturePreparer, threads: int | None = None) -> None:
        self._preparer = preparer
        self.threads = threads or max(2, os.cpu_count() or 1)
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="prepare")

    async def prepare(self, rows: Sequence[Row]) -> list[Prepared]:
        """The pictures of the first of `rows`, as many as take about 10 ms; at least one row's.

        A hop to a thread and back costs as much as a small picture itself, so small ones share it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._prepare_some, rows)

    def _prepare_some(self, rows: Sequence[Row]) -> list[Prepared]:
        until = time.monotonic() + _SHARED_HOP_SECONDS
        done: list[Prepared] = []
        for row in rows:
            try:
                done.append((row, self._preparer.prepare_row(row)))
            except RowError as error:
                done.append((row, error))
            except MemoryError:
                done.append((row, RowError(f"{row.id}: not enough memory for it", kind="image_too_large")))
            if time.monotonic() > until:
                break
        return done

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)  # a large picture must not hold up a stop
