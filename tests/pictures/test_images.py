"""Pictures: upright, within bounds, honest about their type, and one failed row for each that is broken."""

from __future__ import annotations

import base64
import io
import os
import random
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import RowError
from captionmill.nouns.rows import Picture, Row
from captionmill.pictures.cache import PictureCache
from captionmill.pictures.files import read_file
from captionmill.pictures.header import exif_orientation, read_header
from captionmill.pictures.metadata import without_metadata
from captionmill.pictures.prepare import PicturePreparer
from captionmill.pictures.renderer import Renderer
from captionmill.vision.sizes import picture_bounds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageDraw, ImageStat
from PIL.PngImagePlugin import PngInfo


@pytest.fixture
def prepare(tmp_path):
    """Prepare bytes under a given file name, with given settings."""

    def call(data: bytes, name: str = "p.jpg", **settings):
        path = tmp_path / name
        path.write_bytes(data)
        preparer = preparer_for(**settings)
        picture = preparer.prepare(str(path), read_file(str(path)))
        return picture, base64.b64decode(picture.base64)

    return call


def preparer_for(**settings) -> PicturePreparer:
    """For a model that the table does not know: long side at most 1568."""
    config = RunConfig.model_validate({"model": "m"} | settings)
    return PicturePreparer(config, picture_bounds(config))


def encode(image: Image.Image, format_name: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def noise(width: int, height: int, seed: int = 3) -> Image.Image:
    """As little compressible as a photo's grain."""
    small = Image.frombytes(
        "RGB", (width // 4, height // 4), random.Random(seed).randbytes(width // 4 * (height // 4) * 3)
    )
    return small.resize((width, height), Image.Resampling.BICUBIC)


def corners() -> Image.Image:
    """Each quarter another colour, wider than high: shows every turn and flip."""
    image = Image.new("RGB", (120, 80))
    draw = ImageDraw.Draw(image)
    for x, y, colour in ((0, 0, "red"), (60, 0, "lime"), (0, 40, "blue"), (60, 40, "white")):
        draw.rectangle((x, y, x + 59, y + 39), colour)
    return image


def assert_close(image: Image.Image, expected: Image.Image, tolerance: int = 40):
    """Same size, and the middle of each quarter has the same colour."""
    assert image.size == expected.size
    w, h = image.size
    for x, y in ((w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4), (3 * w // 4, 3 * h // 4)):
        found, wanted = image.convert("RGB").getpixel((x, y)), expected.convert("RGB").getpixel((x, y))
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= tolerance, (x, y, found, wanted)


# ------------------------------------------------------------------------------- passed through


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("format_name", "mime"), [("JPEG", "image/jpeg"), ("PNG", "image/png")])
def test_a_plain_picture_is_sent_as_it_is(prepare, mode, format_name, mime):
    """An upright JPEG or PNG within bounds: the file's own bytes, never recompressed."""
    data = encode(corners().convert(mode), format_name)
    picture, sent = prepare(data)
    assert sent == data
    assert (picture.mime, picture.width, picture.height, picture.byte_count) == (mime, 120, 80, len(data))


def test_an_opaque_palette_passes_through(prepare):
    """A palette without transparency needs no conversion."""
    data = encode(corners().quantize(8), "PNG")
    assert prepare(data)[1] == data


def test_the_type_comes_from_the_bytes(prepare):
    """A PNG named .jpg is declared as PNG: servers refuse a wrong type."""
    assert prepare(encode(corners(), "PNG"), "lies.jpg")[0].mime == "image/png"
    assert prepare(encode(noise(300, 200), "WEBP"), "lies.png")[0].mime == "image/jpeg"


def with_metadata(image: Image.Image, format_name: str) -> bytes:
    """Position, camera, author, comments: everything that a phone or an editor writes."""
    exif = Image.Exif()
    exif[0x010F] = "MARKER-camera"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 14.0), 29: "MARKER-gps"})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {"exif": exif.tobytes(), "icc_profile": profile}
    if format_name == "JPEG":
        options |= {"comment": "MARKER-comment", "xmp": b"<x:xmpmeta>MARKER-xmp</x:xmpmeta>", "dpi": (72, 72)}
    else:
        texts = PngInfo()
        texts.add_text("Author", "MARKER-author")
        texts.add_itxt("XML:com.adobe.xmp", "MARKER-xmp", zip=False)
        texts.add_text("Comment", "MARKER-long " * 50, zip=True)
        options["pnginfo"] = texts
    data = encode(image, format_name, **options)
    assert data.count(b"MARKER") >= 3
    return data


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_no_metadata_leaves_the_house(prepare, format_name, mode):
    """Position and all other texts are left out, the pixels stay bit for bit, the colour profile stays."""
    data = with_metadata(corners().convert(mode), format_name)
    _, sent = prepare(data)
    assert b"MARKER" not in sent
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(sent))
    assert after.format == before.format
    assert after.tobytes() == before.tobytes()
    assert after.info["icc_profile"] == before.info["icc_profile"]
    assert not after.getexif()
    assert prepare(data, strip_metadata=False)[1] == data
    assert prepare(sent)[1] == sent


