"""Reaching Milvus: a server by its address, or Milvus Lite in this process, on a folder that ends in .db."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import StoreError
from .manifest import MANIFEST_NAME

TOKEN_VARIABLE = "ONEPEACE_MILVUS_TOKEN"  # noqa: S105 - the name of a variable
SCHEMES = ("http", "https", "tcp", "unix")
LITE_SUFFIX = ".db"
CONNECTING = 5.0  # seconds until an address counts as unreachable,
ANSWERING = 120.0  # and a request as lost,
SEALING = 3_600.0  # and one that seals what was written
# A proxy for the world outside must not be asked for this machine, and Milvus Lite hangs up on who pings it often.
LITE_OPTIONS = {"grpc.enable_http_proxy": 0, "grpc.keepalive_time_ms": 2**31 - 1}


def is_milvus(place: str | os.PathLike[str]) -> bool:
    """Tell whether a store lies in Milvus by what it is called: an address, or a .db that is no folder of ours."""
    if urlsplit(os.fspath(place)).scheme in SCHEMES:
        return True
    return os.fspath(place).endswith(LITE_SUFFIX) and not (Path(place) / MANIFEST_NAME).is_file()


@contextmanager
def plainly() -> Iterator[None]:
    """Turn what pymilvus raises into StoreError."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise StoreError(f"Milvus says: {error.message}") from error


@dataclass
class Connection:
    """A client, and the Milvus Lite behind it if there is one."""

    client: Any
    lite: _Lite | None
    writing: threading.RLock = field(default_factory=threading.RLock)  # Milvus Lite takes one writer at a time
    _open: bool = field(default=True, init=False)

    def close(self) -> None:
        """Let go; the last of a file's connections ends its Milvus Lite."""
        if self._open:
            self._open = False
            self.client.close()
            if self.lite is not None:
                self.lite.leave()


def connect(place: str | os.PathLike[str], *, fresh: bool = False) -> Connection:
    """Connect to a server, or open a file with Milvus Lite; with `fresh` the file may be made.

    Raises StoreError for an address that cannot be reached within seconds, and a file that is none or in use;
    ImportError without pymilvus.
    """
    place = os.fspath(place)
    try:
        import pymilvus
    except ImportError as error:
        raise ImportError("stores in Milvus need pymilvus: pip install 'onepeace[scale]'") from error

    # What goes wrong is raised here; pymilvus would print it as well.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    if urlsplit(place).scheme in SCHEMES:
        return Connection(_client(pymilvus, place, place, os.environ.get(TOKEN_VARIABLE, "")), None)
    lite = _Lite.enter(Path(place), fresh)
    try:
        return Connection(_client(pymilvus, lite.address, place, "", LITE_OPTIONS), lite, lite.writing)
    except BaseException:
        lite.leave()
        raise


def _client(pymilvus: Any, address: str, place: str, token: str, options: dict[str, Any] | None = None) -> Any:
    if urlsplit(address).username is not None:
        raise StoreError(f"an address with a name or password is not taken: put them into {TOKEN_VARIABLE}")
    try:
        return pymilvus.MilvusClient(
            uri=address, token=token, timeout=CONNECTING, dedicated=True, grpc_options=options or {}
        )
    except pymilvus.MilvusException as error:
        raise StoreError(f"no Milvus answers at {place} ({error.message})") from error


class _Lite:
    """A Milvus Lite that serves one file in this process: threads, and a port that only this machine can reach."""

    _running: dict[str, _Lite] = {}  # noqa: RUF012 - of the whole process: a file is served once
    _guard = threading.Lock()

    def __init__(self, path: Path) -> None:
        try:
            from milvus_lite.adapter.grpc.server import start_server_in_thread
            from milvus_lite.exceptions import DataDirLockedError
        except ImportError as error:
            raise ImportError(f"{path} needs Milvus Lite: pip install 'onepeace[scale]'") from error
        self._key, self._users, self.writing = os.path.realpath(path), 0, threading.RLock()
        try:
            self._server, self._database, port = start_server_in_thread(self._key, host="127.0.0.1", port=0)
        except DataDirLockedError as error:
            raise StoreError(
                f"{path} is open in another process; Milvus Lite serves one at a time: close it there, or use a server"
            ) from error
        self.address = f"http://127.0.0.1:{port}"

    @classmethod
    def enter(cls, path: Path, fresh: bool) -> _Lite:
        """Serve a file, or go on serving it."""
        whole = (path / "collections").is_dir()
        if not whole and not fresh:
            raise StoreError(f"{path} is not a store of Milvus Lite: make one with `onepeace index build`")
        if not whole and path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise StoreError(f"{path} already exists and is not Milvus Lite's: choose another")
        path.parent.mkdir(parents=True, exist_ok=True)
        with cls._guard:
            key = os.path.realpath(path)
            lite = cls._running.get(key) or cls(path)
            cls._running[key] = lite
            lite._users += 1
        return lite

    def leave(self) -> None:
        """End it with its last user."""
        with self._guard:
            self._users -= 1
            if self._users == 0:
                del self._running[self._key]
                self._server.stop(grace=2).wait()
                self._database.close()
