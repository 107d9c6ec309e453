"""The bytes of a picture's URL, with bounds on size and time, and never from a private address.

A manifest may come from a stranger: a URL in it must not reach what only this machine can reach. So the IP
address is checked where the connection is made, after the name was resolved, for every redirect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ..nouns.errors import RowError

MAX_REMOTE_BYTES = 64 * 2**20
TOTAL_SECONDS = 60.0  # of one attempt, redirects included
CONNECT_SECONDS = 10.0
_ATTEMPTS = 3
_PAUSE_SECONDS = 1.0  # before the second attempt; one more before each further one
_MAX_REDIRECTS = 5
_MAX_PER_HOST = 8  # concurrent downloads
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet; of an IPv6 address that wraps an IPv4 one, the inner one counts."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class _Transient(Exception):
    """A retry may help."""


class AddressRule(Protocol):
    """Which hosts pictures may be fetched from."""

    def allows(self, address: str) -> bool:
        """Whether an IP address may be connected to."""


class PublicOnly:
    """Public addresses only: a manifest from elsewhere must not read this machine's network."""

    def allows(self, address: str) -> bool:
        """Whether the address is public."""
        return is_public(address)


class RemotePictures:
    """Downloads pictures. An async context: its connections are closed at the end.

    rule: which IP addresses may be connected to.
    """

    def __init__(self, rule: AddressRule | None = None) -> None:
        self._rule = rule or PublicOnly()
        self._session: aiohttp.ClientSession | None = None
        self._turns_by_host: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_MAX_PER_HOST)
        )

    async def __aenter__(self) -> RemotePictures:
        connector = aiohttp.TCPConnector(resolver=_CheckedResolver(self._rule), limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "captionmill", "Accept": "image/*,*/*;q=0.5"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch_all(self, urls: Sequence[str]) -> dict[str, bytes | RowError]:
        """By URL: its bytes, or the error that says why there are none. A URL that occurs twice is fetched once."""
        found = await asyncio.gather(*(self._fetch(url) for url in dict.fromkeys(urls)))
        return dict(zip(dict.fromkeys(urls), found, strict=True))

    async def _fetch(self, url: str) -> bytes | RowError:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                # the wait for our own turn does not count as the server's time
                async with self._turns_by_host[URL(url).host or ""], asyncio.timeout(TOTAL_SECONDS):
                    return await self._get(url)
            except RowError as error:
                return error
            except (_Transient, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                reason = str(error) or f"not complete after {TOTAL_SECONDS:g} s"
                if attempt == _ATTEMPTS or isinstance(error, ValueError):
                    return RowError(f"{url}: cannot be fetched ({reason})", kind="image_remote")
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
        raise AssertionError("the last attempt returns")

    async def _get(self, url: str) -> bytes:
        assert self._session is not None, "enter it first"  # noqa: S101
        at = URL(url)
        for _ in range(_MAX_REDIRECTS + 1):
            self._check(url, at)
            async with self._session.get(at, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                    at = at.join(URL(response.headers["Location"]))
                    continue
                if response.status in (408, 425, 429) or response.status >= 500:
                    raise _Transient(f"HTTP {response.status}")
                if response.status != 200:
                    raise RowError(f"{url}: HTTP {response.status}", kind="image_remote")
                return await _read(url, response)
        raise RowError(f"{url}: more than {_MAX_REDIRECTS} redirects", kind="image_remote")

    def _check(self, url: str, at: URL) -> None:
        """Refuse an IP address in the URL itself, which no resolver sees. at: the URL in the spelling that is used."""
        if at.scheme not in ("http", "https"):
            raise RowError(f"{url}: leads to {at.scheme}:, which is not a web address", kind="image_remote")
        for host in {at.host or "", at.raw_host or ""}:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                continue  # a name
            if not self._rule.allows(host):
                raise RowError(f"{url}: {_refusal(host)}", kind="image_remote")


async def _read(url: str, response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        data += chunk
        if len(data) > MAX_REMOTE_BYTES:
            raise RowError(f"{url}: more than {MAX_REMOTE_BYTES:,} bytes", kind="image_too_large")
    if not data:
        raise RowError(f"{url}: the answer is empty", kind="image_broken")
    return bytes(data)


def _refusal(address: str) -> str:
    return f"{address} is a private address; pictures are fetched from public ones only"


class _CheckedResolver(AbstractResolver):
    """Resolves names; returns only addresses that may be connected to."""

    def __init__(self, rule: AddressRule) -> None:
        self._rule = rule
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises ValueError where the name has only addresses that may not be connected to."""
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if self._rule.allows(result["host"])]
        if found and not allowed:
            raise ValueError(_refusal(found[0]["host"]))
        return allowed

    async def close(self) -> None:
        """As every resolver."""
        await self._inner.close()