def test_a_progressive_picture_keeps_its_scans(prepare):
    """Only metadata before the first scan is removed; every byte from the scan on is kept."""
    data = encode(corners(), "JPEG", progressive=True, comment="MARKER", quality=95)
    _, sent = prepare(data)
    assert b"MARKER" not in sent
    assert sent[-100:] == data[-100:]
    assert Image.open(io.BytesIO(sent)).tobytes() == Image.open(io.BytesIO(data)).tobytes()


def test_what_follows_the_picture_is_left_out(prepare):
    """A second JPEG behind the end mark, with its own position, is not sent."""
    data = encode(corners(), "JPEG")
    _, sent = prepare(data + with_metadata(corners(), "JPEG"))
    assert sent == data


@given(st.binary(max_size=60), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_leaving_out_metadata_never_fails(tail, start):
    """Any bytes behind the signature give a result, and none longer than the file."""
    assert len(without_metadata(start + tail) or b"") <= len(start + tail)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
@pytest.mark.parametrize("settings", [{"max_side": 60}, {"max_bytes": 3000}])
def test_no_metadata_in_what_is_encoded_again(prepare, format_name, settings):
    """Comments, texts, position and the file's own profile stay behind."""
    data = with_metadata(noise(120, 80), format_name)
    _, sent = prepare(data, **settings)
    assert b"MARKER" not in sent
    assert not {"comment", "exif", "icc_profile", "xmp"} & Image.open(io.BytesIO(sent)).info.keys()


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload


@pytest.mark.parametrize("where", ["between scans", "before the end", "after garbage", "JFXX"])
def test_metadata_in_odd_places_goes_nowhere(prepare, where):
    """A comment or a position where no camera writes it: then the picture is encoded again."""
    mark = segment(0xFE, b"MARKER-comment") + segment(0xE1, b"Exif\0\0MARKER-gps")
    data = encode(corners(), "JPEG", quality=95, progressive=where == "between scans")
    if where == "between scans":
        second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
        data = data[:second] + mark + data[second:]
    elif where == "before the end":
        data = data[:-2] + mark + data[-2:]
    elif where == "after garbage":
        scan = data.index(b"\xff\xda")
        data = data[:scan] + b"\0\0" + mark + data[scan:]
    else:
        data = data[:2] + segment(0xE0, b"JFXX\0\x13MARKER-thumbnail") + data[2:]
    assert b"MARKER" in data
    try:
        _, sent = prepare(data)
    except RowError:  # no decoder has to read garbage
        assert where == "after garbage"
        return
    assert b"MARKER" not in sent
    assert_close(Image.open(io.BytesIO(sent)), corners())


def test_orientation_behind_the_frame_header_counts_too(prepare):
    """EXIF may stand anywhere before the scan."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(corners().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95)
    scan = data.index(b"\xff\xda")
    data = data[:scan] + segment(0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")) + data[scan:]
    picture, sent = prepare(data)
    assert (picture.width, picture.height) == (120, 80)
    assert_close(Image.open(io.BytesIO(sent)), corners())


@pytest.mark.parametrize("size", [(3136, 1), (6272, 3), (1, 3136), (65_500, 1)])
def test_strips_are_sent(prepare, size):
    """A picture that is one pixel wide or high is sent, within the bound."""
    picture, _ = prepare(encode(Image.new("RGB", size, "teal"), "JPEG"))
    assert max(picture.width, picture.height) <= 1568


def test_a_png_with_a_broken_chunk_is_not_sent(prepare):
    """A wrong checksum, or no pixels: the row fails as broken."""
    data = bytearray(WHOLE_PNG)
    at = data.index(b"IDAT") + 40
    data[at : at + 20] = bytes(20)
    pixels = data.index(b"IDAT") - 4
    for broken in (bytes(data), WHOLE_PNG[:pixels] + WHOLE_PNG[-12:]):
        with pytest.raises(RowError) as caught:
            prepare(broken)
        assert caught.value.kind == "image_broken"


def test_the_hash_is_the_files(prepare):
    """image_sha256 is of the file on disk, also when something else is sent."""
    import hashlib

    data = encode(corners().resize((2000, 100)), "JPEG")
    picture, sent = prepare(data)
    assert picture.sha256 == hashlib.sha256(data).hexdigest()
    assert sent != data


# ------------------------------------------------------------------------------- turned


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("max_side", [1568, 60])
def test_every_orientation_comes_out_upright(prepare, orientation, format_name, max_side):
    """All 8 EXIF orientations, in each format that has them, with and without shrinking."""
    if format_name == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    upright = corners()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transpose that makes the stored picture
    stored = upright if orientation == 1 else upright.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture, sent = prepare(encode(stored, format_name, exif=exif.tobytes()), max_side=max_side)
    image = Image.open(io.BytesIO(sent))
    assert_close(image, upright if max_side > 120 else upright.resize((60, 40)))
    assert (picture.width, picture.height) == image.size
    if orientation != 1:
        assert image.getexif().get(0x0112) in (None, 1)


def test_orientation_is_read_in_both_byte_orders():
    """Cameras write little or big endian, and nonsense counts as upright."""
    for order, mark in (("<", b"II"), (">", b"MM")):
        block = mark + struct.pack(order + "HIHHHIHH", 42, 8, 1, 0x0112, 3, 1, 6, 0)
        assert exif_orientation(block) == 6
        assert exif_orientation(block[:14]) == 1
    assert exif_orientation(b"") == 1


# ------------------------------------------------------------------------------- bounded


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((1600, 1200), 820, (800, 600)),  # half is 2.4 % under the bound
        ((1601, 1200), 820, (801, 600)),  # the decoder rounds up
        ((1600, 1200), 840, (840, 630)),  # half is 5 % under it: shrunk to the bound
        ((1600, 1200), 799, (799, 599)),  # half is above it
        ((1600, 1200), 405, (400, 300)),  # a quarter
    ],
)
def test_a_size_that_the_decoder_gives_is_taken_where_it_nearly_fills_the_bound(
    prepare, size, max_side, expected
):
    """At most 3 % under the bound, never above it; and it looks as a good resampling of the whole would."""
    chance = random.Random(3)
    small = Image.new("RGB", (40, 30))
    small.putdata([tuple(chance.randbytes(3)) for _ in range(1200)])
    stored = encode(small.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=95)
    picture, sent = prepare(stored, max_side=max_side, jpeg_quality=95)
    image = Image.open(io.BytesIO(sent))
    assert image.size == (picture.width, picture.height) == expected
    wanted = Image.open(io.BytesIO(stored)).resize(expected, Image.Resampling.LANCZOS)
    error = ImageStat.Stat(ImageChops.difference(image, wanted))
    assert sum(error.sum2) / sum(error.count) < 255**2 / 10**3.6  # 36 dB, encoding included


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((3000, 2000), (1568, 1045)),
        ((2000, 3000), (1045, 1568)),
        ((1569, 10), (1568, 10)),
        ((20000, 1), (1568, 1)),
    ],
)
def test_the_long_side_is_bounded(prepare, size, expected):
    """Ratio kept, never enlarged, never below one pixel."""
    picture, sent = prepare(encode(Image.new("RGB", size, "teal"), "JPEG"))
    assert Image.open(io.BytesIO(sent)).size == (picture.width, picture.height) == expected


def test_a_picture_at_the_bound_is_untouched(prepare):
    """The bound is inclusive."""
    data = encode(Image.new("RGB", (1568, 20), "teal"), "JPEG")
    assert prepare(data)[1] == data


def test_shrinking_is_as_good_as_the_slow_way(prepare):
    """Decoding at a fraction of the size and one bicubic pass: at least 40 dB against LANCZOS from full size."""
    noise = Image.effect_noise((300, 200), 60).resize((3000, 2000), Image.Resampling.BICUBIC)
    photo = Image.merge("RGB", (noise, noise.rotate(180), Image.linear_gradient("L").resize((3000, 2000))))
    data = encode(photo, "JPEG", quality=92)
    _, sent = prepare(data, jpeg_quality=95)
    slow_way = Image.open(io.BytesIO(data)).resize((1568, 1045), Image.Resampling.LANCZOS)
    reference = encode(slow_way, "JPEG", quality=95)  # the encoder's own loss is the same for both
    assert psnr(Image.open(io.BytesIO(sent)), Image.open(io.BytesIO(reference))) >= 40


def psnr(one: Image.Image, other: Image.Image) -> float:
    import math

    import numpy as np

    difference = np.asarray(one.convert("RGB"), float) - np.asarray(other.convert("RGB"), float)
    return 10 * math.log10(255**2 / max(1e-9, float((difference**2).mean())))


# ------------------------------------------------------------------------------- modes


def middle(data: bytes) -> tuple[int, ...]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return image.getpixel((image.width // 2, image.height // 2))


def near(found, wanted, tolerance=12):
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF"])
def test_transparency_shows_the_background(prepare, format_name):
    """A hidden colour under alpha 0 does not show; the background does, whichever is set."""
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    data = encode(image, format_name, **({"lossless": True, "exact": True} if format_name == "WEBP" else {}))
    assert near(middle(prepare(data)[1]), (255, 255, 255))
    assert near(middle(prepare(data, background="#0000ff")[1]), (0, 0, 255))


def test_palette_transparency_shows_the_background(prepare):
    """tRNS on a palette, which some servers drop."""
    image = Image.new("P", (40, 40), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert near(middle(prepare(encode(image, "PNG", transparency=0))[1]), (255, 255, 255))


def test_an_animation_gives_its_first_frame(prepare):
    """An animation is sent as one upright still picture."""
    frames = [Image.new("RGB", (40, 40), c) for c in ("blue", "red")]
    for format_name in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], format_name, save_all=True, append_images=frames[1:], duration=100)
        assert near(middle(prepare(data)[1]), (0, 0, 255), 30), format_name


@pytest.mark.parametrize(
    "format_name",
    ["BMP", "TIFF", "GIF", "WEBP", "AVIF", "PPM", "PCX", "SGI", "QOI", "DDS", "TGA", "ICO", "JPEG2000"],
)
def test_other_formats_are_sent_as_jpeg_or_png(prepare, format_name):
    """Only image/jpeg and image/png are understood everywhere."""
    picture, sent = prepare(encode(corners(), format_name))
    with Image.open(io.BytesIO(sent)) as image:
        assert Image.MIME[image.format] == picture.mime
        assert picture.mime in ("image/jpeg", "image/png")
        assert_close(image, corners().resize((picture.width, picture.height)), 60)


# ------------------------------------------------------------------------------- broken

WHOLE_JPEG = encode(corners().resize((400, 300)), "JPEG")
WHOLE_PNG = encode(Image.effect_noise((100, 100), 50), "PNG")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "image_broken"),
        (WHOLE_JPEG[: len(WHOLE_JPEG) // 2], "image_broken"),
        (WHOLE_PNG[: len(WHOLE_PNG) // 2], "image_broken"),
        (b"%PDF-1.4 not a picture", "image_format"),
        (b"\x00" * 1000, "image_format"),
        (b"\xff\xd8\xff", "image_format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_format"),
    ],
)
def test_a_broken_file_is_a_row_error_that_names_it(prepare, data, kind):
    """Truncated, empty, not a picture: a kind and a message with the path."""
    with pytest.raises(RowError, match=r"p\.jpg") as caught:
        prepare(data)
    assert caught.value.kind == kind


def test_a_decompression_bomb_is_refused_before_it_is_decoded(prepare):
    """30,000 x 30,000 pixels in a small file: refused by its header."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
        for k, d in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    with pytest.raises(RowError, match="30000 x 30000 pixels") as caught:
        prepare(b"\x89PNG\r\n\x1a\n" + chunks)
    assert caught.value.kind == "image_too_large"


def test_what_is_no_file(tmp_path):
    """A missing file, a folder, a pipe without a writer, a null byte in the name."""
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, kind in (
        (tmp_path / "none.jpg", "image_missing"),
        (tmp_path, "image_unreadable"),
        (tmp_path / "pipe.jpg", "image_unreadable"),
        ("a\0b.jpg", "image_unreadable"),
    ):
        with pytest.raises(RowError) as caught:
            read_file(str(path))
        assert caught.value.kind == kind, path


def test_heic_is_read_or_says_what_to_install(prepare):
    """With the extra it is decoded; without, the row's message is the install line."""
    data = b"\x00\x00\x00\x18ftypheic" + b"\x00" * 100
    try:
        import pillow_heif
    except ImportError:
        with pytest.raises(RowError, match=r"captionmill\[heif\]"):
            prepare(data, "p.heic")
        return
    with pytest.raises(RowError) as caught:
        prepare(data, "p.heic")
    assert caught.value.kind in ("image_broken", "image_format")
    pillow_heif.register_heif_opener()
    picture, sent = prepare(encode(corners(), "HEIF", quality=95), "p.heic")
    assert_close(Image.open(io.BytesIO(sent)), corners(), 60)
    assert picture.mime == "image/jpeg"


def test_a_png_with_its_orientation_last_is_read_without_decoding():
    """The header walk covers eXIf wherever it stands, and reads no pixel."""
    exif = Image.Exif()
    exif[0x0112] = 6
    header = read_header(encode(corners(), "PNG", exif=exif))
    assert header is not None
    assert (header.orientation, header.width, header.is_plain) == (6, 120, True)


# ------------------------------------------------------------------------------- JPEG or PNG


def screenshot(width: int = 1200, height: int = 800) -> Image.Image:
    """Flat areas, lines and text."""
    image = Image.new("RGB", (width, height), "#f4f4f4")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width, 60), "#224488")
    for line in range(30):
        draw.text((20, 80 + 22 * line), f"line {line}: the quick brown fox jumps over the lazy dog", "black")
    return image


