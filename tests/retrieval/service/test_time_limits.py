"""A request is answered in time or given up, and what it leaves behind holds up nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from running_service import TINY, Running, base64_of, start, stop

import onepeace
from retrieval import Item, ModelTag, Store
from retrieval.gallery import GALLERY
from retrieval.service import threads
from retrieval.service.config import ServiceConfig
from retrieval.service.room import Hold, Room
from retrieval.service.service import Service
from retrieval.service.together import together

SECONDS = 1.0
PICTURE = next(iter(sorted((GALLERY / "pictures").iterdir())))


@pytest.fixture
def hasty(tmp_path: Path, embedder: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A service with little time, over a store with a picture and a sound whose file never ends: a pipe."""
    monkeypatch.setattr(threads, "MOST_LEFT", 4)
    os.mkfifo(tmp_path / "stuck.ogg")
    items = [Item("picture", "image", str(PICTURE)), Item("stuck", "audio", str(tmp_path / "stuck.ogg"))]
    vectors = embedder.encode([onepeace.Image(PICTURE), "a sound"])
    Store.create(tmp_path / "store", items, vectors, model=ModelTag.of(embedder)).close()
    config = ServiceConfig(request_seconds=SECONDS, cache_bytes=0)
    running, thread = start(Service(TINY, {"store": tmp_path / "store"}, config))
    yield running
    stop(running, thread)


def let_go(pipe: Path) -> None:
    """End what reads from a pipe."""
    while True:
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            time.sleep(0.1)
        except OSError:  # nobody reads
            return


