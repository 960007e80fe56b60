"""Media from other hosts, where the service was told to allow it: https, named hosts, public addresses, in bounds.

The address that was checked is the one that is connected to, so that a name cannot lead elsewhere between the two (DNS
rebinding). Redirects are followed by hand, each as suspicious as the first address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpcore

from .errors import ApiError

REDIRECTS = 3
AT_ONCE = 8  # fetches
PORT = 443
_LEFT = "/%?&=:;,+!$'()*@~"  # characters of a path that stay as they are
# What `ipaddress` counts as global all the same: networks through which a public address stands for a private one, the
# old site-local addresses, and one where a cloud keeps its metadata.
_INSIDE = [
    ipaddress.ip_network(text)
    for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "fec0::/10", "192.0.0.0/24")
]

Allowed = Callable[[str], bool]


def is_public(address: str) -> bool:
    """Return whether an address is of the public internet: not private, loopback, link-local, or a tunnel to such."""
    try:
        parsed: Any = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        return is_public(str(parsed.ipv4_mapped))
    if any(parsed in network for network in _INSIDE):
        return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host, refuses it unless all its addresses are allowed, and connects to one of those."""

    def __init__(self, allowed: Allowed = is_public) -> None:
        self.allowed = allowed
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open a connection. Raises ApiError for an address that is not allowed."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise refused(f"host {host!r} cannot be found") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(self.allowed(address) for address in addresses):
            raise refused(f"host {host!r} has an address that is not public")
        return await self._backend.connect_tcp(addresses[0], port, timeout, local_address, socket_options)


class RemoteMedia:
    """Fetches media from the hosts that are allowed; with none, everything is refused."""

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        max_bytes: int,
        seconds: float,
        allowed: Allowed = is_public,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self.max_bytes, self.seconds = max_bytes, seconds
        self._allowed = allowed
        self._ssl_context = ssl_context or (ssl.create_default_context() if self.hosts else None)
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def fetch(self, url: str) -> bytes:
        """Return what lies at an address. Raises ApiError when it is not allowed, not there, too large or too slow."""
        if not self.hosts:
            raise refused("remote media are off: send the bytes as base64 or a data: address")
        try:
            async with self._at_once, asyncio.timeout(self.seconds), self._pool() as pool:
                for _ in range(REDIRECTS + 1):
                    content, onward = await self._once(pool, self._checked(url))
                    if onward is None:
                        return content
                    url = _joined(url, onward)
        except TimeoutError:
            raise refused(f"it took longer than {self.seconds:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, UnicodeError):
            raise refused("the host does not answer properly") from None
        raise refused(f"more than {REDIRECTS} redirects")

    def _pool(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            network_backend=PinnedBackend(self._allowed),
            max_connections=1,
        )

    def _checked(self, url: str) -> httpcore.URL:
        """Return the address, ready to ask. Raises ApiError unless it is https to an allowed host."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise refused("the address is malformed") from None
        if parts.scheme != "https":
            raise refused("only https:// is fetched")
        if parts.username is not None or parts.password is not None:
            raise refused("an address with a user name is not fetched")
        host = (parts.hostname or "").rstrip(".")
        if not host.isascii():
            raise refused("write the host's name in ASCII (xn--...)")
        if host not in self.hosts and f"{host}:{port}" not in self.hosts:
            raise refused(f"host {host!r} is not one of those that are allowed")
        if port not in (None, PORT) and f"{host}:{port}" not in self.hosts:
            raise refused(f"only port {PORT} is fetched")
        path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_LEFT)
        return httpcore.URL(scheme="https", host=host, port=port, target=path.encode("ascii"))

    async def _once(self, pool: httpcore.AsyncConnectionPool, url: httpcore.URL) -> tuple[bytes, str | None]:
        """Return a body, or where to ask instead."""
        headers = [(b"Host", url.host), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"onepeace")]
        async with pool.stream("GET", url, headers=headers) as response:
            if response.status in (301, 302, 303, 307, 308):
                target = dict(response.headers).get(b"location") or dict(response.headers).get(b"Location")
                if target is None:
                    raise refused("a redirect without a target")
                return b"", target.decode("ascii")
            if response.status != 200:
                raise refused(f"the host answered {response.status}")
            body = bytearray()
            async for part in response.aiter_stream():
                body += part
                if len(body) > self.max_bytes:
                    raise refused(f"it is larger than the limit of {self.max_bytes:,} bytes")
        return bytes(body), None


def _joined(url: str, onward: str) -> str:
    try:
        return urljoin(url, onward)
    except ValueError:
        raise refused("a redirect to a malformed address") from None


def refused(why: str) -> ApiError:
    """Return the error of media that are not fetched."""
    return ApiError(400, f"cannot fetch remote media: {why}", code="remote_media_refused")