@pytest.mark.parametrize("format_name", ["BMP", "TIFF", "GIF", "WEBP"])
def test_text_and_flat_graphics_stay_sharp(prepare, format_name):
    """A PNG where that is the smaller one, and then every pixel is as it was."""
    image = screenshot().quantize(64, dither=Image.Dither.NONE).convert("RGB")
    data = encode(image, format_name, **({"lossless": True} if format_name == "WEBP" else {}))
    picture, sent = prepare(data, image_rules="none")
    assert picture.mime == "image/png"
    assert len(sent) < len(encode(image, "JPEG", quality=85))
    assert ImageChops.difference(Image.open(io.BytesIO(sent)).convert("RGB"), image).getbbox() is None


def test_alpha_over_text_gives_a_png(prepare):
    """Flattened on the background first; PNG since it is smaller, not for the alpha."""
    picture, sent = prepare(encode(screenshot().convert("RGBA"), "PNG"))
    assert picture.mime == "image/png"
    assert Image.open(io.BytesIO(sent)).mode == "RGB"


def test_a_photo_is_never_sent_as_png(prepare):
    """In every input format."""
    for format_name in ("BMP", "TIFF", "PNG"):
        picture, _ = prepare(encode(noise(800, 600), format_name), max_side=500)
        assert picture.mime == "image/jpeg", format_name


