"""One POST, one attempt. The one place that sees aiohttp's client.

Knows nothing of retries, limits or what an answer means.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import socket
import ssl
import time
import zlib
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp import http_exceptions

from ..nouns.address import Address
from ..nouns.errors import AccountError, ConnectionLost, RunError, ServerBusy
from ..nouns.rows import HttpAnswer

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType

MOST_ANSWER_BYTES = 64 * 2**20
# aiohttp warns about larger bytes and would write them in one piece; BytesIO goes out in chunks
_ONE_PIECE_BYTES = 2**20
# uvicorn, and so vLLM, closes idle connections after 5 s; a POST that meets the close is not re-sent
_KEEPALIVE_SECONDS = 4.0
# a server that closes a connection in the moment it is used again; later than this it was at work on the request
_RACE_SECONDS = 0.5
# aiohttp's own bound, 8,190 bytes, refuses headers of gateways that pass on whole policies; the answer is paid for by then
_MOST_HEADER_BYTES = 2**20
_MOST_HEADERS = 2000


@dataclass(slots=True)
class _Trip:
    """One POST. is_reused: it goes over a connection that was used before; `_open_socket` says that it does not."""

    is_reused: bool = True


_trip: ContextVar[_Trip] = ContextVar("_trip")  # of the task; a dialling task of its own shares the object


def _open_socket(address: AddrInfoType) -> socket.socket:
    """As aiohttp opens one, and noted (tracing every request for this takes 3 % of a row's time)."""
    if (trip := _trip.get(None)) is not None:
        trip.is_reused = False
    family, kind, protocol, _, _ = address
    return socket.socket(family, kind, protocol)


class ChatClient:
    """A pool of connections to one endpoint. Use as an async context manager, in the running loop.

    timeout_seconds: for one attempt, from the first byte sent to the last received. silence_seconds: within an
    answer that has begun. proxy: address of an HTTP proxy; "env" for what the environment says; None for none.
    sends_again: at once, over a connection that closes as it is reused; not where every request is counted.
    """

    def __init__(
        self,
        address: Address,
        timeout_seconds: float,
        connect_seconds: float,
        silence_seconds: float = 60.0,
        proxy: str | None = None,
        sends_again: bool = True,
    ) -> None:
        self.address = address
        self._sends_again = sends_again
        self._silence_seconds = silence_seconds
        self._proxy = proxy
        self._name = address.name
        # no br and no zstd: they would need libraries
        self._headers = address.headers() | {"Accept-Encoding": "gzip, deflate"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=connect_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ChatClient:
        # limit=0: the runner bounds what is in flight; aiohttp's own 100 would cap it in silence
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, socket_factory=_open_socket
        )
        is_of_environment = self._proxy == "env"
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=_proxy_of_environment(self.address.url) if is_of_environment else self._proxy,
            auto_decompress=False,  # a label that lies would lose the answer: see `_decompressed`
            max_line_size=_MOST_HEADER_BYTES,
            max_field_size=_MOST_HEADER_BYTES,
            max_headers=_MOST_HEADERS,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, body: bytes) -> HttpAnswer:
        """Send one chat request.

        Raises ConnectionLost where no whole answer came back, ServerBusy where one came that breaks the rules of HTTP,
        AccountError where the certificate is not trusted or the proxy refuses, RunError where this process may not open
        another connection.
        """
        try:
            return await self._post(body)
        except aiohttp.ClientConnectorCertificateError as error:
            raise AccountError(
                f"{self._name}: the certificate is not trusted ({_verdict(error.certificate_error)})",
                kind="tls",
            ) from None
        except aiohttp.ConnectionTimeoutError:
            raise ConnectionLost(
                f"{self._name}: cannot connect (no answer within {self._timeout.sock_connect:g} s)",
                kind="cannot_connect",
            ) from None
        except TimeoutError:
            raise ConnectionLost(
                f"{self._name}: no whole answer within {self._timeout.total:g} s", kind="timeout"
            ) from None
        except _Silence:
            raise ConnectionLost(
                f"{self._name}: half an answer, then nothing for {self._silence_seconds:g} s", kind="timeout"
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, ssl.SSLError) as error:
            raise self._not_connected(error) from None
        except (aiohttp.InvalidURL, ValueError):  # its message repeats the address, and a password in it
            raise AccountError(
                f"{self._name}: the proxy's address is not usable: http://HOST:PORT is needed", kind="proxy"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(error) from None

    def _not_connected(self, error: Exception) -> ConnectionLost | RunError:  # AccountError is a RunError
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return RunError(f"{self._name}: {_reason(error)}", kind="open_files")
        if isinstance(error, aiohttp.ClientHttpProxyError) and error.status == 407:
            return AccountError(
                f"{self._name}: the proxy wants a name and a password (407)", kind="proxy", http_status=407
            )
        unused = "" if self._proxy else _unused_proxy()
        return ConnectionLost(
            f"{self._name}: cannot connect ({_reason(error)}){unused}", kind="cannot_connect"
        )

    def _lost(self, error: Exception) -> ConnectionLost | ServerBusy:
        """What an answer that aiohttp could not take amounts to: it came and breaks the rules of HTTP, or it broke off."""
        reason = _reason(error)
        is_http = not isinstance(error, aiohttp.ClientResponseError) or "Expected HTTP/" not in reason
        is_breach = isinstance(error, aiohttp.ClientResponseError) or isinstance(
            error.__cause__, http_exceptions.TransferEncodingError
        )
        if is_http and is_breach:
            return ServerBusy(
                f"{self._name}: an answer came that breaks the rules of HTTP ({reason})", kind="broken_answer"
            )
        return ConnectionLost(f"{self._name}: connection lost ({reason})", kind="connection")

    async def get(self, url: str) -> HttpAnswer:
        """Read one address, with the key. Raises as `post` does.

        url: of the same server.
        """
        assert self._session is not None, "use `async with`"  # noqa: S101
        try:
            async with self._session.get(url, allow_redirects=False, trace_request_ctx=_Trip()) as response:
                data = await self._read(response)
                if "Content-Encoding" in response.headers:
                    data = _decompressed(data, response.headers["Content-Encoding"])
                return HttpAnswer(response.status, response.headers, data)
        except (TimeoutError, _Silence):
            raise ConnectionLost(f"{self._name}: no answer in time", kind="timeout") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._lost(error) from None

    async def _post(self, body: bytes) -> HttpAnswer:
        """Over a connection that the server is just closing, once more at once: the server has not read the request."""
        assert self._session is not None, "use `async with`"  # noqa: S101
        for is_last in (False, True):
            data = body if len(body) < _ONE_PIECE_BYTES else io.BytesIO(body)
            trip, sent_at = _Trip(), time.monotonic()
            _trip.set(trip)
            try:
                async with self._session.post(self.address.url, data=data, allow_redirects=False) as response:
                    data = await self._read(response)
                    if "Content-Encoding" in response.headers:
                        data = _decompressed(data, response.headers["Content-Encoding"])
                    return HttpAnswer(response.status, response.headers, data)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                has_begun = not isinstance(getattr(error, "message", ""), str)  # of the answer
                is_late = time.monotonic() - sent_at > _RACE_SECONDS
                if is_last or has_begun or is_late or not (trip.is_reused and self._sends_again):
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body; also one that is complete by itself where its announced end is missing."""
        chunks: list[bytes] = []
        silence: asyncio.Timeout | None = None
        try:
            if response.content.is_eof():  # a short answer comes with its head: there is nothing to wait for
                await _collect(response.content, chunks)
            else:
                async with asyncio.timeout(self._silence_seconds) as silence:
                    await _collect(response.content, chunks, silence, self._silence_seconds)
        except _TooLong:
            raise
        except (TimeoutError, aiohttp.ClientOSError, aiohttp.ClientPayloadError) as error:
            if not _is_complete(chunks):
                raise _broken_off(error, silence) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _collect(
    content: aiohttp.StreamReader,
    chunks: list[bytes],
    silence: asyncio.Timeout | None = None,
    silence_seconds: float = 0.0,
) -> None:
    """Append what comes to `chunks`, to the end.

    silence: moved on by `silence_seconds` at each chunk; None where all has come. Raises _TooLong where the body is
    longer than MOST_ANSWER_BYTES.
    """
    size, loop = 0, asyncio.get_running_loop()
    async for chunk in content.iter_any():
        if silence is not None:
            silence.reschedule(loop.time() + silence_seconds)
        size += len(chunk)
        if size > MOST_ANSWER_BYTES:
            raise _TooLong(f"the answer is longer than {MOST_ANSWER_BYTES:,} bytes")
        chunks.append(chunk)


def _broken_off(error: Exception, silence: asyncio.Timeout | None) -> Exception:
    """The error of a body that ended in the middle."""
    if isinstance(error, TimeoutError):
        return _Silence() if silence is not None and silence.expired() else error
    if isinstance(error, aiohttp.ClientOSError):  # an answer had begun, so this is no race for a connection
        return aiohttp.ClientPayloadError(str(error))
    return error


class _TooLong(aiohttp.ClientPayloadError):
    """A body above MOST_ANSWER_BYTES."""


def _proxy_of_environment(url: str) -> str | None:
    """HTTPS_PROXY, HTTP_PROXY and NO_PROXY; not trust_env, which also takes a password for the host from ~/.netrc."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    proxy = getproxies().get(parts.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class _Silence(Exception):
    """In the middle of an answer."""


def _is_complete(chunks: list[bytes]) -> bool:
    """Whether the body that came is complete by itself, though its length was announced wrongly or its end is missing."""
    body = b"".join(chunks).strip()
    if body.endswith(b"[DONE]"):
        return True
    try:
        return body.endswith(b"}") and isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _decompressed(data: bytes, encoding: str) -> bytes:
    """The body behind a Content-Encoding header; the body as it came where the label lies or names another format."""
    # zlib finds out itself whether it is gzip or deflate; some servers send deflate without its header
    for bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS) if "identity" not in encoding.lower() else ():
        try:
            decompressor = zlib.decompressobj(bits)
            text = decompressor.decompress(data, MOST_ANSWER_BYTES)
        except zlib.error:
            continue
        if text:
            return text
    return data


def _unused_proxy() -> str:
    """A word about a proxy of the environment that this run does not use; empty where there is none."""
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    name = next((name for name in names if os.environ.get(name)), None)
    return f"; {name} is set and not used: --proxy env uses it" if name else ""


def _verdict(error: Exception) -> str:
    return getattr(error, "verify_message", None) or str(error)


def _reason(error: BaseException) -> str:
    """The system's own words where there are some; aiohttp's message names the address again."""
    cause = getattr(error, "os_error", None) or error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
