"""Asking over HTTP: what `Searcher.ask` and `Embedder.ask` answer in process, and refusals in a line."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from film_store import KEY, NAMES
from running_service import Running, base64_of

import onepeace
from retrieval import AskedHit, Searcher, Store
from retrieval.client import Client
from retrieval.gallery import GALLERY
from retrieval.service.config import ServiceConfig
from retrieval.service.errors import ApiError
from retrieval.service.service import Service
from retrieval.service.worker import ModelSource

TEXTS = ["what is on page 2?", "a violin", "what comes after the lion?", "a lion, then a cup of coffee"]


@pytest.fixture
def client(film_http: httpx.Client) -> httpx.Client:
    return film_http


@pytest.fixture(scope="module")
def searcher(film_service: Running, embedder: onepeace.Embedder) -> Iterator[Searcher]:
    with Store.open(film_service.service.indexes.all["films"].store.folder) as store:
        yield Searcher(store, embedder)


@pytest.mark.parametrize("text", TEXTS)
def test_a_store_is_asked_as_in_process(client: httpx.Client, searcher: Searcher, text: str) -> None:
    hits, pages = searcher.ask(text), searcher.ask(text, 1, "page>=1")
    asked = {"text": text}
    told = client.post("/v1/ask", json=asked).json()["hits"]
    assert [(hit["rank"], hit["id"], hit["metadata"]) for hit in told] == [
        (hit.rank, hit.item.id, hit.item.metadata) for hit in hits
    ]
    assert {hit["uri"].rpartition("/")[2] for hit in told} == {"a clip.mp4", "deck.pdf", "rain.wav"}
    for one, hit in zip(told, hits, strict=True):
        assert isinstance(hit, AskedHit)
        assert (one["score"], one["probability"]) == pytest.approx((hit.score, hit.probability), abs=1e-4)
    (page,) = client.post("/v1/ask", json=asked | {"top_k": 1, "where": "page>=1"}).json()["hits"]
    assert [page["id"]] == [hit.item.id for hit in pages]
    assert page["place"].startswith("page ")


def test_our_client_asks(film_service: Running, searcher: Searcher) -> None:
    with Client(film_service.url, KEY) as client:
        (hit,) = client.ask("what is on page 2?", top_k=1, where="page>=1")
    (wanted,) = searcher.ask("what is on page 2?", 1, "page>=1")
    assert (hit.id, hit.place) == (wanted.item.id, "page 2")
    assert isinstance(wanted, AskedHit)
    assert hit.probability == pytest.approx(wanted.probability, abs=1e-4)


def test_an_album_of_the_request_is_asked_as_in_process(client: httpx.Client, embedder: onepeace.Embedder) -> None:
    files = [GALLERY / f"pictures/{name}.webp" for name in NAMES]
    items: list[Any] = [*({"image": base64_of(file)} for file in files), "a note about rain"]
    album = embedder.encode_sequence(onepeace.Sequence([*map(onepeace.Image, files), "a note about rain"]))
    for text in ("what is in item 3?", "something about the weather", "what is in item 30?"):
        answer = embedder.ask(text, album)
        told = client.post("/v1/ask/album", json={"text": text, "input": items}).json()
        assert told["match"] == pytest.approx(answer.match, abs=1e-4)
        assert told["absent"] == pytest.approx(answer.absent, abs=1e-4)
        assert (told["absent"] >= 0.5) == (text == "what is in item 30?")
        assert told["count"] is None
        assert told["items"][0]["item"] == answer.segment.number
        weights = sorted((one["item"], one["probability"]) for one in told["items"])
        assert [weight for _, weight in weights] == pytest.approx(answer.weights.tolist(), abs=1e-4)
    answer = embedder.ask("how many cats?", album)
    told = client.post("/v1/ask/album", json={"text": "how many cats?", "input": items}).json()
    assert told["count"] == answer.count
    assert told["items"][0]["probability"] == pytest.approx(answer.counted.max(), abs=1e-4)
    few = client.post("/v1/ask/album", json={"text": "what is in item 3?", "input": items, "top": 1}).json()
    assert [one["item"] for one in few["items"]] == [3]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("ask", {"text": "  "}, 400, "text is empty"),
        ("ask", {"text": "a", "index": "nowhere"}, 404, "no index 'nowhere': there is films"),
        ("ask", {"text": "a", "where": "colour=red"}, 400, "where: unknown field 'colour'; the fields here are id, "),
        ("ask", {"text": "a", "where": "image"}, 400, "where: 'image' is no condition: say modality=image"),
        ("ask", {"text": "a", "query": "a"}, 422, "query: there is no such field"),
        ("ask", {"text": "a", "top_k": 101}, 422, "top_k: Input should be less than or equal to 100"),
        ("ask", {}, 422, "text: Field required"),
        ("ask", {"text": "a" * 2001}, 422, "text: String should have at most 2000 characters"),
        ("ask/album", {"text": "", "input": ["a dog"]}, 400, "text is empty"),
        ("ask/album", {"text": "a", "input": []}, 400, "input is empty"),
        ("ask/album", {"text": "a", "input": [""]}, 400, "input[0] is empty"),
        ("ask/album", {"text": "a", "input": ["a"] * 256}, 400, "a request may have 256 inputs at most, got 257"),
        ("ask/album", {"text": "a", "input": ["a"], "model": "x"}, 404, "no model 'x' here: it is 'onepeace-tiny'"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(
    client: httpx.Client, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    refused = client.post(f"/v1/{path}", json=body)
    told = refused.json()["error"]["message"]
    assert (refused.status_code, told[: len(message)]) == (status, message)
    assert "\n" not in told


def test_stores_say_whether_they_can_be_asked(client: httpx.Client, http: httpx.Client) -> None:
    asks = [card["asks"] for one in (client, http) for card in one.get("/v1/indexes").json()["data"]]
    assert asks == [True, False]
    refused = http.post("/v1/ask", json={"text": "a cat"})
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        400,
        "index 'gallery' holds no videos, documents or cut sounds to ask",
    )


def test_a_model_without_a_tower_cannot_be_asked(tmp_path: Path, embedder: onepeace.Embedder) -> None:
    shutil.copytree(embedder.folder.path, tmp_path / "bare", ignore=shutil.ignore_patterns("sequence.*"))
    service = Service(ModelSource(str(tmp_path / "bare"), "cpu", "float32"), {}, ServiceConfig())
    with pytest.raises(ApiError, match="has no sequence tower, so it cannot be asked") as refused:
        service.asking.check()
    assert refused.value.status == 400
    service.worker.close()


def test_questions_outlive_the_models_process(client: httpx.Client, film_service: Running) -> None:
    body = {"text": "what is on page 2?"}
    before = client.post("/v1/ask", json=body).json()
    pid = film_service.service.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while (answer := client.post("/v1/ask", json=body)).status_code != 200:
        assert answer.json()["error"]["code"] == "not_ready"
        time.sleep(0.1)
    for one, other in zip(answer.json()["hits"], before["hits"], strict=True):
        assert one["id"] == other["id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    counted = client.get("/metrics").text
    assert 'onepeace_items_total{modality="ask",outcome="answered"}' in counted