# ------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("most", [400_000, 60_000, 12_000])
@pytest.mark.parametrize("make", [noise, screenshot])
def test_the_bytes_are_bounded(prepare, make, most):
    """--max-bytes holds for the base64 text of every picture; no side grows."""
    picture, sent = prepare(encode(make(2400, 1600), "PNG"), max_bytes=most, image_rules="none")
    assert len(picture.base64) <= most
    assert Image.open(io.BytesIO(sent)).size == (picture.width, picture.height)
    assert abs(picture.width / picture.height - 1.5) < 0.02


def test_bytes_are_reached_by_size_before_quality(prepare):
    """A picture slightly above the bound becomes slightly smaller, at the same quality."""
    data = encode(noise(1500, 1000), "BMP")
    whole, sent = prepare(data)
    picture, smaller = prepare(data, max_bytes=len(whole.base64) * 8 // 10)
    assert 1000 < picture.width < 1500
    assert Image.open(io.BytesIO(smaller)).quantization == Image.open(io.BytesIO(sent)).quantization


def test_a_file_that_fits_in_pixels_but_not_in_bytes_is_re_encoded(prepare):
    """Within the sides is not enough to be sent as it is."""
    data = encode(noise(1200, 900), "PNG")
    picture, sent = prepare(data, max_bytes=300_000)
    assert sent != data
    assert len(picture.base64) <= 300_000


def test_bytes_that_cannot_be_reached_fail_the_row(prepare):
    """Named with the figure and the settings; nothing is sent."""
    with pytest.raises(RowError, match=r"p\.jpg.*more than 1,000") as caught:
        prepare(encode(noise(1200, 900), "PNG"), max_bytes=1000)
    assert caught.value.kind == "image_too_large"


def test_all_pictures_of_a_row_stay_within_the_request(tmp_path):
    """The largest are shrunk first; a small one is sent as it is."""
    paths = []
    for name, image in (("a", noise(1500, 1000)), ("b", noise(1400, 1000)), ("c", noise(200, 150))):
        paths.append(str(tmp_path / f"{name}.jpg"))
        image.save(paths[-1], quality=92)
    row = Row("r", ("a", "b", "c"), tuple(paths), "?")
    pictures = preparer_for(max_request_bytes=250_000).prepare_row(row)
    assert sum(len(p.base64) for p in pictures) <= 250_000
    assert base64.b64decode(pictures[2].base64) == (tmp_path / "c.jpg").read_bytes()
    whole = preparer_for().prepare_row(row)
    assert sum(len(p.base64) for p in whole) > 250_000


# ------------------------------------------------------------------------------- frames


def frames(count: int) -> list[Image.Image]:
    """Each another grey."""
    return [Image.new("RGB", (60, 40), (20 * n, 20 * n, 20 * n)) for n in range(1, count + 1)]


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    ("frame", "expected"), [("first", 1), ("middle", 4), (1, 1), (3, 3), ("7", 7), (9, 7)]
)
def test_which_frame_is_sent(prepare, format_name, frame, expected):
    """--frame of animations and of files with pages, counted from 1; one with fewer gives its last."""
    first, *others = frames(7)
    data = encode(first, format_name, save_all=True, append_images=others)
    assert near(middle(prepare(data, frame=frame)[1]), (20 * expected,) * 3, 8)


