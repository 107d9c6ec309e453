"""What a file's own bytes say it is: format, size, orientation, and whether it may be sent untouched.

Pure, and nothing is decoded: some microseconds a file (Pillow would decode a whole PNG to say the orientation
of one without an eXIf chunk). Formats by ITU T.81 (JPEG), ISO 15948 (PNG) and EXIF 2.3 for tag 0x0112.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from .segments import (
    JPEG_END,
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    START_OF_SCAN,
    is_critical,
    jpeg_segments,
    png_chunks,
)

_APP1, _APP2 = 0xE1, 0xE2
_JPEG_PLAIN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive; Huffman
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_jpeg_frame = struct.Struct(">BHHB").unpack_from
# ISO 15948, table 11.1: bits a sample that each colour type may have
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})


@dataclass(frozen=True, slots=True)
class Header:
    """format: jpeg or png. width, height: as stored, before the orientation is applied.

    orientation: EXIF 1 to 8. is_plain: 8 bits a channel, grey or RGB (or an opaque palette), one frame, and
    whole up to the end mark, so every server shows it as we would, except for the colours of an embedded ICC
    profile. has_profile: whether there is one.
    """

    format: str
    width: int
    height: int
    orientation: int
    is_plain: bool
    has_profile: bool = False

    @property
    def mime(self) -> str:
        """For a data URL."""
        return f"image/{self.format}"


def read_header(data: bytes) -> Header | None:
    """The header of a JPEG or PNG; None for another format and for a header that is cut or invalid."""
    try:
        if data.startswith(JPEG_SIGNATURE):
            return _jpeg(data)
        if data.startswith(PNG_SIGNATURE):
            return _png(data)
    except (struct.error, IndexError):
        return None
    return None


def is_unusual_jpeg(data: bytes) -> bool:
    """Whether it is a JPEG of a kind that few decoders read: lossless, hierarchical, arithmetic, or not of 8 bits."""
    if not data.startswith(JPEG_SIGNATURE):
        return False
    try:
        return any(
            marker not in _JPEG_PLAIN_FRAMES or data[start + 4] != 8
            for marker, start, _ in jpeg_segments(data)
            if marker in _JPEG_FRAMES
        )
    except (struct.error, IndexError):
        return False


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP's canvas in pixels; None for another format. Layout by RFC 9649."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def is_heif(data: bytes) -> bool:
    """Whether it is HEIC. An AVIF may have the same general brand; it names itself among the compatible ones."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIF_BRANDS:
        return False
    brands = data[16 : min(int.from_bytes(data[:4], "big"), 256)]
    return not (b"avif" in brands or b"avis" in brands)


def _jpeg(data: bytes) -> Header | None:
    width = height = 0
    orientation, is_plain, has_profile = 1, True, False
    for marker, start, end in jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            precision, height, width, components = _jpeg_frame(data, start + 4)
            if not width or not height:
                return None
            is_supported = marker in _JPEG_PLAIN_FRAMES and precision == 8 and components in (1, 3)
            is_plain = is_plain and is_supported and data.endswith(JPEG_END)
        elif marker == _APP1 and data.startswith(b"Exif\0\0", start + 4):
            orientation = exif_orientation(data[start + 10 : end])
        elif marker == _APP2 and data.startswith(b"MPF\0", start + 4):
            is_plain = False  # more pictures follow the first: bytes that no server shows
        elif marker == _APP2 and data.startswith(b"ICC_PROFILE\0", start + 4):
            has_profile = True
        elif marker == START_OF_SCAN and width:
            return Header("jpeg", width, height, orientation, is_plain, has_profile)
    return None


def _png(data: bytes) -> Header | None:
    width, height, depth, colour, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    if data[8:16] != b"\0\0\0\rIHDR" or not width or not height:
        return None
    if depth not in _PNG_DEPTHS.get(colour, ()) or methods[:2] != [0, 0] or methods[2] > 1:
        return None
    orientation, has_profile = 1, False
    is_plain = depth <= 8 and colour in (0, 2, 3)  # grey, RGB, palette; 4 and 6 have an alpha channel
    is_whole = has_pixels = False
    has_palette = colour != 3
    view = memoryview(data)  # slices of it are not copies
    for kind, start, end in png_chunks(data):
        if kind in (b"tRNS", b"acTL"):  # transparency, animation
            is_plain = False
        elif kind == b"eXIf":
            orientation = exif_orientation(data[start + 8 : end - 4])
        elif kind == b"iCCP":
            has_profile = True
        elif kind == b"PLTE":
            has_palette = has_palette or 0 < (end - start - 12) // 3 <= 256
        elif kind == b"IDAT":
            has_pixels = has_palette
        elif kind == b"IEND":
            is_whole = has_pixels
            break
        if is_critical(kind) and zlib.crc32(view[start + 4 : end - 4]) != _number(data, end - 4):
            break
    return Header("png", width, height, orientation, is_plain and is_whole, has_profile)


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory of an EXIF block, 1 to 8; 1 where it is absent or invalid.

    tiff: the block from its byte order mark.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
