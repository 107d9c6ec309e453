"""A JPEG or PNG without its metadata: position, time, author, camera. Nothing is decoded.

Segments and chunks are left out; pixels stay as they are, bit for bit. What the colours need is kept: JFIF, ICC
profile and Adobe's transform flag of a JPEG; gamma, chromaticities and profile of a PNG.
"""

from __future__ import annotations

import numpy as np

from .segments import (
    JPEG_END,
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    START_OF_SCAN,
    is_critical,
    jpeg_segments,
    png_chunks,
)

_KEPT_APPS = {0xE0: (b"JFIF\0",), 0xE2: (b"ICC_PROFILE\0",), 0xEE: (b"Adobe",)}
_FIRST_APP = 0xE0  # from here on: an application's segment, a comment
_COMMENT = 0xFE
_MARKER = 0xFF  # the first byte of a marker
_LAST_OF_DATA = 0xD8  # FF 00 is a byte of the picture, FF D0 to FF D7 a restart
_COLOUR_CHUNKS = frozenset([b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"cICP", b"bKGD", b"pHYs"])
_FRAME_CHUNKS = frozenset([b"acTL", b"fcTL", b"fdAT"])
_KEPT_CHUNKS = _COLOUR_CHUNKS | _FRAME_CHUNKS

Range = tuple[int, int]  # start, end


def without_metadata(data: bytes) -> bytes | None:
    """The same picture without EXIF, XMP, IPTC, comments and texts; `data` itself where there are none.

    data: a whole JPEG or PNG whose header could be read; another format is returned as it is. None where a JPEG
    may have metadata between or behind its scans: only decoding removes that.
    """
    if data.startswith(JPEG_SIGNATURE):
        kept = _jpeg_ranges(data)
    elif data.startswith(PNG_SIGNATURE):
        kept = _png_ranges(data)
    else:
        return data
    if kept is None:
        return None
    if kept == [(0, len(data))]:
        return data
    view = memoryview(data)
    return b"".join(view[start:end] for start, end in kept)


def _jpeg_ranges(data: bytes) -> list[Range] | None:
    """What to keep; None where that cannot be told. Metadata lies before the first scan, only picture from there on."""
    kept, scan = [(0, 2)], None
    for marker, start, end in jpeg_segments(data):
        if marker == START_OF_SCAN:
            scan = start
        elif not _is_metadata(data, marker, start):
            _keep(kept, start, end)
    if scan is None:
        return None
    picture_end = _end_of_picture(data, scan)
    if picture_end is None:
        return None
    _keep(kept, scan, picture_end)
    return kept


def _is_metadata(data: bytes, marker: int, start: int) -> bool:
    if marker == _COMMENT:
        return True
    return 0xE0 <= marker <= 0xEF and not data.startswith(_KEPT_APPS.get(marker, ()), start + 4)


def _end_of_picture(data: bytes, scan: int) -> int | None:
    """Where the picture ends whose first scan starts at `scan`; None where a segment or comment follows that scan.

    One pass over the bytes: FF and a byte above D8 is a marker that is neither data nor a restart.
    """
    scans = np.frombuffer(data, np.uint8)[scan:]
    is_marker = scans[:-1] == _MARKER
    is_marker &= scans[1:] > _LAST_OF_DATA
    if data.endswith(JPEG_END) and not is_marker[2:-1].any():  # one scan, and nothing else up to the end mark
        return len(data)
    at = np.flatnonzero(is_marker)
    codes = scans[at + 1]
    # an end mark cannot stand inside a scan; what follows it is not part of this picture
    ends = at[codes == JPEG_END[1]]
    length = int(ends[0]) + 2 if len(ends) else len(scans)
    has_segment = bool((codes[at < length - 1] >= _FIRST_APP).any())
    return None if has_segment else scan + length


def _png_ranges(data: bytes) -> list[Range]:
    kept = [(0, 8)]
    for kind, start, end in png_chunks(data):
        if is_critical(kind) or kind in _KEPT_CHUNKS:
            _keep(kept, start, end)
    return kept


def _keep(kept: list[Range], start: int, end: int) -> None:
    """Add a range; joined to the last one where they touch."""
    if kept[-1][1] == start:
        kept[-1] = (kept[-1][0], end)
    else:
        kept.append((start, end))