# ------------------------------------------------------------------------------- the same picture twice


def test_the_same_picture_is_prepared_once(tmp_path, monkeypatch):
    """Two names, two rows, two threads: one decoding, while it is in the cache."""
    decoded = []
    real = Renderer.render
    monkeypatch.setattr(Renderer, "render", lambda *a: (decoded.append(a[1]), time.sleep(0.05), real(*a))[2])
    data = encode(noise(400, 300), "BMP")
    preparer = preparer_for()
    with ThreadPoolExecutor(4) as threads:
        pictures = list(threads.map(lambda n: preparer.prepare(f"{n}.bmp", data), range(8)))
    assert len(decoded) == 1
    assert all(p is pictures[0] for p in pictures)
    preparer.prepare("other.bmp", encode(noise(400, 300, seed=4), "BMP"))
    assert len(decoded) == 2


def test_the_cache_is_bounded_and_keeps_no_failures():
    """Those used last stay; one that failed is tried again."""
    cache = PictureCache(max_bytes=100)
    made = []

    def make(name: str, size: int = 40):
        def call() -> Picture:
            made.append(name)
            return Picture(b"x" * size, "image/png", 1, 1, 1, name)

        return call

    for name in ("a", "b", "a", "c", "a", "b"):  # c drives out b
        cache.get(name, make(name))
    assert made == ["a", "b", "c", "b"]
    cache.get("huge", make("huge", 1000))
    cache.get("huge", make("huge", 1000))
    assert made[-2:] == ["huge", "huge"]

    def fail() -> Picture:
        raise RowError("no", kind="image_broken")

    for _ in range(2):
        with pytest.raises(RowError):
            cache.get("d", fail)
    assert cache.get("d", make("d")).sha256 == "d"


