"""Media from other hosts: nothing but what is allowed is ever connected to, whatever the address looks like."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import PIL.Image
import pytest
import trustme
from running_service import TINY, Running, start, stop

import onepeace
from onepeace.reader import InputReader
from retrieval import ModelTag, Store
from retrieval.service.config import ServiceConfig
from retrieval.service.errors import ApiError
from retrieval.service.remote import AT_ONCE, RemoteMedia, is_public
from retrieval.service.service import Service

HOST = "media.example"  # stands for a host that an operator allowed
ADDRESS = "127.0.0.2"  # where it is
PUBLIC = "93.184.216.34"
NAMES = {  # what hostile name servers answer
    "both.example": [PUBLIC, "127.0.0.1"],
    "inside.example": ["10.0.0.7"],
    "inside6.example": ["fd00::7"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "127.0.0.1.nip.example": ["127.0.0.1"],
}
HOSTS = [
    *["127.0.0.1", "127.1", "127.0.1", "127.0.0.1.", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.0.0.1"],
    *["017700000001", "0177.0.0.1", "0", "0.0.0.0", "localhost", "LOCALHOST", "localhost.", "ip6-localhost"],
    *["[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[fe80::1]"],
    *["[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fc00::1]", "[ff02::1]"],
    *["[fd00:ec2::254]", "[::ffff:169.254.169.254]", "[2001:db8::1]", "[100::1]", "[fec0::1]"],
    *["169.254.169.254", "2852039166", "0xa9fea9fe", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"],
    *["100.100.100.200", "192.0.0.192", "198.18.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255"],
    *["①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "ⓛocalhost", *NAMES],
]
ADDRESSES = [f"https://{host}/x.png" for host in HOSTS] + [
    *["http://media.example/x.png", "file:///etc/passwd", "file://localhost/etc/passwd", "ftp://media.example/x"],
    *["gopher://127.0.0.1:6379/_x", "dict://127.0.0.1:11211/", "unix:/var/run/docker.sock", "jar:https://x!/y"],
    *[
        "https:///127.0.0.1/x",
        "https:127.0.0.1",
        "https://media.example@127.0.0.1/x",
        "https://127.0.0.1#@media.example/",
    ],
    *["https://127.0.0.1\\@media.example/", "https://media.example:22/", "https://media.example:99999/x"],
    *["https://media.example%00.127.0.0.1/", "https://127.0.0.1%2f@media.example/", "https://[::1", "https://"],
    *["https://media.example\r\nHost: x/", "https://user:password@media.example/x.png", "HTTPS://127.0.0.1/"],
]


def test_there_are_sixty_attempts_and_more() -> None:
    assert len(set(ADDRESSES)) == len(ADDRESSES) >= 60


def picture() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


LARGE = picture()


class Hostile(BaseHTTPRequestHandler):
    """A host that was allowed, and does what it likes."""

    asked: ClassVar[list[str]] = []
    redirect: ClassVar[str] = ""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", self.redirect.encode().decode("latin-1"))
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(65_536))
        elif self.path == "/slow":
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.flush()
            threading.Event().wait(5)
        elif self.path.startswith("/picture/"):  # a large one, another one each time
            content = LARGE + self.path.encode().ljust(32)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            if self.path.startswith("/half-a-second"):
                threading.Event().wait(0.5)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"media")

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever leaves early is meant to."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def port(authority: trustme.CA) -> Iterator[int]:
    """The port of the hostile host, at 127.0.0.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, ADDRESS).configure_cert(context)
    server = QuietServer(("127.0.0.2", 0), Hostile)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


