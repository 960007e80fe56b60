"""HTTP/1.1 with bounds on what comes before a body: the head of a request must come soon, and be small."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0  # from the connection, or the first byte of a further request, until its head is whole
HEAD_BYTES = 64 * 1024


class BoundedHeads(HttpToolsProtocol):
    """Closes connections whose head never ends; without, each would hold its socket for ever."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes of a head, and wait again where nothing is being answered."""
        waiting = self._deadline
        super().data_received(data)
        if self.transport.is_closing():
            return
        if waiting is not None and self._deadline is waiting:  # the same head, still not whole
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.abort()
        elif self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()  # for the rest of a body that nobody wants, or for anything at all

    def on_message_begin(self) -> None:
        """Begin to wait for the head of this request."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Wait no longer: bodies have bounds of their own (`security.BoundedBodies`)."""
        self._stop_waiting()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._stop_waiting()
        self._head_bytes = 0
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
