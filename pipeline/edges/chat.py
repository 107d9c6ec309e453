"""One POST, one attempt. The one place that sees aiohttp's client.

Knows nothing of retries, limits or what an answer means.
"""

from __future__ import annotations

import asyncio
import errno
import io
import ssl
import time
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from ..nouns.address import Address
from ..nouns.errors import AccountError, ConnectionLost, RunError
from ..nouns.rows import HttpAnswer

MOST_ANSWER_BYTES = 64 * 2**20
# aiohttp warns about larger bytes and would write them in one piece; BytesIO goes out in chunks
_ONE_PIECE_BYTES = 2**20
# uvicorn, and so vLLM, closes idle connections after 5 s; a POST that meets the close is not re-sent
_KEEPALIVE_SECONDS = 4.0
# a server that closes a connection in the moment it is used again; later than this it was at work on the request
_RACE_SECONDS = 0.5


@dataclass(slots=True)
class _Trip:
    """One POST. is_reused: it went over a connection that had been used before."""

    is_reused: bool = False


async def _note_reuse(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.is_reused = True


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
        self._headers = address.headers()
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=connect_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ChatClient:
        # limit=0: the runner bounds what is in flight; aiohttp's own 100 would cap it in silence
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        is_of_environment = self._proxy == "env"
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
            proxy=_proxy_of_environment(self.address.url) if is_of_environment else self._proxy,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, body: bytes) -> HttpAnswer:
        """Send one chat request.

        Raises ConnectionLost where no whole answer came back, AccountError where the certificate
        is not trusted, RunError where this process may not open another connection.
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
            if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
                raise RunError(f"{self._name}: {_reason(error)}", kind="open_files") from None
            raise ConnectionLost(
                f"{self._name}: cannot connect ({_reason(error)})", kind="cannot_connect"
            ) from None
        except (aiohttp.InvalidURL, ValueError):  # its message repeats the address, and a password in it
            raise AccountError(f"{self._name}: the proxy's address is not usable", kind="proxy") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost(
                f"{self._name}: connection lost ({_reason(error)})", kind="connection"
            ) from None

    async def _post(self, body: bytes) -> HttpAnswer:
        """Over a connection that the server is just closing, once more at once: nobody has read the request."""
        assert self._session is not None, "use `async with`"  # noqa: S101
        for is_last in (False, True):
            data = body if len(body) < _ONE_PIECE_BYTES else io.BytesIO(body)
            trip, sent_at = _Trip(), time.monotonic()
            try:
                async with self._session.post(
                    self.address.url, data=data, allow_redirects=False, trace_request_ctx=trip
                ) as response:
                    return HttpAnswer(response.status, response.headers, await self._read(response))
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                has_begun = not isinstance(getattr(error, "message", ""), str)  # of the answer
                is_late = time.monotonic() - sent_at > _RACE_SECONDS
                if is_last or has_begun or is_late or not (trip.is_reused and self._sends_again):
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        chunks, size, loop = [], 0, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._silence_seconds) as silence:
                async for chunk in response.content.iter_any():
                    silence.reschedule(loop.time() + self._silence_seconds)
                    size += len(chunk)
                    if size > MOST_ANSWER_BYTES:
                        raise aiohttp.ClientPayloadError(
                            f"the answer is longer than {MOST_ANSWER_BYTES:,} bytes"
                        )
                    chunks.append(chunk)
        except TimeoutError:
            raise _Silence if silence.expired() else TimeoutError from None
        except aiohttp.ClientOSError as error:  # an answer had begun, so this is no race for a connection
            raise aiohttp.ClientPayloadError(str(error)) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _proxy_of_environment(url: str) -> str | None:
    """HTTPS_PROXY, HTTP_PROXY and NO_PROXY; not trust_env, which also takes a password for the host from ~/.netrc."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    proxy = getproxies().get(parts.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class _Silence(Exception):
    """In the middle of an answer."""


def _verdict(error: Exception) -> str:
    return getattr(error, "verify_message", None) or str(error)


def _reason(error: BaseException) -> str:
    """The system's own words where there are some; aiohttp's message names the address again."""
    cause = getattr(error, "os_error", None) or error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