CONNECTED: list[str] = []  # addresses that this process has connected to, or tried to
sys.addaudithook(lambda event, told: CONNECTED.append(str(told[1][0])) if event == "socket.connect" else None)


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses connected to, with name servers that answer as they like."""
    real = socket.getaddrinfo

    def resolved(host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        given = {HOST: ["127.0.0.2"], **NAMES}.get(name)
        if given is None:
            return real(host, port, *arguments, **options)
        kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in given]
        return [(kind, socket.SOCK_STREAM, 6, "", (address, port)) for kind, address in zip(kinds, given, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    CONNECTED.clear()
    return CONNECTED


def remote(authority: trustme.CA, hosts: list[str], **options: Any) -> RemoteMedia:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    options = {"max_bytes": 10**6, "seconds": 5.0} | options
    return RemoteMedia(hosts, allowed=lambda a: a == "127.0.0.2" or is_public(a), ssl_context=context, **options)


def fetch(media: RemoteMedia, url: str) -> bytes:
    return asyncio.run(media.fetch(url))


def test_off_by_default(authority: trustme.CA, connected: list[str]) -> None:
    for url in [*ADDRESSES, "https://media.example/x.png"]:
        with pytest.raises(ApiError, match="remote media are off"):
            fetch(remote(authority, []), url)
    assert connected == []


@pytest.mark.parametrize("url", ADDRESSES)
def test_no_attempt_leaves_the_process(url: str, authority: trustme.CA, connected: list[str]) -> None:
    everything = [HOST, *(host.strip("[]") for host in HOSTS)]  # an operator who allowed far too much
    for hosts in ([HOST], everything):
        with pytest.raises(ApiError, match="cannot fetch remote media") as refusal:
            fetch(remote(authority, hosts), url)
        assert refusal.value.status == 400
    assert connected == []


@pytest.mark.parametrize("url", ADDRESSES)
def test_no_redirect_leads_anywhere_else(url: str, authority: trustme.CA, connected: list[str], port: int) -> None:
    Hostile.redirect = "".join(character for character in url if character not in "\r\n")
    everything = [f"{HOST}:{port}", *(host.strip("[]") for host in HOSTS)]
    with suppress(ApiError):  # where it cannot be read as a path on the same host
        assert fetch(remote(authority, everything), f"https://{HOST}:{port}/redirect") == b"media"
    assert set(connected) == {"127.0.0.2"}


def test_a_name_that_changes_between_check_and_connection(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([PUBLIC, "127.0.0.1", "127.0.0.1", "127.0.0.1"])
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *a, **o: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))],
    )
    CONNECTED.clear()
    with pytest.raises(ApiError, match="cannot fetch remote media"):
        fetch(remote(authority, ["rebinding.example"], seconds=0.5), "https://rebinding.example/x.png")
    assert set(CONNECTED) <= {PUBLIC}


def test_what_is_allowed_is_fetched_in_bounds(authority: trustme.CA, connected: list[str], port: int) -> None:
    media = remote(authority, [f"{HOST}:{port}"], seconds=1.0)
    place = f"https://{HOST}:{port}"
    assert fetch(media, f"{place}/x.png") == b"media"
    Hostile.redirect = "/y.png"
    assert fetch(media, f"{place}/redirect") == b"media"
    assert Hostile.asked[-2:] == ["/redirect", "/y.png"]
    with pytest.raises(ApiError, match="more than 3 redirects"):
        fetch(media, f"{place}/loop")
    with pytest.raises(ApiError, match="larger than the limit of 1,000,000 bytes"):
        fetch(media, f"{place}/endless")
    with pytest.raises(ApiError, match="longer than 1 s"):
        fetch(media, f"{place}/slow")
    assert set(connected) == {"127.0.0.2"}


def test_a_certificate_of_nobody_known_is_refused(authority: trustme.CA, connected: list[str], port: int) -> None:
    stranger = remote(trustme.CA(), [f"{HOST}:{port}"])
    before = len(Hostile.asked)
    with pytest.raises(ApiError, match="does not answer properly"):
        fetch(stranger, f"https://{HOST}:{port}/x.png")
    assert len(Hostile.asked) == before


def test_addresses_of_the_public_internet() -> None:
    for public in ("93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"):
        assert is_public(public)
    for other in ("10.0.0.1", "::1", "fe80::1%eth0", "192.0.2.1", "not an address", "", "2002:808:808::"):
        assert not is_public(other)


def test_waiting_for_its_turn_is_no_part_of_a_fetch(
    authority: trustme.CA, connected: list[str], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.service.remote.AT_ONCE", 1)
    media = remote(authority, [f"{HOST}:{port}"], seconds=2.5)

    async def all_of() -> list[bytes]:  # half a second each, together longer than one may take
        return await asyncio.gather(*(media.fetch(f"https://{HOST}:{port}/half-a-second/{n}") for n in range(6)))

    assert asyncio.run(all_of()) == [b"media"] * 6


@pytest.fixture
def fetching(tmp_path: Path, authority: trustme.CA, port: int, embedder: onepeace.Embedder) -> Iterator[Running]:
    """A service that may fetch pictures, each as large as is allowed."""
    Store.create(tmp_path / "photos", model=ModelTag.of(embedder)).close()
    config = ServiceConfig(
        remote=(f"{ADDRESS}:{port}",), remote_bytes=len(LARGE) + 32, body_bytes=5 * (len(LARGE) + 32), cache_bytes=0
    )
    service = Service(TINY, {"photos": tmp_path / "photos"}, config)
    service.encoding.remote = remote(authority, [f"{ADDRESS}:{port}"], max_bytes=config.remote_bytes)
    running, thread = start(service)
    yield running
    stop(running, thread)


def test_what_was_fetched_and_is_not_decoded_is_bounded(
    fetching: Running, port: int, embedder: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, decode = threading.Event(), InputReader.windows

    def when_told(reader: InputReader, kind: str, content: str | bytes) -> Any:
        assert go_on.wait(30)
        return decode(reader, kind, content)

    monkeypatch.setattr(InputReader, "windows", when_told)
    Hostile.asked.clear()
    inputs = [[{"image": f"https://{ADDRESS}:{port}/picture/{n}"} for n in range(m, m + 30)] for m in (0, 100)]
    bodies: list[Any] = [{"input": some, "dimensions": 512} for some in inputs]
    with httpx.Client(base_url=fetching.url, timeout=60) as client, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.post, "/v1/embeddings", json=body) for body in bodies]
        while len(Hostile.asked) < AT_ONCE and not any(one.done() for one in asked):
            time.sleep(0.01)
        time.sleep(1.0)
        assert len(Hostile.asked) == AT_ONCE, [one.result().text for one in asked if one.done()]  # eight fill the room
        go_on.set()
        answers = [one.result() for one in asked]  # neither waits for the other
    expected = embedder.encode(onepeace.Image(LARGE))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        rows = [entry["embedding"] for entry in answer.json()["data"]]
        np.testing.assert_allclose(rows, np.tile(expected, (30, 1)), atol=1e-5)
    assert len(set(Hostile.asked)) == 60


def test_items_are_fetched_within_the_bounds_of_a_body(fetching: Running, port: int) -> None:
    def add(count: int) -> httpx.Response:
        items = [{"id": f"{count}/{n}", "image": f"https://{ADDRESS}:{port}/picture/{count}{n}"} for n in range(count)]
        return httpx.post(f"{fetching.url}/v1/items", json={"items": items}, timeout=60)

    refused = add(12)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    answer = add(5)
    assert answer.status_code == 200, answer.text
    assert len(fetching.service.indexes.all["photos"].store) == 5
    assert fetching.service.kept.held == 0
