"""Colours: a picture is sent with the colours of its file, in sRGB, on the background, in 8 bits."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import icc
import numpy as np
import pytest
from captionmill.nouns.config import RunConfig
from captionmill.pictures.colour import is_srgb
from captionmill.pictures.prepare import PicturePreparer
from captionmill.vision.sizes import picture_bounds
from PIL import Image, ImageCms

COLOURS = [(200, 60, 40), (60, 180, 70), (40, 70, 190), (128, 128, 128), (250, 240, 220), (10, 12, 9)]
SIDE = 32


@pytest.fixture
def colours_sent():
    """The colours that a file's patches have in what is sent for it."""

    def call(data: bytes, **settings) -> list[tuple[int, ...]]:
        config = RunConfig.model_validate({"model": "m", "jpeg_quality": 95} | settings)
        picture = PicturePreparer(config, picture_bounds(config)).prepare("p", data)
        image = Image.open(io.BytesIO(base64.b64decode(picture.base64)))
        assert "icc_profile" not in image.info or is_srgb(image.info["icc_profile"], image.mode)
        image = image.convert("RGB")
        return [image.getpixel((x + SIDE // 2, SIDE // 2)) for x in range(0, image.width, SIDE)]

    return call


def patches(mode: str, colours: list) -> Image.Image:
    """Squares of these colours in a row."""
    image = Image.new(mode, (SIDE * len(colours), SIDE))
    for number, colour in enumerate(colours):
        image.paste(colour, (SIDE * number, 0, SIDE * (number + 1), SIDE))
    return image


def encode(image: Image.Image, format_name: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def assert_near(found: list, wanted: list, tolerance: int) -> None:
    assert len(found) == len(wanted)
    worst = max(abs(a - b) for f, w in zip(found, wanted, strict=True) for a, b in zip(f, w, strict=True))
    assert worst <= tolerance, (found, wanted)


# ------------------------------------------------------------------------------- embedded profiles


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_a_wide_gamut_profile_is_converted(colours_sent, format_name):
    """Display P3, as phones write it, comes out as the same colours in sRGB, not as the same numbers."""
    options = {"icc_profile": icc.display_profile()}
    options |= {"lossless": True} if format_name == "WEBP" else {}
    options |= {"quality": 95, "subsampling": "4:4:4"} if format_name in ("JPEG", "AVIF") else {}
    wanted = [icc.srgb_of_display(colour) for colour in COLOURS]
    assert (
        max(abs(a - b) for c, w in zip(COLOURS, wanted, strict=True) for a, b in zip(c, w, strict=True)) > 15
    )
    assert_near(colours_sent(encode(patches("RGB", COLOURS), format_name, **options)), wanted, 6)


def test_alpha_and_profile_go_together(colours_sent):
    """The picture's colours are converted, the background's are not."""
    image = patches("RGBA", [(*COLOURS[0], 255), (*COLOURS[1], 0)])
    sent = colours_sent(encode(image, "PNG", icc_profile=icc.display_profile()), background="#336699")
    assert_near(sent, [icc.srgb_of_display(COLOURS[0]), (0x33, 0x66, 0x99)], 6)


def test_a_palette_has_a_profile_too(colours_sent):
    image = patches("RGB", COLOURS).quantize(16)
    sent = colours_sent(encode(image, "PNG", icc_profile=icc.display_profile()))
    assert_near(sent, [icc.srgb_of_display(colour) for colour in COLOURS], 6)


def test_a_grey_profile_is_converted(colours_sent):
    """A linear grey is much lighter than its numbers."""
    image = patches("L", [32, 128])
    sent = colours_sent(encode(image, "PNG", icc_profile=icc.grey_profile(1.0)))
    assert_near(sent, [icc.srgb_of_xyz(icc.D50 * v / 255) for v in (32, 128)], 4)


def test_grey_with_alpha_has_a_profile_too(colours_sent):
    image = patches("LA", [(32, 255), (128, 255), (128, 0)])
    sent = colours_sent(encode(image, "PNG", icc_profile=icc.grey_profile(1.0)))
    assert_near(sent, [*(icc.srgb_of_xyz(icc.D50 * v / 255) for v in (32, 128)), (255, 255, 255)], 4)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_srgb_by_any_name_passes_through(format_name):
    """A profile that moves no colour is no reason to encode again."""
    builtin = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    config = RunConfig(model="m")
    preparer = PicturePreparer(config, picture_bounds(config))
    for profile, passes in ((builtin, True), (icc.display_profile(icc.SRGB), False), (b"no profile", True)):
        # a gamma of 2.2 alone differs from sRGB in the shadows
        data = encode(patches("RGB", COLOURS), format_name, icc_profile=profile)
        sent = base64.b64decode(preparer.prepare("p", data).base64)
        assert (sent == data) == passes, profile[:40]


def test_a_profile_for_other_pixels_is_ignored(colours_sent):
    """A CMYK profile in an RGB picture is ignored."""
    data = encode(patches("RGB", COLOURS), "PNG", icc_profile=icc.press_profile(PRESS))
    assert_near(colours_sent(data), COLOURS, 1)


# ------------------------------------------------------------------------------- CMYK, LAB

INK = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (255, 255, 0, 0)]
PLAIN = [(255, 255, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0), (0, 0, 255)]
PRESS = {
    (c, m, y, k): (
        (100 - 30 * c - 35 * m - 10 * y) * (1 - 0.85 * k),
        (-30.0 * c + 60 * m - 5 * y) * (1 - k),
        (-40.0 * c - 5 * m + 75 * y) * (1 - k),
    )
    for c in (0, 1)
    for m in (0, 1)
    for y in (0, 1)
    for k in (0, 1)
}


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile(colours_sent, format_name):
    """CMYK without a profile: ink is subtracted from white."""
    options = {"quality": 98} if format_name == "JPEG" else {}
    assert_near(colours_sent(encode(patches("CMYK", INK), format_name, **options)), PLAIN, 12)


def test_cmyk_of_another_writer_than_adobe(colours_sent):
    """Without Adobe's mark the values in the file are inverted."""
    data = encode(patches("CMYK", [tuple(255 - v for v in ink) for ink in INK]), "JPEG", quality=98)
    at = data.index(b"\xff\xee")
    unmarked = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    assert_near(colours_sent(unmarked), PLAIN, 12)


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_cmyk_with_a_profile(colours_sent, format_name):
    """The colours of that press, not of pure inks."""
    options = {"quality": 98} if format_name == "JPEG" else {}
    data = encode(patches("CMYK", INK), format_name, icc_profile=icc.press_profile(PRESS), **options)
    wanted = [icc.srgb_of_lab(PRESS[tuple(v // 255 for v in ink)]) for ink in INK]
    assert_near(colours_sent(data), wanted, 12)


def test_lab_is_understood(colours_sent):
    """A scan in CIELAB."""
    labs = [(60, 40, 30), (50, -40, 35), (80, 0, 0), (30, 20, -50)]
    image = patches("LAB", [(round(lab[0] * 2.55), lab[1] + 128, lab[2] + 128) for lab in labs])
    assert_near(colours_sent(encode(image, "TIFF")), [icc.srgb_of_lab(lab) for lab in labs], 6)


# ------------------------------------------------------------------------------- more than 8 bits


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(colours_sent, format_name):
    """40,000 of 65,535 is a light grey, not white."""
    values = [0, 20_000, 40_000, 65_535]
    pixels = np.repeat(np.array([values], np.uint16), SIDE, axis=1).repeat(SIDE, axis=0)
    sent = colours_sent(encode(Image.fromarray(pixels), format_name))
    assert_near(sent, [(round(v / 257),) * 3 for v in values], 2)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),  # shares
        ([0.5, 0.5], [128, 128]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),  # as 8 bits
        ([0.0, 20_000.0, 65_535.0], [0, 78, 255]),  # as 16 bits
        ([-10.0, 0.0, 10.0], [0, 128, 255]),  # a measurement: its own range
        ([0.0, 1e6], [0, 255]),
    ],
)
def test_floats_are_scaled_by_what_they_are(colours_sent, values, wanted):
    sent = colours_sent(encode(patches("F", values), "TIFF"))
    assert_near(sent, [(w,) * 3 for w in wanted], 2)


def png(depth: int, colour_type: int, sample: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A square of one colour. sample: one line of it, as the file has it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(chunk(*c) for c in chunks)
    pixels = zlib.compress((b"\0" + sample) * SIDE)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_sixteen_bit_colour(colours_sent):
    """The upper eight bits of each channel."""
    line = struct.pack(">3H", *(v * 257 for v in COLOURS[0])) * SIDE
    assert_near(colours_sent(png(16, 2, line)), [COLOURS[0]], 2)


@pytest.mark.parametrize(
    ("depth", "colour_type", "line", "hidden"),
    [
        (2, 0, b"\x55" * (SIDE // 4), struct.pack(">H", 1)),
        (4, 0, b"\x55" * (SIDE // 2), struct.pack(">H", 5)),
        (8, 0, b"\x55" * SIDE, struct.pack(">H", 0x55)),
        (16, 0, struct.pack(">H", 0x2030) * SIDE, struct.pack(">H", 0x2030)),
        (8, 2, b"\x20\x40\x60" * SIDE, struct.pack(">3H", 0x20, 0x40, 0x60)),
        (
            16,
            2,
            struct.pack(">3H", 0x2030, 0x4050, 0x6070) * SIDE,
            struct.pack(">3H", 0x2030, 0x4050, 0x6070),
        ),
    ],
)
def test_a_colour_that_is_hidden_stays_hidden(colours_sent, depth, colour_type, line, hidden):
    """tRNS names it in the file's own depth: the background shows."""
    data = png(depth, colour_type, line, (b"tRNS", hidden))
    assert_near(colours_sent(data, background="#ff0000"), [(255, 0, 0)], 3)


def test_white_may_be_zero(colours_sent):
    """In 16 bits too."""
    values = np.array([[0, 2048, 4095]], np.uint16).repeat(SIDE, axis=1).repeat(SIDE, axis=0)
    data = bytearray(encode(Image.fromarray(values), "TIFF"))
    plain = Image.open(io.BytesIO(data)).tag_v2
    assert plain[258] == (16,) and plain[262] == 1
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert entry in data
    inverted = bytes(data).replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    lighter = [255 - round(v / 257) for v in (0, 2048, 4095)]
    assert_near(colours_sent(inverted), [(v,) * 3 for v in lighter], 2)


def test_floats_that_are_no_numbers_fail_the_row(colours_sent):
    from captionmill.nouns.errors import RowError

    values = np.array([[float("nan"), 1.0], [2.0, 3.0]], np.float32)
    with pytest.raises(RowError, match="not all numbers"):
        colours_sent(encode(Image.fromarray(values), "TIFF"))


def test_a_scan_in_black_and_white_keeps_its_thin_lines(colours_sent):
    """One bit a pixel: shrunk into greys, not every third line dropped."""
    image = Image.new("1", (900, 300), 1)
    for x in range(0, 900, 3):
        image.paste(0, (x, 0, x + 1, 300))
    config = RunConfig(model="m", max_side=300)
    picture = PicturePreparer(config, picture_bounds(config)).prepare("p", encode(image, "TIFF"))
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.base64))).convert("L"), float)
    assert abs(grey.mean() - 170) < 8
    assert grey.std() < 40


def test_transparency_is_resampled_with_its_weight(colours_sent):
    """A hidden colour does not bleed into the edge when a picture is shrunk."""
    image = Image.new("RGBA", (400, 100), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 200, 100))
    config = RunConfig(model="m", max_side=40)
    picture = PicturePreparer(config, picture_bounds(config)).prepare("p", encode(image, "PNG"))
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.base64))).convert("RGB"), int)
    assert (sent[:, :, 0] <= sent[:, :, 2] + 12).all()  # from blue to white, nowhere red
