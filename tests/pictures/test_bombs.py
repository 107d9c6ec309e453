"""Files that hold more than their header says: bounded in memory and time, and no file ends a run twice."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import signal
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import RowError
from captionmill.pictures import isolated as child_side
from captionmill.pictures import renderer as module
from captionmill.pictures.encode import Encoded
from captionmill.pictures.header import read_header
from captionmill.pictures.isolated import Child, IsolatedRender
from captionmill.pictures.notes import DecodeNotes
from captionmill.pictures.prepare import PicturePreparer
from captionmill.pictures.render import Bounds, Look
from captionmill.pictures.renderer import Renderer
from captionmill.vision.sizes import picture_bounds
from PIL import Image

LOOK = Look("first", "#ffffff", 85)


class Within64:
    """Sizes of at most 64 pixels a side."""

    def fit(self, width: int, height: int) -> tuple[int, int]:
        return min(width, 64), min(height, 64)

    def canvas(self, width: int, height: int) -> tuple[int, int]:
        return width, height


BOUNDS = Bounds(Within64())


def png(width: int, height: int, depth: int = 8, colour: int = 0, rows: int | None = None) -> bytes:
    """A black PNG. rows: that it really has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    samples = {0: 1, 2: 3, 3: 1, 6: 4}.get(colour, 1)
    squeeze, line = zlib.compressobj(9), bytes(1 + (width * samples * depth + 7) // 8)
    pixels = b"".join(squeeze.compress(line) for _ in range(height if rows is None else rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + chunk(b"IDAT", pixels + squeeze.flush())
        + chunk(b"IEND", b"")
    )


def in_ico(inner: bytes, kind: int = 1) -> bytes:
    """An icon of 16 x 16, as its directory says."""
    return (
        struct.pack("<HHH", 0, kind, 1)
        + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
        + inner
    )


def in_icns(inner: bytes) -> bytes:
    element = b"ic10" + struct.pack(">I", 8 + len(inner)) + inner
    return b"icns" + struct.pack(">I", 8 + len(element)) + element


def gif_that_grows(side: int) -> bytes:
    """A canvas of 1 x 1 whose second frame is far larger."""

    def frame(width: int, height: int) -> bytes:
        return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"

    palette = b"\0\0\0\xff\xff\xff"
    return (
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + palette + frame(1, 1) + frame(side, side) + b";"
    )


def encoded(image: Image.Image, format_name: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


def preparer(notes: DecodeNotes | None = None, **settings) -> PicturePreparer:
    config = RunConfig.model_validate({"model": "m"} | settings)
    return PicturePreparer(config, picture_bounds(config), notes)


def peak_of_children() -> int:
    """Most bytes that any child of the pool has had in memory."""
    peaks = []
    for child in module._isolated._idle:
        status = Path(f"/proc/{child.process.pid}/status").read_text()
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
    return max(peaks, default=0)


# ------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("name", "data", "settings"),
    [
        ("a.ico", in_ico(png(9_600, 9_600, colour=6)), {}),
        ("a.cur", in_ico(png(9_600, 9_600, colour=6), kind=2), {}),
        ("a.icns", in_icns(png(9_600, 9_600, colour=6)), {}),
        ("a.ico", in_ico(png(24_000, 24_000, rows=10)), {}),
        ("a.gif", gif_that_grows(40_000), {"frame": 2}),
        ("a.webp", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3e\0" * 2 + bytes(8), {}),
    ],
)
def test_a_picture_inside_a_picture_is_bounded(name, data, settings):
    """In any container the inner picture fails by name and takes less than half a gigabyte."""
    module._isolated.close()
    with pytest.raises(RowError, match=name) as caught:
        preparer(**settings).prepare(name, data)
    assert caught.value.kind in ("image_too_large", "image_broken")
    assert peak_of_children() < 500 * 2**20


def test_the_loop_is_not_held_up_by_a_decoder():
    """A decoder that keeps the interpreter for itself does so in a child."""
    data, late, stop = (
        encoded(Image.effect_noise((3500, 3000), 50), "WEBP", quality=50),
        [0.0],
        threading.Event(),
    )

    def watch() -> None:
        while not stop.is_set():
            before = time.perf_counter()
            time.sleep(0.005)
            late[0] = max(late[0], time.perf_counter() - before - 0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    preparer().prepare("a.webp", data)
    stop.set()
    thread.join()
    assert late[0] < 0.2


def test_the_bound_grows_with_the_picture_and_ends():
    """A small file gets a little memory, a large one more, and none more than the bound."""
    memory = child_side._Memory.__new__(child_side._Memory)
    memory._first = memory._base = 0
    asked = []
    limit = child_side.resource.setrlimit
    child_side.resource.setrlimit = lambda _what, limits: asked.append(limits[0])
    try:
        for wanted in (10, 10**9, 10**12):
            memory.allow(wanted)
    finally:
        child_side.resource.setrlimit = limit
    assert asked == [10, 10**9, child_side.MAX_MEMORY_BYTES]


def test_a_large_picture_with_transparency_is_sent():
    """60 megapixels with an alpha channel are shrunk strip by strip, to what a whole picture would give."""
    small = Image.linear_gradient("L").resize((150, 100))
    image = Image.merge("RGBA", [small, small, small, Image.new("L", small.size, 128)]).resize((7500, 5000))
    picture = preparer(max_side=300, background="#000000").prepare(
        "a.png", encoded(image, "PNG", compress_level=1)
    )
    assert (picture.width, picture.height) == (300, 200)
    sent = Image.open(io.BytesIO(base64.b64decode(picture.base64))).convert("L")
    expected = image.resize((300, 200)).getchannel("R").point(lambda value: value / 2)
    assert max(abs(a - b) for a, b in zip(sent.tobytes(), expected.tobytes(), strict=True)) <= 8


def test_large_pictures_take_turns(monkeypatch):
    """One large picture is decoded at a time, in any number of threads."""
    monkeypatch.setattr(module, "LARGE_PIXELS", 10_000)
    now, most = [0], [0]

    def isolated(_path: str, _data: bytes, bounds: Bounds, _look: Look) -> Encoded:
        bounds.sizes.fit(200, 100)
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.01)
        now[0] -= 1
        return Encoded(b"", "image/png", (1, 1))

    renderer = Renderer(isolated=isolated)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda n: renderer.render("p.bmp", b"BM", str(n), BOUNDS, LOOK), range(6)))
    assert most == [1]


# ------------------------------------------------------------------------------- a child that dies


def test_a_child_that_dies_is_one_failed_row(monkeypatch):
    """The row fails by name; the next picture gets a new child."""
    real = Child.ask

    def ask(child: Child, message, data, on_question):
        if message["path"] == "bad.bmp":
            os.kill(child.process.pid, signal.SIGSEGV)
            child.process.wait()
        return real(child, message, data, on_question)

    monkeypatch.setattr(Child, "ask", ask)
    renderer, data = Renderer(isolated=IsolatedRender()), encoded(Image.new("L", (20, 10)), "BMP")
    with pytest.raises(RowError, match=r"bad\.bmp: damaged picture .* status -11") as caught:
        renderer.render("bad.bmp", data, "1", BOUNDS, LOOK)
    assert caught.value.kind == "image_broken"
    assert renderer.render("good.bmp", data, "2", BOUNDS, LOOK).size == (20, 10)


def test_a_picture_that_takes_forever_fails(monkeypatch):
    """The child is ended after its time."""
    monkeypatch.setattr(child_side, "_MAX_SECONDS", 0.5)
    renderer, data = IsolatedRender(), encoded(Image.new("L", (20, 10)), "BMP")

    class Stopping(Within64):
        def fit(self, width: int, height: int) -> tuple[int, int]:
            os.kill(renderer_child[0], signal.SIGSTOP)
            return width, height

    renderer_child = []
    monkeypatch.setattr(
        renderer, "_taken", lambda: (c := Child.start(), renderer_child.append(c.process.pid))[0]
    )
    with pytest.raises(RowError, match=r"more than 0\.5 s") as caught:
        renderer("slow.bmp", data, Bounds(Stopping()), LOOK)
    assert caught.value.kind == "image_too_large"


def test_a_child_sees_no_key(monkeypatch):
    """A decoder gets what Python needs of the environment, and no key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("MY_TOKEN", "t")
    assert not {"OPENAI_API_KEY", "MY_TOKEN"} & set(child_side._environment())


# ------------------------------------------------------------------------------- a process that died


_never_left = []  # a generator that is collected would take its note back


def died_with(path: Path, sha256: str) -> None:
    """Leave the notes of a process that was killed while it decoded this."""
    notes = DecodeNotes(path)
    notes.open()
    still_open = notes.noted(sha256)
    still_open.__enter__()
    _never_left.append(still_open)


def test_what_a_process_died_of_is_tried_alone_and_then_failed(tmp_path):
    """First death: in a child, also a JPEG. Second death: failed by name, and not decoded. Then it may be retried."""
    data = encoded(Image.new("RGB", (200, 100)), "JPEG")
    sha256, path, isolated = hashlib.sha256(data).hexdigest(), tmp_path / ".decoding", []

    def in_child(*_arguments) -> Encoded:
        isolated.append(1)
        return Encoded(b"", "image/jpeg", (1, 1))

    def render() -> None:
        notes = DecodeNotes(path)
        notes.open()
        try:
            Renderer(notes, in_child).render("a.jpg", data, sha256, BOUNDS, LOOK)
        finally:
            notes.close()

    render()
    assert (isolated, path.exists()) == ([], False)
    died_with(path, sha256)
    render()
    assert (isolated, path.exists()) == ([1], True)
    died_with(path, sha256)
    with pytest.raises(RowError, match=r"a\.jpg: the program died twice") as caught:
        render()
    assert (caught.value.kind, isolated) == ("image_broken", [1])
    render()
    assert isolated == [1]


def test_notes_of_many_deaths_stay_apart(tmp_path):
    """A start that dies before it comes to an earlier suspect does not forget it."""
    path = tmp_path / ".decoding"
    for sha256 in ("a" * 64, "b" * 64, "a" * 64):
        died_with(path, sha256)
    notes = DecodeNotes(path)
    notes.open()
    assert [notes.deaths(name * 64) for name in "abc"] == [2, 1, 0]


def test_a_disk_that_takes_no_note_is_no_reason_to_stop(tmp_path):
    """Notes are a help: without them pictures are made all the same."""
    notes = DecodeNotes(tmp_path / "missing" / ".decoding")
    notes.open()
    with notes.noted("a" * 64):
        assert notes.deaths("a" * 64) == 0
    notes.close()


# ------------------------------------------------------------------------------- damaged, or not supported


@pytest.mark.parametrize(("depth", "colour"), [(3, 0), (16, 3), (4, 2), (1, 6), (8, 1), (8, 5), (0, 0)])
def test_a_png_that_cannot_be_is_not_sent_as_it_is(depth, colour):
    """A depth that its colour type may not have, or no such colour type."""
    data = png(8, 8, depth, colour)
    assert read_header(data) is None
    with pytest.raises(RowError) as caught:
        preparer().prepare("a.png", data)
    assert caught.value.kind in ("image_format", "image_broken")


def test_a_palette_without_colours_is_not_sent_as_it_is():
    """A PNG of palette indices needs its PLTE."""
    header = read_header(png(8, 8, 8, 3))
    assert header is not None and not header.is_plain


def test_a_valid_file_that_no_decoder_reads_is_unsupported():
    """A JPEG of 12 bits and a TIFF with a compression that is not built in are valid: convert them."""
    jpeg = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 1], jpeg[frame + 4] = 0xC1, 12
    tiff = bytearray(encoded(Image.new("L", (16, 16)), "TIFF", compression="tiff_lzw"))
    tag = tiff.index(struct.pack("<HHIH", 259, 3, 1, 5))
    tiff[tag + 8 : tag + 10] = struct.pack("<H", 34661)  # JBIG
    for name, data in (("a.jpg", jpeg), ("a.tif", tiff)):
        with pytest.raises(RowError) as caught:
            preparer().prepare(name, bytes(data))
        assert caught.value.kind == "image_format", caught.value


def test_the_lines_of_libraries_stay_off_the_terminal(capfd):
    """libtiff writes to standard error itself."""
    data = bytearray(encoded(Image.new("L", (64, 64), 7), "TIFF", compression="tiff_lzw"))
    data[8:24] = b"\xff" * 16
    with pytest.raises(RowError):
        preparer().prepare("a.tif", bytes(data))
    assert capfd.readouterr() == ("", "")