def given_up(answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    return answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1 and error["code"] == "not_ready"


def soon(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the answer that comes after what was given up has made way."""
    for _ in range(200):
        answer = ask()
        if answer.status_code != 503:
            break
        time.sleep(0.3)
    return answer


def test_every_route_that_works_has_one_limit(hasty: Running) -> None:
    item = {"id": "new", "image": base64_of(PICTURE)}
    pid = hasty.service.worker.pid
    assert pid is not None
    asked = [
        ("/v1/embeddings", {"input": "a dog"}),
        ("/v2/embed", {"texts": ["a dog"]}),
        ("/v1/search", {"query": "a dog"}),
        ("/v1/classify", {"input": "a dog", "labels": ["cat", "dog"]}),
        ("/v1/items", {"items": [item]}),
    ]
    with httpx.Client(base_url=hasty.url, timeout=30) as client:
        os.kill(pid, signal.SIGSTOP)
        try:
            for path, body in asked:
                answer = client.post(path, json=body)
                assert given_up(answer), (path, answer.text)
                assert "longer than 1 s" in answer.json()["error"]["message"]
            with PICTURE.open("rb") as file:
                assert given_up(client.post("/v1/items/upload", files={"files": ("new.webp", file)}))
            encoding = hasty.service.encoding
            assert (encoding.items, encoding.room_prepared.held, encoding._computing) == (0, 0, {})
        finally:
            os.kill(pid, signal.SIGCONT)
        for path, body in asked:
            assert soon(partial(client.post, path, json=body)).status_code in (200, 409), path


@pytest.mark.parametrize(("name", "path"), [("map", "/v1/indexes/store/map"), ("item", "/v1/items/store/picture")])
def test_what_reads_the_store_has_it_too(hasty: Running, monkeypatch: pytest.MonkeyPatch, name: str, path: str) -> None:
    index, go_on = hasty.service.indexes.all["store"], threading.Event()
    real = getattr(index, name)
    monkeypatch.setattr(index, name, lambda *given: (go_on.wait(30), real(*given))[1])
    with httpx.Client(base_url=hasty.url, timeout=30) as client:
        assert given_up(client.get(path))
        go_on.set()
        assert soon(partial(client.get, path)).status_code == 200


def test_threads_that_hang_hold_up_neither_their_own_kind_nor_others(hasty: Running, tmp_path: Path) -> None:
    def left(client: httpx.Client) -> str:
        return next(line for line in client.get("/metrics").text.splitlines() if 'threads_left{work="show"}' in line)

    with httpx.Client(base_url=hasty.url, timeout=30) as client, ThreadPoolExecutor(8) as pool:
        try:
            hanging = [pool.submit(client.get, "/v1/media/store/stuck") for _ in range(2)]
            time.sleep(0.1)
            for _ in range(3):  # media take no thread from searches
                assert soon(partial(client.post, "/v1/search", json={"query": "a dog"})).status_code == 200
            assert all(given_up(one.result()) for one in hanging)
            assert soon(partial(client.get, "/v1/media/store/picture")).status_code == 200
            assert left(client).endswith(" 2.0")
            assert all(given_up(one) for one in pool.map(lambda _: client.get("/v1/media/store/stuck"), range(2)))
            refused = client.get("/v1/media/store/picture")  # too many hang by now
            assert given_up(refused)
            assert "is still running" in refused.json()["error"]["message"]
            assert soon(partial(client.post, "/v1/search", json={"like": "picture"})).status_code == 200
        finally:
            let_go(tmp_path / "stuck.ogg")
        assert soon(partial(client.get, "/v1/media/store/picture")).status_code == 200
        assert left(client).endswith(" 0.0")


def test_a_write_that_was_begun_is_finished_and_others_wait_for_it(
    hasty: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, go_on, begun = hasty.service.indexes.all["store"].store, threading.Event(), threading.Event()
    real = store.add

    def slow(*given: Any, **options: Any) -> None:
        begun.set()
        go_on.wait(30)
        real(*given, **options)

    monkeypatch.setattr(store, "add", slow)

    def add(name: str) -> httpx.Response:
        return client.post("/v1/items", json={"items": [{"id": name, "text": f"words of {name}"}]})

    with httpx.Client(base_url=hasty.url, timeout=30) as client:
        while not begun.is_set():
            assert given_up(add("first"))
        assert given_up(add("second"))  # never begun
        go_on.set()
        while len(store) < 3:
            time.sleep(0.05)
        assert soon(partial(add, "third")).status_code in (200, 409)
        while len(store) < 4:
            time.sleep(0.05)
        assert [item.id for item in store.catalog] == ["picture", "stuck", "first", "third"]


def test_a_failure_takes_its_siblings_along_but_nothing_from_others(
    hasty: Running, embedder: onepeace.Embedder
) -> None:
    encoding, pid = hasty.service.encoding, hasty.service.worker.pid
    assert pid is not None
    shared, alone = "words that others want too", "words that nobody else wants"
    with httpx.Client(base_url=hasty.url, timeout=30) as client, ThreadPoolExecutor(1) as pool:
        os.kill(pid, signal.SIGSTOP)
        try:
            other = pool.submit(client.post, "/v1/embeddings", json={"input": shared})
            while not encoding._computing:
                time.sleep(0.01)
            content = [{"type": "text", "text": text} for text in (alone, shared)]
            content.append({"type": "image", "image": "AAAA"})
            refused = client.post("/v1/embeddings", json={"input": {"content": content}})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unreadable_input")
            assert len(encoding._computing) == 1  # the shared one
        finally:
            os.kill(pid, signal.SIGCONT)
        (entry,) = other.result().json()["data"]
        np.testing.assert_allclose(entry["embedding"], embedder.encode(shared), atol=1e-5)
        assert encoding._computing == {}


def test_together_ends_all_when_one_fails() -> None:
    ended = []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("it")

    async def scene() -> None:
        with pytest.raises(KeyError, match="it"):
            await together([forever("a"), fails(), forever("b")])
        assert sorted(ended) == ["a", "b"]
        assert await together(asyncio.sleep(0, n) for n in range(3)) == [0, 1, 2]

    asyncio.run(scene())


def test_a_room_is_given_in_order_and_never_overfull() -> None:
    async def scene() -> None:
        room, rng = Room(100), np.random.default_rng(0)
        order: list[int] = []

        async def one(n: int, count: int) -> None:
            hold = await room.take(count)
            order.append(n)
            assert room.held <= 100 or count > 100
            await asyncio.sleep(0)
            hold.become(count // 2)
            await asyncio.sleep(0)
            hold.release()
            hold.release()

        counts = [*rng.integers(1, 60, 50).tolist(), 250, *rng.integers(1, 60, 50).tolist()]  # 250: alone
        tasks = [asyncio.create_task(one(n, count)) for n, count in enumerate(counts)]
        await asyncio.sleep(0)
        for n in range(10, 101, 10):
            tasks[n].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        left = [n for n, outcome in enumerate(done) if isinstance(outcome, asyncio.CancelledError)]
        assert left == list(range(10, 101, 10))
        assert order == sorted(order)
        assert len(order) == 91
        assert room.held == 0
        first = room.take_now(60)
        assert isinstance(first, Hold)
        assert room.take_now(60) is None
        first.release()
        assert isinstance(room.take_now(1000), Hold)

    asyncio.run(scene())
