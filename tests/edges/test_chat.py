"""One POST: its shape against a mock, its behaviour against a real server on the loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable

import pytest
from aioresponses import aioresponses
from captionmill.edges.chat import ChatClient
from captionmill.nouns.address import Address, chat_completions_url
from captionmill.nouns.errors import AccountError, ConnectionLost, UsageError
from chat_mock import MockedResponse
from scripted_chat import completion
from scripted_chat import read as read_reply

KEY = "sk-test-marker-7f3a"
URL = "http://server.test/v1/chat/completions"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://api.shubiaobiao.com", "https://api.shubiaobiao.com/v1/chat/completions"),
        ("https://api.shubiaobiao.com/", "https://api.shubiaobiao.com/v1/chat/completions"),
        ("http://localhost:11434/v1/", "http://localhost:11434/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://h.test/v1beta/openai", "https://h.test/v1beta/openai/chat/completions"),
        ("https://h.test/v1/chat/completions", "https://h.test/v1/chat/completions"),
        (
            "https://me.openai.azure.com/openai/deployments/gpt4o?api-version=2024-06-01",
            "https://me.openai.azure.com/openai/deployments/gpt4o/chat/completions?api-version=2024-06-01",
        ),
    ],
)
def test_addresses_as_users_write_them(given, url):
    """With or without /v1, with a slash, complete, or Azure's form."""
    assert chat_completions_url(given) == url


@pytest.mark.parametrize("given", ["", "api.openai.com", "ftp://x/v1", "https://user:pass@h.test/v1"])
def test_what_is_no_address(given):
    """Refused before anything is sent; credentials have no place in an address."""
    with pytest.raises(UsageError):
        chat_completions_url(given)


def test_the_key_does_not_show():
    """Neither the repr nor the column shows key or query."""
    endpoint = Address("https://me.openai.azure.com/openai/deployments/d/chat/completions?api-version=1", KEY)
    assert KEY not in repr(endpoint)
    assert endpoint.name == "me.openai.azure.com/openai/deployments/d/chat/completions"
    assert endpoint.headers()["api-key"] == KEY  # Azure's own header
    assert Address(URL, KEY).headers()["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("key", "text", "scrubbed"),
    [
        (KEY, f"bad key {KEY}", "bad key [key]"),
        ('sk-1"é7f', 'bad key sk-1"é7f', "bad key [key]"),  # 8 characters, some with escapes in JSON
        ("sk-1234", "bad key sk-1234", "bad key sk-1234"),
        ("any", "Too many requests from your company", "Too many requests from your company"),
        ("", "no key", "no key"),
        (None, "no key", "no key"),
    ],
)
def test_a_key_is_scrubbed_by_one_rule(key, text, scrubbed):
    """Of 8 characters or more, in messages and records alike; a shorter one cannot be told from a word."""
    endpoint = Address(URL, key)
    assert endpoint.scrub(text) == scrubbed
    assert json.loads(endpoint.scrub_record(json.dumps({"content": text}))) == {"content": scrubbed}


def test_the_headers_of_the_api_page():
    """Content-Type, Accept and Authorization, the body as it was built."""

    async def run():
        with aioresponses() as mocked:
            mocked.post(URL, body=completion("a cat"), response_class=MockedResponse)
            async with ChatClient(Address(URL, KEY), 5, 5) as client:
                answer = await client.post(b'{"model":"m"}')
            ((_, calls),) = mocked.requests.items()
            return answer, calls[0].kwargs["data"], client._session.headers

    answer, data, headers = asyncio.run(run())
    assert (answer.status, data) == (200, b'{"model":"m"}')
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "a cat"
    assert headers["Content-Type"] == headers["Accept"] == "application/json"
    assert headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("status", "body"),
    [(429, b'{"error":{"code":"rate_limit_exceeded"}}'), (503, b"<html>503</html>"), (200, b'{"id":"chat')],
)
def test_any_answer_comes_back_as_it_is(status, body):
    """What it means is decided elsewhere; a wrong content type is no obstacle."""

    async def run():
        with aioresponses() as mocked:
            mocked.post(
                URL, status=status, body=body, content_type="text/html", response_class=MockedResponse
            )
            async with ChatClient(Address(URL, None), 5, 5) as client:
                return await client.post(b"{}")

    answer = asyncio.run(run())
    assert (answer.status, answer.body) == (status, body)


