from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from retrieval.service.config import ServiceConfig
from retrieval.service.run import server_of


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """Answer nothing, but start and end."""
    while scope["type"] == "lifespan":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


@pytest.mark.parametrize("terminal", [True, False])
def test_who_watches_a_terminal_reads_the_address_last(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    server = server_of(silent, ServiceConfig(port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started or (terminal and not server.servers):
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(30)
    told = f"\nserving on http://127.0.0.1:{port} , Ctrl-C ends it\n" if terminal else ""
    assert capsys.readouterr().err == told
