"""Who may ask, and how much at a time: API keys, bounds on bodies, headers that browsers heed; plain ASGI."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .errors import ApiError, busy, not_ready

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COUNTED = ("/v1/", "/v2/", "/embeddings")  # what costs time; the page, health and metrics answer at any time
BODIES = 8  # of the largest size that are held at once
TICKET_SECONDS = 12 * 3_600
SHORTEST_KEY = 16  # characters; shorter ones can be guessed
HOME = ("127.0.0.1", "localhost", "::1")  # names of this machine
OPEN = ("/health/", "/assets/")  # what anybody may read, and the page itself: it holds nothing of the stores
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}


class ApiKeys:
    """The keys that open the service, kept as hashes. Without any it is open to whoever reaches it."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Raises ValueError for a key that is too short."""
        keys = list(keys)
        if any(len(key) < SHORTEST_KEY for key in keys):
            raise ValueError(f"an API key must have at least {SHORTEST_KEY} characters")
        self._hashes = [self._hash(key) for key in keys]

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Read a file with a key a line; `#` begins a comment. Raises ValueError when it holds none."""
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        keys = [line for line in lines if line]
        if not keys:
            raise ValueError(f"{path} holds no API key: write one a line")
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    @staticmethod
    def _hash(key: str) -> bytes:
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

    def opens(self, key: str) -> bool:
        """Return whether a key is one of them, in a time that tells nothing about them."""
        given = self._hash(key)
        # All are compared, so that the time does not tell which one was right.
        return bool(sum([hmac.compare_digest(given, kept) for kept in self._hashes]))


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request's header."""
    for key, value in scope["headers"]:
        if key.lower() == name:
            return str(value.decode("latin-1"))
    return None


async def answer(send: Send, error: ApiError) -> None:
    """Send an error without the framework."""
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Tickets:
    """Opens single files to players of browsers, which cannot send a key; made for who has one, until the service ends.

    >>> tickets = Tickets()
    >>> ticket = tickets.issue("/v1/media/photos/rain.ogg")
    >>> tickets.opens("/v1/media/photos/rain.ogg", ticket), tickets.opens("/v1/media/photos/other.ogg", ticket)
    (True, False)
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._secret, self._clock = secrets.token_bytes(32), clock

    def issue(self, path: str) -> str:
        """Return what opens a path for some hours."""
        until = int(self._clock()) + TICKET_SECONDS
        return f"{until}.{self._signed(path, until)}"

    def opens(self, path: str, ticket: str) -> bool:
        """Return whether a ticket was made for this path, not too long ago."""
        until, _, signature = ticket.partition(".")
        if not (until.isascii() and until.isdigit() and signature.isascii()) or len(until) > 12:
            return False
        return hmac.compare_digest(signature, self._signed(path, int(until))) and self._clock() < int(until)

    def _signed(self, path: str, until: int) -> str:
        return hmac.digest(self._secret, f"{until} {path}".encode("utf-8", "surrogatepass"), "sha256").hex()


class SecurityHeaders:
    """Adds what browsers heed to every answer."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                more = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items() if k.lower().encode() not in names]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, with_headers)


def foreign(scope: Scope, loopback: bool) -> bool:
    """Tell whether a request without a key comes from another site's page in somebody's browser.

    Such a page can reach a service on its visitor's machine: under a name of its own that it points at 127.0.0.1 (DNS
    rebinding), or with a form, which no browser asks permission for.
    """
    host = header(scope, b"host") or ""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    if loopback and name.strip("[]").lower() not in HOME:
        return True
    if scope["method"] in ("GET", "HEAD"):
        return False
    origin = header(scope, b"origin")
    if header(scope, b"sec-fetch-site") in ("cross-site", "same-site"):
        return True
    return origin is not None and urlsplit(origin).netloc != host


