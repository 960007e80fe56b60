"""A real service: onepeace-tiny in float32 behind uvicorn on loopback."""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from retrieval.service.app import create_app
from retrieval.service.run import server_of
from retrieval.service.security import ApiKeys
from retrieval.service.service import Service
from retrieval.service.worker import ModelSource

TINY = ModelSource("onepeace-tiny", "cpu", "float32")


@dataclass
class Running:
    """A service that answers."""

    url: str
    service: Service
    server: uvicorn.Server


def start(service: Service, keys: ApiKeys | None = None) -> tuple[Running, threading.Thread]:
    """Run a service in a thread and wait until it is ready."""
    server = server_of(create_app(service, keys), replace(service.config, port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    return Running(f"http://127.0.0.1:{port}", service, server), thread


def stop(running: Running, thread: threading.Thread) -> None:
    """End it as SIGTERM does."""
    running.server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def base64_of(path: str | Path) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()