# ------------------------------------------------------------------------------- a real server

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def response(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def against(
    handler: Handler, posts: int = 1, timeout: float = 5.0, body: bytes = b"{}", silence: float = 5.0
):
    """POST to a loopback server that answers each request with `handler`; the last answer."""

    async def run():
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    await handler(await read_request(reader), writer)
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            endpoint = Address(f"http://127.0.0.1:{port}/v1/chat/completions", KEY)
            async with ChatClient(endpoint, timeout, 5, silence) as client:
                for _ in range(posts):
                    answer = await client.post(body)
                return answer
        finally:
            server.close()

    return asyncio.run(run())


def test_a_connection_is_reused_and_a_large_body_arrives_whole():
    """Keep-alive over three posts of 3 MB."""
    connections, sizes = set(), []

    async def handler(request: bytes, writer: asyncio.StreamWriter) -> None:
        connections.add(id(writer))
        sizes.append(len(request.split(b"\r\n\r\n", 1)[1]))
        writer.write(response(b"ok"))

    against(handler, posts=3, body=b"x" * 3_000_000)
    assert (len(connections), sizes) == (1, [3_000_000] * 3)


def test_a_compressed_answer_is_unpacked():
    """Content-Encoding gzip, as some gateways send it unasked."""

    async def handler(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(response(gzip.compress(b'{"a":1}'), headers="Content-Encoding: gzip\r\n"))

    assert against(handler).body == b'{"a":1}'


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("closed before any byte", b""),
        ("half a body, then closed", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        ("no HTTP at all", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ],
)
def test_half_an_answer_is_a_lost_connection(name, wire):
    """Whatever part of an answer came, without the rest it is ConnectionLost."""

    async def handler(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(wire)
        await writer.drain()
        writer.close()
        raise ConnectionError

    with pytest.raises(ConnectionLost) as caught:
        against(handler)
    assert caught.value.kind == "connection"


def test_silence_ends_with_the_timeout():
    """A server that never answers costs the timeout, no more."""

    async def handler(_request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    with pytest.raises(ConnectionLost, match=r"no whole answer within 0\.2 s") as caught:
        against(handler, timeout=0.2)
    assert caught.value.kind == "timeout"


def test_silence_in_the_middle_of_an_answer_ends_before_the_timeout():
    """Half a body, then nothing: another bound than for a model that thinks."""

    async def handler(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(30)

    with pytest.raises(ConnectionLost, match=r"half an answer, then nothing for 0\.2 s") as caught:
        against(handler, timeout=20, silence=0.2)
    assert caught.value.kind == "timeout"


def test_a_slow_answer_is_no_silence():
    """A byte now and then resets the bound."""

    async def handler(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.1)

    assert against(handler, silence=0.3).body == b"xxxxx"


def test_a_connection_closed_in_the_moment_of_its_reuse_is_no_failure():
    """The keep-alive race: five posts over connections that the server closes each time one is used again."""
    served = []

    async def handler(request: bytes, writer: asyncio.StreamWriter) -> None:
        if writer in served:  # used again: closed without a word
            writer.close()
            raise ConnectionError
        served.append(writer)
        writer.write(response(b"ok"))

    assert against(handler, posts=5).body == b"ok"
    assert len(served) == 5


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_a_request_that_was_read_is_sent_twice_at_most(begun):
    """A server that reads and closes each time, or begins an answer, gets no flood of the same paid request."""
    served, seen = set(), []

    async def handler(request: bytes, writer: asyncio.StreamWriter) -> None:
        if id(writer) not in served:
            served.add(id(writer))
            writer.write(response(b"ok"))
            return
        seen.append(request)
        writer.write(begun)
        await writer.drain()
        writer.close()
        raise ConnectionError

    if begun:
        with pytest.raises(ConnectionLost):
            against(handler, posts=2)
    else:
        against(handler, posts=2)
    assert len(seen) == 1


def test_a_proxy_is_used():
    """The request goes to the proxy, with the endpoint's whole address in it."""
    seen = []

    async def run():
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await read_request(reader))
            writer.write(response(b"through"))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        endpoint = Address("http://endpoint.test/v1/chat/completions", KEY)
        try:
            async with ChatClient(endpoint, 5, 5, 5, proxy) as client:
                return await client.post(b"{}")
        finally:
            server.close()

    assert asyncio.run(run()).body == b"through"
    assert seen[0].startswith(b"POST http://endpoint.test/v1/chat/completions HTTP/1.1")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_said(scheme):
    """407, of the proxy itself or of its tunnel: about the proxy, not about the row or the key."""

    async def run():
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response(b"", "407 Proxy Authentication Required"))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        endpoint = Address(f"{scheme}://endpoint.test/v1/chat/completions", KEY)
        try:
            async with ChatClient(endpoint, 5, 5, 5, proxy) as client:
                return read_reply(await client.post(b"{}"))
        finally:
            server.close()

    with pytest.raises(AccountError) as caught:
        asyncio.run(run())
    assert (caught.value.kind, caught.value.http_status) == ("proxy", 407)


@pytest.mark.parametrize(("proxy", "is_told"), [(None, True), ("env", False)])
def test_a_proxy_of_the_environment_that_is_not_used_is_named(monkeypatch, proxy, is_told):
    """Where nothing can be reached, the variable may be the reason."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def run():
        async with ChatClient(Address("https://127.0.0.1:9/v1", KEY), 5, 5, proxy=proxy) as client:
            await client.post(b"{}")

    with pytest.raises(ConnectionLost) as caught:
        asyncio.run(run())
    assert ("HTTPS_PROXY is set and not used" in str(caught.value)) is is_told


def test_a_proxy_of_the_environment_without_a_scheme_is_an_http_proxy(monkeypatch):
    """As curl takes it: HOST:PORT in the variable is the proxy, and the endpoint itself is not connected to."""
    monkeypatch.setenv("HTTPS_PROXY", "127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def run():
        async with ChatClient(Address("https://endpoint.test/v1", KEY), 5, 5, proxy="env") as client:
            await client.post(b"{}")

    with pytest.raises(ConnectionLost) as caught:
        asyncio.run(run())
    assert caught.value.kind == "cannot_connect"
    assert "not known" not in str(caught.value)  # no name was looked up


def test_nobody_listens():
    """A closed port is said to be one, by name."""

    async def run():
        async with ChatClient(Address("http://127.0.0.1:9/v1/chat/completions", KEY), 5, 5) as client:
            await client.post(b"{}")

    with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:9.*cannot connect") as caught:
        asyncio.run(run())
    assert caught.value.kind == "cannot_connect"


def test_a_redirect_does_not_carry_the_key_away():
    """3xx is an answer, not a second request to another host."""
    seen = []

    async def handler(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        writer.write(response(b"", "307 Temporary Redirect", "Location: http://elsewhere.test/\r\n"))

    assert against(handler).status == 307
    assert len(seen) == 1


def test_an_endless_answer_is_cut_off(monkeypatch):
    """Memory is bounded, whatever a server sends."""
    monkeypatch.setattr("captionmill.edges.chat.MOST_ANSWER_BYTES", 1000)

    async def handler(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"x" * 100_000))

    with pytest.raises(ConnectionLost, match="longer than"):
        against(handler)