class Authentication:
    """Lets only those in who have a key: `Authorization: Bearer KEY` or `X-API-Key: KEY`; without keys, all but pages
    of other sites. A file may be read with a ticket, too.
    """

    def __init__(self, app: App, keys: ApiKeys, loopback: bool, tickets: Tickets) -> None:
        self.app, self.keys, self.loopback, self.tickets = app, keys, loopback, tickets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http" and not self.keys and foreign(scope, self.loopback):
            why = "this service answers its own page and programs only: ask it at 127.0.0.1, or give it API keys"
            await answer(send, ApiError(403, why, code="foreign_origin"))
            return
        if scope["type"] == "http" and self.keys and not self._open(scope["path"]) and not self._has_ticket(scope):
            scheme, _, given = (header(scope, b"authorization") or "").partition(" ")
            key = given.strip() if scheme.lower() == "bearer" else header(scope, b"x-api-key") or ""
            if not self.keys.opens(key):
                why = "give an API key: Authorization: Bearer KEY" if not key else "this API key is not known here"
                error = ApiError(401, why, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
                await answer(send, error)
                return
        await self.app(scope, receive, send)

    def _has_ticket(self, scope: Scope) -> bool:
        if scope["method"] != "GET" or not scope["path"].startswith("/v1/media/"):
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("ticket", [""])
        return self.tickets.opens(scope["path"], given[0])

    @staticmethod
    def _open(path: str) -> bool:
        return path in ("/", "/docs") or path.startswith(OPEN)


class TimeLimit:
    """Gives a request up that is not answered in time; whatever it waits for is cancelled."""

    def __init__(self, app: App, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        answered = False

        async def begin(message: Message) -> None:
            nonlocal answered
            if not answered:
                answered = True
                limit.reschedule(None)  # the client may take its time to read
            await send(message)

        try:
            async with asyncio.timeout(self.seconds) as limit:
                await self.app(scope, receive, begin)
        except TimeoutError:
            if answered:
                raise
            await answer(send, not_ready(f"it took longer than {self.seconds:g} s"))


class BoundedBodies:
    """Reads each body whole, within its bounds of size and time, before the application sees the request.

    So a client that sends slowly, or nothing, or too much, holds nothing but its own connection; and how many requests
    are worked on at once is counted from when they are there.
    """

    def __init__(self, app: App, *, max_bytes: int, seconds: float, at_once: int) -> None:
        self.app, self.max_bytes, self.seconds, self.at_once = app, max_bytes, seconds, at_once
        self.running = 0  # requests with a body that are being worked on
        self._held = 0  # bytes of all bodies that are here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or not scope["path"].startswith(COUNTED):
            await self.app(scope, receive, send)
            return
        body = bytearray()
        try:
            self._check_room()  # before the body is read, which costs time; and after, as others came meanwhile
            whole = await self._read(scope, receive, body)
            self._check_room()
        except ApiError as error:
            self._held -= len(body)
            await answer(send, error)
            return
        self.running += 1
        try:
            if whole:
                await self.app(scope, self._again(bytes(body), receive), send)
        finally:
            self.running -= 1
            self._held -= len(body)

    def _check_room(self) -> None:
        if self.running >= self.at_once:
            raise busy(1, f"{self.at_once} requests are being worked on: try again soon")

    def _too_large(self) -> ApiError:
        return ApiError(413, f"a request may have {self.max_bytes:,} bytes at most", code="too_large")

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Fill `body`; return whether it came whole, and not the client left."""
        announced = header(scope, b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > self.max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    part = message.get("body", b"")
                    body += part
                    self._held += len(part)
                    if len(body) > self.max_bytes:
                        raise self._too_large()
                    if self._held > BODIES * self.max_bytes:
                        raise busy(1, "too many large requests come at once: try again soon")
                    if not message.get("more_body"):
                        return True
        except TimeoutError:
            raise ApiError(408, f"the request did not come within {self.seconds:g} s", code="timeout") from None

    @staticmethod
    def _again(body: bytes, receive: Receive) -> Receive:
        given = False

        async def read() -> Message:
            nonlocal given
            if given:
                return await receive()  # waits until the client leaves
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return read
