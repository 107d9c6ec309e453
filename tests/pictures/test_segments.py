"""The structure of JPEG and PNG files: segments and chunks, whole, cut and with bytes between them."""

from __future__ import annotations

import io

import pytest
from captionmill.pictures.header import read_header
from captionmill.pictures.metadata import without_metadata
from captionmill.pictures.segments import START_OF_SCAN, jpeg_segments, png_chunks
from PIL import Image


def encoded(format_name: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 48), 50).save(out, format_name)
    return out.getvalue()


def test_jpeg_segments_lie_end_to_end():
    """From behind the start mark to the scan, whose header comes last; no byte is left out or counted twice."""
    data = encoded("JPEG")
    segments = list(jpeg_segments(data))
    starts, ends = [start for _, start, _ in segments], [end for *_, end in segments]
    assert starts == [2, *ends[:-1]]
    assert [data[start : start + 2] for start in starts] == [bytes((0xFF, marker)) for marker, *_ in segments]
    assert [marker for marker, *_ in segments].index(START_OF_SCAN) == len(segments) - 1


@pytest.mark.parametrize("between", [b"\xff", b"\xff\xff\xff", b"\xff\x01", b"\xff\xd0"])
def test_fill_bytes_and_marks_without_a_length(between):
    """They may stand between segments: the header is still read, and the segments around them stay."""
    plain = encoded("JPEG")
    data = plain[:2] + between + plain[2:]
    assert read_header(data) == read_header(plain)
    kept = without_metadata(data)
    assert kept is not None
    assert read_header(kept) == read_header(plain)


def test_a_jpeg_that_ends_before_its_scan():
    """Cut anywhere before the scan, or with an end mark there: no segment is invented, and no header read."""
    data = encoded("JPEG")
    whole = list(jpeg_segments(data))
    scan = whole[-1][1]
    for cut in range(3, scan + 2):
        segments = list(jpeg_segments(data[:cut]))
        assert segments == whole[: len(segments)]
        assert read_header(data[:cut]) is None
        assert without_metadata(data[:cut]) is None
    assert read_header(data[:scan] + b"\xff\xd9\x00\x02" + data[scan:]) is None


def test_png_chunks_lie_end_to_end():
    """From behind the signature to IEND, and not beyond it."""
    data = encoded("PNG")
    chunks = list(png_chunks(data + encoded("PNG")))
    assert [kind for kind, *_ in chunks][0::len(chunks) - 1] == [b"IHDR", b"IEND"]  # fmt: skip
    assert [start for _, start, _ in chunks] == [8, *(end for *_, end in chunks[:-1])]
    assert chunks[-1][2] == len(data)


def test_a_png_that_is_cut():
    """What is there of it is read, and it may not be sent as it is."""
    data = encoded("PNG")
    for cut in range(40, len(data)):
        header = read_header(data[:cut])
        assert header is not None
        assert (header.width, header.height, header.is_plain) == (64, 48, False)
