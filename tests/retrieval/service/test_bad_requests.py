"""Whatever is sent, the answer is an error in OpenAI's shape below 500, and the next good request is right."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import wave
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from running_service import TINY, Running, start, stop

import onepeace
from retrieval import Item
from retrieval.service import protocol
from retrieval.service.config import ServiceConfig
from retrieval.service.security import ApiKeys
from retrieval.service.service import Service

JSON = {"Content-Type": "application/json"}


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def wav_of(seconds: float, claimed: float | None = None) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * int(8000 * seconds)))
    content = bytearray(out.getvalue())
    if claimed is not None:
        content[40:44] = struct.pack("<I", min(2**32 - 1, int(16000 * claimed)))
    return bytes(content)


def malformed(picture: bytes, sound: bytes) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Yield five hundred requests: path, body, headers."""
    rng = np.random.default_rng(0)

    def embed(**body: Any) -> tuple[str, bytes, dict[str, str]]:
        return "/v1/embeddings", json.dumps(body).encode(), JSON

    def of(kind: str, content: bytes) -> tuple[str, bytes, dict[str, str]]:
        return embed(input=[{kind: base64.b64encode(content).decode()}])

    for n in range(80):  # cut short
        yield of("image", picture[: 1 + n * len(picture) // 90])
        yield of("audio", sound[: 1 + n * 40 // 80])
    for n in range(80):  # no media at all
        yield of("image", rng.bytes(1 + 37 * n))
        yield of("audio", rng.bytes(1 + 37 * n))
    for width, height in [(50_000, 50_000), (2**31 - 1, 1), (0, 0), (1, 2**31 - 1), (30_000, 30_000)]:
        yield of("image", png_that_claims(width, height))
    yield of("audio", wav_of(0.0))
    yield of("audio", wav_of(1300.0))
    yield of("image", sound)
    yield of("audio", picture)
    wrong: list[Any] = [
        *[None, 1, 1.5, True, {}, [], [[]], [None], [1, 2, 3], [[1, 2]], "", "   ", [""], ["a", ""], [{"text": 3}]],
        *[[{"text": ""}], [{"image": ""}], [{"image": 7}], [{"nothing": "x"}], [{"content": []}], [{"content": 3}]],
        *[[{"content": [{"type": "video_url", "video_url": "x"}]}], [{"content": [{"type": "text"}]}]],
        *[[{"content": [{"type": "image_url", "image_url": {}}]}], [{"text": "a", "weights": {"text": "x"}}]],
        *[[{"text": "a", "weights": [1]}], [{"text": "a", "weights": {"text": 1e300}}], ["x" * 200_000]],
        *[[{"image": "/etc/passwd"}], [{"image": "file:///etc/passwd"}], [{"audio": "../../x.wav"}], ["\ud800"]],
        *[[{"image": "data:image/png;base64,@@@@"}], [{"image": "data:,"}], [{"image": "AAAA=AAA"}], ["a"] * 300],
        *[
            [{"text": "a", "image": base64.b64encode(b"x").decode()}],
            [{"content": [[]]}],
            {"text": "a", "weights": {"text": 0}},
        ],
    ]
    for value in wrong:
        yield embed(input=value)
    for messages in [[], [1], [{}], [[]], [{"role": "user"}], [{"content": None}], "x", [[{"content": []}]], {}]:
        yield embed(messages=messages)
    yield embed(input="a", messages=[{"content": "a"}])
    yield embed()
    options: list[dict[str, Any]] = [
        *[
            {"dimensions": 0},
            {"dimensions": -1},
            {"dimensions": 513},
            {"dimensions": "many"},
            {"encoding_format": "hex"},
        ],
        *[{"modality": "video"}, {"modality": "image"}, {"errors": "never"}, {"model": 3}, {"model": "another"}],
    ]
    for option in options:
        yield embed(input="a dog", **option)
    for body in [b"", b"{", b"nul", b"[]", b'"x"', b"\xff\xfe", b"{" * 100_000, b"[" * 100_000, b'{"input":' * 50_000]:
        yield "/v1/embeddings", body, JSON
    yield "/v1/embeddings", b'{"input": "' + b"x" * (9 * 2**20) + b'"}', JSON
    yield "/v1/embeddings", b'{"input": NaN}', JSON
    yield "/v1/embeddings", b'{"input": "a", "dimensions": 1e999}', JSON
    for kind in [
        "text/plain",
        "application/xml",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "",
        "a/b/c",
    ]:
        yield "/v1/embeddings", b'{"input": "a dog"}x', {"Content-Type": kind}
    searches: list[dict[str, Any]] = [
        *[
            {},
            {"query": ""},
            {"query": 3},
            {"query": "a", "top_k": 0},
            {"query": "a", "top_k": 10**9},
            {"like": "nobody"},
        ],
        *[{"query": "a", "where": "((("}, {"query": "a", "where": "colour=red"}, {"query": "a", "index": "nowhere"}],
        *[{"query": "a", "rerank": True, "diversity": 0.5}, {"query": "a", "rerank": "x"}],
        *[{"query": "a", "diversity": 2}, {"query": "a", "offset": -1}, {"query": "a", "group_by": "nothing"}],
        *[{"query": "a", "where": "id=" + "(" * 9000}, {"query": "a", "min_score": "x"}, {"query": {"image": "x"}}],
        *[{"query": "a", "like": "nobody"}, {"without": "a"}, {"query": "a", "where": "a=b\x00'; DROP TABLE items"}],
    ]
    for search in searches:
        yield "/v1/search", json.dumps(search).encode(), JSON
    for classify in [
        {},
        {"input": "a", "labels": []},
        {"input": "a", "labels": ["a", "a"]},
        {"input": [], "labels": ["a"]},
    ]:
        yield "/v1/classify", json.dumps(classify).encode(), JSON
    yield "/v1/classify", json.dumps({"input": "a", "labels": ["a"], "templates": ["no place"]}).encode(), JSON
    for items in [
        [],
        [{}],
        [{"id": ""}],
        [{"id": "x"}],
        [{"id": "x", "text": "a", "image": "b"}],
        [{"id": 3, "text": "a"}],
    ]:
        yield "/v1/items", json.dumps({"items": items}).encode(), JSON
    yield "/v1/items", json.dumps({"items": [{"id": "x", "image": "https://example.org/x.png"}]}).encode(), JSON
    for cohere in [
        {},
        {"texts": []},
        {"texts": ["a"], "images": ["b"]},
        {"texts": [1]},
        {"images": ["x"]},
        {"inputs": [3]},
    ]:
        yield "/v2/embed", json.dumps(cohere).encode(), JSON
    while True:  # good requests with some bytes changed
        body = bytearray(b'{"input": ["a dog", {"text": "rain"}], "dimensions": 16}')
        for place in rng.integers(0, len(body), 3):
            body[place] = rng.integers(256)
        yield "/v1/embeddings", bytes(body), JSON


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A service with little patience."""
    limits = ServiceConfig(body_bytes=8 * 2**20, body_seconds=2.0)
    running, thread = start(Service(TINY, {}, limits))
    yield running
    stop(running, thread)


def in_openais_shape(answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    return set(error) == {"message", "type", "param", "code"} and 0 < len(error["message"]) < 2_000


def test_five_hundred_malformed_requests(
    running: Running, embedder: onepeace.Embedder, exhibits: list[tuple[Item, Any]]
) -> None:
    picture = next(item for item, _ in exhibits if item.modality == "image")
    sound = next(item for item, _ in exhibits if item.modality == "audio")
    with open(picture.uri, "rb") as p, open(sound.uri, "rb") as s:
        source = malformed(p.read(), s.read())
    requests = [next(source) for _ in range(500)]
    with httpx.Client(base_url=running.url, timeout=60) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda one: client.post(one[0], content=one[1], headers=one[2]), requests))
        for (path, body, _), answer in zip(requests, answers, strict=True):
            assert answer.status_code < 500, (path, body[:200], answer.text)
            assert answer.is_success or in_openais_shape(answer), (path, body[:200], answer.text)
        assert sum(answer.is_success for answer in answers) < 100  # some that were changed stay good
        assert client.get("/health/ready").status_code == 200
        good = client.post("/v1/embeddings", json={"input": "a dog"}).json()
    np.testing.assert_allclose(good["data"][0]["embedding"], embedder.encode("a dog"), atol=1e-5)


def test_each_input_may_have_its_own_error(http: httpx.Client, embedder: onepeace.Embedder) -> None:
    body = {"input": ["a dog", {"image": "AAAA"}, {"nothing": 1}, "rain"], "errors": "per_item"}
    data = http.post("/v1/embeddings", json=body).json()["data"]
    np.testing.assert_allclose(
        [data[0]["embedding"], data[3]["embedding"]], embedder.encode(["a dog", "rain"]), atol=1e-5
    )
    assert [entry["embedding"] is None for entry in data] == [False, True, True, False]
    assert "cannot read image" in data[1]["error"]["message"]
    assert "needs one of text, image, audio" in data[2]["error"]["message"]


def test_what_is_wrong_with_all_is_told_beside_what_is_wrong_with_one(http: httpx.Client) -> None:
    bad = {"input": [{"image": "AAAA"}], "errors": "per_item"}
    answer = http.post("/v1/embeddings", json=bad | {"dimensions": 9999})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dimensions")
    answer = http.post("/v2/embed", json={"texts": ["a"], "output_dimension": 9999})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "output_dimension")
    assert http.post("/v1/embeddings", json={"input": "a", "dimensions": True}).status_code == 422
    body = {"input": ["a dog", 5, [1, 2], True, []], "errors": "per_item", "encoding_format": "base64", "dimensions": 4}
    data = http.post("/v1/embeddings", json=body).json()["data"]
    row = np.frombuffer(base64.b64decode(data[0]["embedding"]), "<f4")
    assert row.shape == (4,)
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-5)
    assert ["token ids" in entry["error"]["message"] for entry in data[1:]] == [True, True, False, False]


def test_a_misspelt_name_in_a_search_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/search", json={"query": "a dog", "top": 2})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "top")
    assert answer.json()["error"]["message"] == "top: there is no such field"


def test_null_is_as_good_as_nothing(http: httpx.Client) -> None:
    embedded = {"input": "a dog", "encoding_format": None, "dimensions": None, "modality": None, "errors": None}
    assert http.post("/v1/embeddings", json=embedded).status_code == 200
    searched = {"query": "a dog", "top_k": None, "offset": None, "diversity": None, "where": None}
    assert len(http.post("/v1/search", json=searched).json()["hits"]) == 10
    assert http.post("/v1/classify", json={"input": "a dog", "labels": None}).status_code == 422


def test_numbers_that_are_none_and_names_without_end(http: httpx.Client) -> None:
    for value in ("NaN", "Infinity", "-Infinity", "1e999"):
        for body in (f'{{"input": "a", "dimensions": {value}}}', f'{{"input": {{"text": "a", "weights": {value}}}}}'):
            answer = http.post("/v1/embeddings", content=body, headers=JSON)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    answer = http.post("/v1/embeddings", json={"input": "a", "model": "m" * 10**6})
    assert answer.status_code == 404
    assert len(answer.json()["error"]["message"]) < 300
    twice = http.post("/v1/embeddings", content='{"input": "a", "input": ["a", "b"]}', headers=JSON)
    assert len(twice.json()["data"]) == 2  # the last one counts, as in Python and JavaScript


def test_bodies_that_never_come_are_given_up(small: Running) -> None:
    host, port = small.url.removeprefix("http://").split(":")
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 1000\r\n\r\n{"
    with ExitStack() as stack, httpx.Client(base_url=small.url, timeout=30) as client:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), timeout=10)) for _ in range(150)]
        for one in slow:  # more than may be worked on at once
            one.sendall(head)
        for _ in range(5):
            assert client.post("/v1/embeddings", json={"input": "a dog"}).status_code == 200  # meanwhile
            for one in slow[::30]:
                one.sendall(b" ")
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408")
        assert client.get("/health/ready").status_code == 200


def test_heads_must_come_soon_and_be_small(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    host, port = small.url.removeprefix("http://").split(":")
    whole = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for begun in (b"", b"G", whole[:-4], whole + whole[:20]):
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(begun)
            answer = b""
            while part := slow.recv(4096):
                answer += part
            assert answer.count(b"HTTP/1.1 200") == begun.count(whole)
    for filler in (b"X-Filler: " + b"x" * 4096 + b"\r\n", b"x" * 4096):  # many headers, or one that never ends
        with socket.create_connection((host, int(port)), timeout=10) as endless, suppress(ConnectionError):
            endless.sendall(whole[:-2] + b"X-More: ")
            while True:
                endless.sendall(filler)
    for begun, more in ((whole, b"\r\n"), (whole[:-2] + b"Content-Length: 9\r\n\r\n", b"x")):
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(begun)
            assert slow.recv(4096).startswith(b"HTTP/1.1 200")
            slow.sendall(more)  # what is answered already, and then left open, is closed
            while slow.recv(4096):
                pass
    with httpx.Client(base_url=small.url, timeout=30) as client:
        assert client.get("/health/ready").status_code == 200


def test_bodies_are_bounded_announced_or_not(small: Running) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 65_536

    with httpx.Client(base_url=small.url, timeout=30) as client:
        for content in (b"x" * (9 * 2**20), parts()):
            answer = client.post("/v1/embeddings", content=content, headers=JSON)
            assert answer.status_code == 413
            assert in_openais_shape(answer)


def test_pictures_and_sounds_beyond_the_limits_are_refused_from_their_headers(http: httpx.Client) -> None:
    for kind, content, why in [
        ("image", png_that_claims(50_000, 50_000), "pixels"),
        ("audio", wav_of(1300.0), "lasts longer than the limit of 600 s"),
    ]:
        answer = http.post("/v1/embeddings", json={"input": [{kind: base64.b64encode(content).decode()}]})
        assert answer.status_code == 400
        assert why in answer.json()["error"]["message"]


def test_keys_open_every_route_but_health_and_the_page() -> None:
    key = "a key of more than sixteen letters"
    running, thread = start(Service(TINY, {}, ServiceConfig()), ApiKeys([key, "another key, as long"]))
    try:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            routes = list(client.get("/openapi.json", headers={"X-API-Key": key}).json()["paths"])
            assert len(routes) >= 12
            for path in routes:
                concrete = path.replace("{", "").replace("}", "")
                for method in ("GET", "POST", "DELETE", "OPTIONS"):
                    status = client.request(method, concrete).status_code
                    assert status == 401 or path.startswith("/health/"), (method, path, status)
            for wrong in ("", "x", key[:-1], key + "x", "é" * 20):
                headers = {"Authorization": f"Bearer {wrong}".strip().encode()}
                assert client.get("/v1/models", headers=headers).status_code == 401
            assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            assert client.get("/v1/models", headers={"X-API-Key": "another key, as long"}).status_code == 200
            assert client.get("/health/ready").status_code == 200
            assert client.get("/").status_code == 200
    finally:
        stop(running, thread)
    with pytest.raises(ValueError, match="at least 16 characters"):
        ApiKeys(["short"])


def test_a_little_request_cannot_ask_for_much(http: httpx.Client) -> None:
    picture = {"type": "text", "text": "a"}
    bodies: list[tuple[str, Any]] = [
        ("/v1/classify", {"input": "a", "labels": ["x" * 10_000], "templates": ["{}" * 10_000]}),
        ("/v1/classify", {"input": ["a"] * 100_000, "labels": ["x", "y"]}),
        ("/v1/items", {"items": [0] * 100_000}),
        ("/v1/embeddings", {"input": [""] * 100_000, "errors": "per_item"}),
        ("/v1/embeddings", {"input": {"content": [picture] * 100_000}}),
        ("/v1/embeddings", {"messages": [{"role": "user", "content": [picture] * 10_000}]}),
        ("/v1/embeddings", {"input": {"image": "data:a/b" + ";a" * 100_000 + ";base64,AAAA"}}),
        ("/v2/embed", {"texts": ["a"], "embedding_types": ["float"] * 100_000}),
        ("/v2/embed", {"texts": ["a"] * 100_000}),
    ]
    for path, body in bodies:
        answer = http.post(path, json=body)
        assert 400 <= answer.status_code < 500, path
        assert in_openais_shape(answer)


def test_pages_of_other_sites_are_refused_without_keys(http: httpx.Client) -> None:
    rebound = {"Host": "attacker.example"}
    assert http.get("/v1/models", headers=rebound).status_code == 403
    assert http.get("/v1/models", headers={"Host": "localhost"}).status_code == 200
    for headers in (
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:1"},
    ):
        answer = http.post("/v1/embeddings", json={"input": "a dog"}, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["type"] == "permission_error"
    own = {"Origin": str(http.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert http.post("/v1/embeddings", json={"input": "a dog"}, headers=own).status_code == 200


def test_pictures_of_every_format_are_read(http: httpx.Client) -> None:
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        out = io.BytesIO()
        picture.save(out, kind)
        answer = http.post("/v1/embeddings", json={"input": [{"image": base64.b64encode(out.getvalue()).decode()}]})
        assert answer.status_code == 200, kind
