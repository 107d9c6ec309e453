"""Pictures by URL: only with --allow-remote, with bounds, never from an address that only this machine reaches."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import re
import threading
from collections.abc import Iterator

import pandas as pd
import pytest
from captionmill.builtin.server import EndpointSettings, serving
from captionmill.nouns.config import RunConfig
from captionmill.nouns.errors import RowError
from captionmill.nouns.rows import Row
from captionmill.pictures import remote
from captionmill.pictures.pool import PicturePool
from captionmill.pictures.prepare import PicturePreparer
from captionmill.pictures.remote import RemotePictures, is_public
from captionmill.vision.sizes import picture_bounds
from commands import MODEL, captionmill, draw_pictures, results, stats
from PIL import Image


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (60, 40), "teal").save(out, "JPEG")
    return out.getvalue()


@contextlib.contextmanager
def web(pages: dict[str, tuple[int, dict[str, str], bytes]]) -> Iterator[tuple[str, list[str]]]:
    """A web server with these pages, by path; its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = pages.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Allowing:
    """An address rule made from a function."""

    def __init__(self, may_reach) -> None:
        self.allows = may_reach


def fetch(*urls: str, may_reach=lambda address: True) -> list[bytes | RowError]:
    async def run() -> list[bytes | RowError]:
        async with RemotePictures(Allowing(may_reach)) as pictures:
            found = await pictures.fetch_all(urls)
            return [found[url] for url in urls]

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """No pause between attempts."""
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.0)


def test_a_picture_is_fetched_and_prepared():
    """By URL as by path: same hash, same bytes sent; the neighbour that is missing fails alone."""
    with web({"/a.jpg": (200, {}, jpeg()), "/moved": (302, {"Location": "/a.jpg"}, b"")}) as (url, _):
        urls = (f"{url}/a.jpg", f"{url}/moved", f"{url}/none.jpg")

        async def run():
            config = RunConfig(model="m")
            preparer = PicturePreparer(config, picture_bounds(config))
            async with RemotePictures(Allowing(lambda address: True)) as pictures:
                pool = PicturePool(preparer, pictures)
                try:
                    return [(await pool.prepare([Row(u, (u,), (u,), "?")]))[0][1] for u in urls]
                finally:
                    pool.close()

        first, moved, missing = asyncio.run(run())
    assert first[0].sha256 == moved[0].sha256
    assert (first[0].width, first[0].height, first[0].byte_count) == (60, 40, len(jpeg()))
    assert isinstance(missing, RowError)
    assert str(missing) == f"{urls[2]}: HTTP 404"
    assert missing.kind == "image_remote"


def test_what_passes_is_tried_again():
    """Three attempts at a 503, then an error with the status."""
    with web({"/busy": (503, {}, b"")}) as (url, asked):
        (error,) = fetch(f"{url}/busy")
    assert len(asked) == 3
    assert "HTTP 503" in str(error)


def test_bounds(monkeypatch):
    """Too large, empty, endless redirects, another scheme: one message each."""
    monkeypatch.setattr(remote, "MAX_REMOTE_BYTES", 100_000)
    pages = {
        "/large": (200, {}, bytes(200_000)),
        "/empty": (200, {}, b""),
        "/round": (302, {"Location": "/round"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
    }
    with web(pages) as (url, _):
        large, empty, around, file = fetch(*(url + path for path in pages))
    assert "more than 100,000 bytes" in str(large)
    assert "empty" in str(empty)
    assert "redirects" in str(around)
    assert "leads to file:" in str(file)


def test_a_server_that_stands_still_is_left(monkeypatch):
    """A server that stops in the middle of a picture: three attempts, each ends at the time bound."""
    monkeypatch.setattr(remote, "TOTAL_SECONDS", 0.2)
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"

    async def run() -> tuple[bytes | RowError, int]:
        async def stand_still(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(half)
            with contextlib.suppress(OSError):
                await reader.read()  # until the client goes
            writer.close()

        asked: list[bytes] = []
        server = await asyncio.start_server(stand_still, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.jpg"
        async with RemotePictures(Allowing(lambda address: True)) as pictures:
            found = (await pictures.fetch_all([url]))[url]
        server.close()
        return found, len(asked)

    error, attempts = asyncio.run(run())
    assert isinstance(error, RowError)
    assert "not complete after 0.2 s" in str(error)
    assert attempts == 3


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",  # noqa: S104
        "::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1",
        "224.0.0.1", "255.255.255.255", "::",
    ],
)  # fmt: skip
def test_private_addresses(address):
    """Loopback, home and office nets, link-local (cloud metadata), carrier nets, and IPv6 that wraps them."""
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "64:ff9b::101:101"])
def test_public_addresses(address):
    assert is_public(address)


def test_a_private_address_is_never_connected_to():
    """As a number, by a name, in another notation, or behind a redirect: no request arrives there."""
    with web({"/a.jpg": (200, {}, jpeg())}) as (url, asked):
        port = url.rpartition(":")[2]
        spelled = [
            f"{url}/a.jpg",
            f"http://localhost:{port}/a.jpg",
            f"http://2130706433:{port}/a.jpg",
            f"http://0x7f.1:{port}/a.jpg",
            f"http://[::ffff:127.0.0.1]:{port}/a.jpg",
            f"http://１２７.0.0.1:{port}/a.jpg",
            f"http://127。0。0。1:{port}/a.jpg",
            f"http://①②⑦.⓪.⓪.①:{port}/a.jpg",
        ]
        refused = fetch(*spelled, may_reach=is_public)
        assert asked == []
        with web({"/out": (302, {"Location": f"{url}/a.jpg"}, b"")}) as (other, hops):
            other_port = other.rpartition(":")[2]
            # the first hop may be reached, as if it were a public one; the second may not
            seen: list[str] = []

            def only_once(address: str) -> bool:
                seen.append(address)
                return len(seen) == 1

            (redirected,) = fetch(f"http://localhost:{other_port}/out", may_reach=only_once)
            assert hops == ["/out"]
        assert asked == []
    for error in (*refused, redirected):
        assert isinstance(error, RowError)
        assert re.search("private address|not a canonical IPv4", str(error))


def test_urls_only_where_asked(tmp_path):
    """Without --allow-remote nothing is sent and the line is named; with it each is one row."""
    draw_pictures(tmp_path / "p", 1)
    (tmp_path / "m.csv").write_text("id,image\na,p/0.png\nb,http://127.0.0.1:9/b.jpg\n")
    with serving(EndpointSettings()) as url:
        refused = captionmill("caption", "m.csv", *MODEL, "-o", "run", base_url=url, cwd=tmp_path)
        assert refused.returncode == 2
        assert "m.csv:3: http://127.0.0.1:9/b.jpg is a URL" in refused.stderr
        assert "--allow-remote" in refused.stderr
        assert stats(url)["answers"] == 0
        done = captionmill(
            "caption", "m.csv", *MODEL, "-o", "run", "--allow-remote", base_url=url, cwd=tmp_path
        )
    assert done.returncode == 1, done.stderr
    assert list(results(tmp_path / "run")["id"]) == ["a"]
    (failed,) = pd.read_parquet(tmp_path / "run/failures.parquet").to_dict("records")
    assert (failed["id"], failed["error_kind"]) == ("b", "image_remote")
    assert "private address" in failed["error_message"]
