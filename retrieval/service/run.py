"""The service as a process: its server, its log, its end."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn

from .app import create_app
from .config import ServiceConfig
from .logs import JsonLines, PlainLines
from .protocol import BoundedHeads
from .security import ApiKeys
from .service import Service
from .worker import ModelSource

DRAIN_SECONDS = 30
KEEP_ALIVE_SECONDS = 75  # longer than clients keep idle connections, so that they never use one that is just closed


class AddressTeller(uvicorn.Server):
    """A server that tells who watches a terminal, once it listens, where."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so last."""
        await super().startup(sockets)
        if self.started and sys.stderr.isatty():
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            sys.stderr.write(f"\nserving on http://{f'[{host}]' if ':' in host else host}:{port} , Ctrl-C ends it\n")


def run(source: ModelSource, stores: Mapping[str, Path], config: ServiceConfig, keys: ApiKeys) -> None:
    """Serve until SIGTERM or Ctrl-C; what was begun is finished first. Raises ValueError before it listens."""
    check_address(config.host, config.port)
    app = create_app(Service(source, stores, config), keys)
    handler = logging.StreamHandler()
    handler.setFormatter(PlainLines() if sys.stderr.isatty() else JsonLines())
    for name in ("onepeace", "retrieval", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    server = server_of(app, config)
    server.run()
    if not server.started:
        raise ValueError(f"cannot serve on {config.host}:{config.port}; the log says why")


def check_address(host: str, port: int) -> None:
    """Raise ValueError where nothing can listen: now, rather than when the model is loaded."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
    except OSError as error:
        advice = "give an address of this machine as --host, and a --port that you may use"
        if error.errno == errno.EADDRINUSE:
            advice = "something else listens there, or the service runs already: stop it, or give another --port"
        raise ValueError(f"cannot serve on {host}:{port} ({error.strerror}): {advice}") from None


def server_of(app: Any, config: ServiceConfig) -> uvicorn.Server:
    """Return the server of an application."""
    return AddressTeller(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            http=BoundedHeads,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
