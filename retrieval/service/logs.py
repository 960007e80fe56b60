"""One line of JSON a request: what was asked and how it ended, never what was in it."""

from __future__ import annotations

import json
import logging
import re
import time
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

from .metrics import Metrics
from .security import App, Message, Receive, Scope, Send, header

request_id: ContextVar[str] = ContextVar("request_id", default="")
_OWN = re.compile(r"[\w.-]{1,64}", re.ASCII)

logger = logging.getLogger("onepeace.serve")


class JsonLines(logging.Formatter):
    """Formats a record as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request"] = request_id.get()
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class PlainLines(logging.Formatter):
    """Formats a record for who watches a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = " ".join(str(value) for value in getattr(record, "facts", {}).values())
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.getMessage()} {facts}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class AccessLog:
    """Gives each request an id, its client's own where that is harmless, and logs and counts how it ended."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own = header(scope, b"x-request-id") or ""
        name = own if _OWN.fullmatch(own) else uuid4().hex
        token = request_id.set(name)
        begun, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name.encode())]}
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "none")  # never the address itself: it may hold an id
            if not route.startswith(("/health", "/metrics")):
                self.metrics.requests.labels(route, str(status)).inc()
                self.metrics.seconds.labels(route).observe(seconds)
                facts = {"method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 1)}
                logger.info("request", extra={"facts": facts})
            request_id.reset(token)
