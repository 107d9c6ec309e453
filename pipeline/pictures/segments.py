"""The structure of a JPEG or PNG: its segments or chunks, one after the other. Nothing is decoded.

Layout by ITU T.81 annex B (JPEG) and ISO 15948 (PNG).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_END = b"\xff\xd9"
START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_FILL = 0xFF
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, restarts, start of image
_segment_head = struct.Struct(">BBH").unpack_from
_chunk_head = struct.Struct(">I4s").unpack_from


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment before the first scan, and last the scan's own header.

    data: starts with JPEG_SIGNATURE. start: of the two marker bytes; the content begins at start + 4. Fill bytes
    between segments belong to none. The last marker is START_OF_SCAN, or the structure is broken or cut before it.
    """
    at, last = 2, len(data) - 4
    while at <= last:
        lead, marker, length = _segment_head(data, at)
        if lead != _FILL or marker == _END_OF_IMAGE:
            return
        if marker == _FILL:
            at += 1
            continue
        end = at + 2 if marker in _WITHOUT_LENGTH else at + 2 + length
        yield marker, at, end
        if marker == START_OF_SCAN:
            return
        at = end


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk up to IEND.

    data: starts with PNG_SIGNATURE. start: of the length; the content begins at start + 8 and a checksum of four
    bytes follows it. end: behind that; beyond the end of `data` where the file is cut.
    """
    at, last = 8, len(data) - 12
    while at <= last:
        length, kind = _chunk_head(data, at)
        end = at + 12 + length
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def is_critical(kind: bytes) -> bool:
    """Whether a PNG chunk of this type is needed to decode the picture."""
    return not kind[0] & 0x20