# ------------------------------------------------------------------------------- what changes, what is no file


def test_a_file_that_is_being_written_is_one_failed_row(tmp_path, monkeypatch):
    """A file that grows while it is read fails with its own kind, and may be retried."""
    path = tmp_path / "growing.jpg"
    path.write_bytes(WHOLE_JPEG)
    real, looks = os.fstat, []

    def fstat(descriptor: int):
        looks.append(descriptor)
        if len(looks) == 2:
            with path.open("ab") as file:
                file.write(b"more")
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(RowError, match=r"growing\.jpg: changed while it was read") as caught:
        read_file(str(path))
    assert caught.value.kind == "image_changing"


def test_odd_paths_are_one_failed_row_each(tmp_path):
    """A link to itself, a device, a name of 300 characters, a name in no encoding."""
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for path, kind in (
        (str(tmp_path / "loop.jpg"), "image_unreadable"),
        ("/dev/zero", "image_unreadable"),
        (str(tmp_path / ("x" * 300)), "image_unreadable"),
        (str(tmp_path / "\udcff.jpg"), "image_missing"),
    ):
        with pytest.raises(RowError) as caught:
            read_file(path)
        assert caught.value.kind == kind, path
    odd = os.fsencode(str(tmp_path)) + b"/caf\xe9.jpg"
    with open(odd, "wb") as file:  # noqa: PTH123
        file.write(WHOLE_JPEG)
    assert read_file(os.fsdecode(odd)) == WHOLE_JPEG


def test_texts_in_a_png_are_no_bomb(prepare):
    """100 MB of compressed text beside the pixels: left out before anything reads them."""
    texts = PngInfo()
    texts.add_text("Comment", "x" * 100_000_000, zip=True)
    data = encode(corners().convert("RGBA"), "PNG", pnginfo=texts)
    assert_close(Image.open(io.BytesIO(prepare(data)[1])), corners())


def test_a_photo_of_200_megapixels_is_sent(prepare):
    """The decoder makes a small one of it; only what must be decoded whole has the lower bound."""
    data = encode(Image.new("L", (16_320, 12_240), 90), "JPEG")
    picture, _ = prepare(data, max_side=1024)
    assert (picture.width, picture.height) == (1024, 768)


def test_an_avif_with_the_general_brand_is_no_heic(prepare):
    """mif1 first, avif among the compatible brands."""
    data = bytearray(encode(corners(), "AVIF"))
    assert data[8:12] == b"avif"
    data[8:12] = b"mif1"
    if b"avif" not in data[16:40]:
        pytest.skip("this writer names no compatible brands")
    assert_close(Image.open(io.BytesIO(prepare(bytes(data))[1])), corners(), 60)
