"""Stores over HTTP: searched, added to, shown, mapped; beside the same done in process."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
from running_service import TINY, Running, base64_of, start, stop

import onepeace
from retrieval import Item, ModelTag, Searcher, Store
from retrieval.search import Stored
from retrieval.service.config import ServiceConfig
from retrieval.service.service import Service


@pytest.fixture
def own(tmp_path: Path, embedder: onepeace.Embedder) -> Iterator[Running]:
    """A service over two stores that a test may change."""
    for name in ("photos", "notes"):
        Store.create(tmp_path / name, model=ModelTag.of(embedder)).close()
    running, thread = start(
        Service(TINY, {"photos": tmp_path / "photos", "notes": tmp_path / "notes"}, ServiceConfig())
    )
    yield running
    stop(running, thread)


def told(hits: Any) -> list[tuple[str, int]]:
    return [(hit["id"], round(1e4 * hit["score"])) for hit in hits]


@pytest.fixture(scope="module")
def searcher(running: Running, embedder: onepeace.Embedder) -> Iterator[Searcher]:
    with Store.open(running.service.indexes.all["gallery"].store.folder) as store:
        yield Searcher(store, embedder)


def in_process(hits: Any) -> list[tuple[str, int]]:
    return [(hit.item.id, round(1e4 * hit.score)) for hit in hits]


def test_searching_gives_what_a_searcher_gives(
    http: httpx.Client, searcher: Searcher, exhibits: list[tuple[Item, Any]]
) -> None:
    picture = next(item for item, _ in exhibits if item.modality == "image")
    sound = next(item for item, _ in exhibits if item.modality == "audio")
    mix = onepeace.Compose(onepeace.Image(picture.uri), onepeace.Audio(sound.uri), "dark", weights=[1.0, 0.5, -0.25])
    contents = {"image": base64_of(picture.uri), "audio": base64_of(sound.uri), "text": "dark"}
    weights = {"image": 1.0, "audio": 0.5, "text": -0.25}
    for body, expected in [
        ({"query": "a dog", "top_k": 7}, searcher.search("a dog", 7)),
        ({"query": "a dog", "top_k": 3, "offset": 3}, searcher.search("a dog", 3, offset=3)),
        ({"query": {"image": contents["image"]}}, searcher.search(onepeace.Image(picture.uri))),
        ({"query": contents | {"weights": weights}}, searcher.search(mix)),
        ({"query": "rain", "where": "modality=audio"}, searcher.search("rain", where="modality=audio")),
        ({"query": "rain", "min_score": 0.05}, searcher.search("rain", min_score=0.05)),
        ({"query": "rain", "group_by": "label", "top_k": 3}, searcher.search("rain", 3, group_by="label")),
        ({"query": "rain", "copies": False, "top_k": 50}, searcher.search("rain", 50, copies=False)),
        ({"query": "rain", "diversity": 0.5}, searcher.search("rain", diversity=0.5)),
        ({"query": "rain", "rerank": True, "top_k": 30}, searcher.search("rain", 30, rerank=True)),
        ({"like": picture.id}, searcher.search_like(picture.id)),
        ({"like": picture.id, "rerank": True}, searcher.search_like(picture.id, rerank=True)),
    ]:
        answer = http.post("/v1/search", json=body)
        assert answer.status_code == 200, answer.text
        found, wanted = told(answer.json()["hits"]), in_process(expected)
        assert [name for name, _ in found] == [name for name, _ in wanted] != []
        assert max(abs(a - b) for (_, a), (_, b) in zip(found, wanted, strict=True)) <= 1


def test_a_damaged_bank_stops_nothing_but_reranking(
    tmp_path: Path, embedder: onepeace.Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(embedder.folder.path, tmp_path / "model")
    (folder / "querybank.safetensors").unlink()
    Store.create(
        tmp_path / "notes", [Item("a", "text", "a")], embedder.encode(["a"]), model=ModelTag.of(embedder)
    ).close()
    running, thread = start(Service(replace(TINY, model=str(folder)), {"notes": tmp_path / "notes"}, ServiceConfig()))
    assert "searches cannot be reranked: " in caplog.text
    with httpx.Client(base_url=running.url, timeout=60) as client:
        assert len(client.post("/v1/search", json={"query": "a"}).json()["hits"]) == 1
        refused = client.post("/v1/search", json={"query": "a", "rerank": True})
    stop(running, thread)
    assert refused.status_code == 400
    assert "rerank needs a query bank" in refused.json()["error"]["message"]


def test_items_of_the_store_are_parts_of_a_query(http: httpx.Client, running: Running, searcher: Searcher) -> None:
    catalog = running.service.indexes.all["gallery"].store.catalog
    picture, sound = (next(item.id for item in catalog if item.modality == kind) for kind in ("image", "audio"))
    content = [
        {"type": "item", "id": picture, "weight": 0.7},
        {"type": "item", "id": sound, "weight": -0.3},
        {"type": "text", "text": "rain", "weight": 0.4},
        {"type": "text", "text": "a dog"},
    ]
    mix = onepeace.Compose(Stored(picture), Stored(sound), "rain", "a dog", weights=[0.7, -0.3, 0.4, 1.0])
    alone = onepeace.Compose("rain", "a dog", weights=[1.0, -0.5])
    liked = onepeace.Compose(Stored(picture), "rain", weights=[0.7, 1.0])
    for body, expected in [
        ({"query": {"content": content}}, searcher.search(mix)),
        ({"query": {"content": content[:1]}}, searcher.search_like(picture)),
        ({"query": "rain", "without": "a dog"}, searcher.search(alone)),
        ({"query": "rain", "like": picture, "like_weight": 0.7}, searcher.search(liked)),
    ]:
        found = told(http.post("/v1/search", json=body).json()["hits"])
        assert [name for name, _ in found] == [hit.item.id for hit in expected]
        np.testing.assert_allclose([score for _, score in found], [1e4 * hit.score for hit in expected], atol=1)
    opposite = [{"type": "text", "text": "rain"}, {"type": "text", "text": "rain", "weight": -1.0}]
    refused = http.post("/v1/search", json={"query": {"content": opposite}})
    assert "cancel out" in refused.json()["error"]["message"]


def test_items_that_are_not_there_are_told_of_by_their_place(http: httpx.Client) -> None:
    part = {"type": "item", "id": "nobody"}
    for body, param in [
        ({"like": "nobody"}, "like"),
        ({"like": "nobody", "query": "a dog"}, "like"),
        ({"query": {"content": [{"type": "text", "text": "a dog"}, part]}}, "query.content[1].id"),
        ({"query": "a dog", "without": {"content": [part]}}, "without.content[0].id"),
    ]:
        answer = http.post("/v1/search", json=body)
        assert answer.status_code == 404, answer.text
        assert answer.json()["error"]["param"] == param
        assert "no item 'nobody'" in answer.json()["error"]["message"]


def test_like_and_without_move_the_query(http: httpx.Client, exhibits: list[tuple[Item, Any]]) -> None:
    picture = next(item for item, _ in exhibits if item.modality == "image")
    alone = http.post("/v1/search", json={"like": picture.id, "query": "rain", "like_weight": 100.0}).json()
    assert "hits" in alone, alone
    assert alone["hits"][0]["id"] == picture.id
    near = http.post("/v1/search", json={"query": "a dog", "top_k": 100}).json()["hits"]
    away = http.post("/v1/search", json={"query": "a dog", "without": {"image": base64_of(picture.uri)}, "top_k": 100})
    ranks = [next(hit["rank"] for hit in hits if hit["id"] == picture.id) for hits in (near, away.json()["hits"])]
    assert ranks[1] > ranks[0]


def test_items_are_added_found_shown_and_taken_out(
    own: Running, tmp_path: Path, exhibits: list[tuple[Item, Any]], embedder: onepeace.Embedder
) -> None:
    picture = next(item for item, _ in exhibits if item.modality == "image")
    sound = next(item for item, _ in exhibits if item.modality == "audio")
    items = [
        {"id": "a/picture 1", "image": base64_of(picture.uri), "metadata": {"year": 2020}},
        {"id": "a sound", "audio": f"data:audio/ogg;base64,{base64_of(sound.uri)}"},
        {"id": "words ü/1?", "text": "a dog in the snow", "metadata": {"tags": ["x", None, 1.5]}},
    ]
    with httpx.Client(base_url=own.url, timeout=60) as client:
        answer = client.post("/v1/items", json={"index": "photos", "items": items})
        assert answer.json() == {"index": "photos", "added": ["a/picture 1", "a sound", "words ü/1?"]}
        with Store.open(tmp_path / "photos") as store:  # it is on the disk, for any process
            assert [item.id for item in store.catalog] == answer.json()["added"]
            np.testing.assert_allclose(
                store.vectors(["words ü/1?"])[0], embedder.encode("a dog in the snow"), atol=1e-3
            )
        hits = client.post("/v1/search", json={"index": "photos", "query": "a dog in the snow"}).json()["hits"]
        assert hits[0]["id"] == "words ü/1?"
        assert hits[0]["metadata"] == {"tags": ["x", None, 1.5], "text": "a dog in the snow"}
        taken = client.post("/v1/items", json={"index": "photos", "items": items[:1]})
        assert taken.status_code == 409
        assert 'send "replace": true' in taken.json()["error"]["message"]
        again = {"index": "photos", "items": [items[0] | {"metadata": {"year": 2021}}], "replace": True}
        assert client.post("/v1/items", json=again).status_code == 200
        shown = client.get("/v1/items/photos/a%2Fpicture%201").json()
        assert shown["metadata"] == {"year": 2021}
        thumbnail = PIL.Image.open(io.BytesIO(client.get("/v1/media/photos/a/picture 1?size=64").content))
        assert thumbnail.format == "JPEG"
        assert max(thumbnail.size) == 64
        played = client.get("/v1/media/photos/a sound")
        assert played.headers["content-type"] == "audio/ogg"
        assert played.content == Path(sound.uri).read_bytes()
        assert client.get("/v1/media/photos/words ü%2F1%3F").status_code == 404
        cards = {card["name"]: card for card in client.get("/v1/indexes").json()["data"]}
        assert cards["photos"]["modalities"] == {"audio": 1, "image": 1, "text": 1}
        uploads = tmp_path / "photos.uploads"
        assert len(list(uploads.iterdir())) == 2
        assert client.delete("/v1/items/photos/a sound").json() == {"index": "photos", "deleted": 1}
        assert [path.suffix for path in uploads.iterdir()] == [Path(picture.uri).suffix]
        assert client.delete("/v1/items/photos/a sound").status_code == 404
        assert client.get("/v1/items/photos/a sound").status_code == 404
        assert len(client.post("/v1/search", json={"index": "photos", "query": "a dog"}).json()["hits"]) == 2
        assert client.post("/v1/search", json={"query": "a dog"}).status_code == 400  # which of the two?


def test_files_are_uploaded(own: Running, tmp_path: Path, exhibits: list[tuple[Item, Any]]) -> None:
    paths = [Path(item.uri) for item, _ in exhibits if item.modality != "text"][:3]
    with httpx.Client(base_url=own.url, timeout=60) as client:
        files = [("files", (path.name, path.read_bytes())) for path in paths]
        answer = client.post("/v1/items/upload", files=files, data={"index": "photos", "metadata": '{"by": "us"}'})
        assert answer.json() == {"index": "photos", "added": [path.name for path in paths]}
        shown = client.get(f"/v1/items/photos/{paths[0].name}").json()
        assert shown["metadata"] == {"by": "us"}
        assert Path(shown["uri"]).parent == tmp_path / "photos.uploads"  # never a path of the client's
        assert Path(shown["uri"]).read_bytes() == paths[0].read_bytes()
        for sent, data, why in [
            ([("files", ("x.png", b"no picture"))], {"index": "photos"}, "must be a named picture or sound"),
            ([("files", ("../../etc/cron.d/x", b"no picture"))], {"index": "photos"}, "must be a named picture"),
            (files, {"index": "photos"}, "already"),
            (files, {"index": "nowhere"}, "no index 'nowhere'"),
            (files, {"index": "photos", "metadata": "[1]"}, "metadata must be a JSON object"),
            (files, {"index": "photos", "metadata": "{"}, "metadata must be a JSON object"),
        ]:
            refused = client.post("/v1/items/upload", files=sent, data=data)
            assert 400 <= refused.status_code < 500
            assert why in refused.json()["error"]["message"]
        with Store.open(tmp_path / "photos") as store:
            assert len(store) == 3


def test_what_could_not_be_shown_is_not_stored(own: Running, tmp_path: Path) -> None:
    deep: Any = 0
    for _ in range(300):
        deep = [deep]
    refused = [
        {"id": "deep", "text": "a", "metadata": {"x": deep}},
        {"id": "large", "text": "a", "metadata": {"x": "y" * 70_000}},
        {"id": "a/../b", "text": "a"},
        {"id": "a\0b", "text": "a"},
    ]
    picture = io.BytesIO()
    PIL.Image.new("RGB", (9, 9)).save(picture, "PNG")
    with httpx.Client(base_url=own.url, timeout=60) as client:
        for item in refused:
            assert client.post("/v1/items", json={"index": "notes", "items": [item]}).status_code == 400, item["id"]
        one = {"id": "one", "image": base64.b64encode(picture.getvalue()).decode()}
        assert client.post("/v1/items", json={"index": "notes", "items": [one]}).status_code == 200
        assert (
            client.post("/v1/items", json={"index": "notes", "items": [one, {**one, "id": "x" * 9}]}).status_code == 409
        )
        assert len(list((tmp_path / "notes.uploads").iterdir())) == 1
        client.delete("/v1/items/notes/one")
        assert list((tmp_path / "notes.uploads").iterdir()) == []
    with Store.open(tmp_path / "notes") as store:
        assert len(store) == 0


def test_one_bad_item_adds_none(own: Running, tmp_path: Path) -> None:
    items = [{"id": "good", "text": "a dog"}, {"id": "bad", "image": "AAAA"}]
    with httpx.Client(base_url=own.url, timeout=60) as client:
        refused = client.post("/v1/items", json={"index": "notes", "items": items})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "items[1].image"
        twice = {"index": "notes", "items": [items[0], items[0]]}
        assert client.post("/v1/items", json=twice).status_code in (400, 409)
    with Store.open(tmp_path / "notes") as store:
        assert len(store) == 0


def test_adding_at_once_loses_nothing(own: Running, tmp_path: Path) -> None:
    with httpx.Client(base_url=own.url, timeout=60) as client, ThreadPoolExecutor(8) as pool:

        def add(n: int) -> int:
            body = {"index": "notes", "items": [{"id": f"{n}/{i}", "text": f"note {n} {i}"} for i in range(3)]}
            return client.post("/v1/items", json=body).status_code

        assert set(pool.map(add, range(24))) == {200}
    with Store.open(tmp_path / "notes", verify=True) as store:
        assert {item.id for item in store.catalog} == {f"{n}/{i}" for n in range(24) for i in range(3)}


def test_a_store_that_another_one_writes_to_is_told_of(own: Running, tmp_path: Path) -> None:
    body = {"index": "notes", "items": [{"id": "a", "text": "a dog"}]}
    with httpx.Client(base_url=own.url, timeout=60) as client:
        with Store.open(tmp_path / "notes") as store, store.writing():
            refused = client.post("/v1/items", json=body)
        assert refused.status_code == 503
        assert "is being written by" in refused.json()["error"]["message"]
        assert client.post("/v1/items", json=body).status_code == 200


def test_what_another_process_adds_is_found(own: Running, tmp_path: Path, embedder: onepeace.Embedder) -> None:
    with Store.open(tmp_path / "notes") as store:
        store.add([Item("theirs", "text", "x", {"text": "a dog"})], embedder.encode(["a dog"]))
    with httpx.Client(base_url=own.url, timeout=60) as client:
        for _ in range(200):
            time.sleep(0.05)
            hits = client.post("/v1/search", json={"index": "notes", "query": "a dog"}).json()["hits"]
            if hits:
                break
        assert [hit["id"] for hit in hits] == ["theirs"]


def test_the_map_is_the_first_two_principal_axes(http: httpx.Client, running: Running) -> None:
    answer = http.get("/v1/indexes/gallery/map").json()
    with Store.open(running.service.indexes.all["gallery"].store.folder) as store:
        ids = [item.id for item in store.catalog]
        vectors = store.vectors(ids).astype(np.float64)
    assert [point["id"] for point in answer["points"]] == ids
    covariance = np.cov(vectors.T)
    values, axes = np.linalg.eigh(covariance)
    places = (vectors - vectors.mean(axis=0)) @ axes[:, -2:][:, ::-1]
    drawn = np.array([[point["x"], point["y"]] for point in answer["points"]])
    for axis in range(2):
        assert abs(np.corrcoef(places[:, axis], drawn[:, axis])[0, 1]) > 0.999
    assert answer["explained"] == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-3)
    assert np.abs(drawn).max() == pytest.approx(1.0)


def test_classifying_gives_what_the_classifier_gives(
    http: httpx.Client, embedder: onepeace.Embedder, exhibits: list[tuple[Item, Any]]
) -> None:
    picture = next(item for item, _ in exhibits if item.modality == "image")
    labels, templates = ["cat", "dog", "car", "{}"], ["{}", "a photo of {}"]
    body = {"input": [{"image": base64_of(picture.uri)}, "a small dog"], "labels": labels, "templates": templates}
    answer = http.post("/v1/classify", json=body).json()
    classifier = onepeace.ZeroShotClassifier(embedder, labels, templates)
    expected = classifier.predict([onepeace.Image(picture.uri), "a small dog"])  # each as it is calibrated
    for entry, told in zip(answer["data"], expected, strict=True):
        labels_told, shares = zip(*told.top(4), strict=True)
        assert [one["label"] for one in entry["labels"]] == list(labels_told)
        np.testing.assert_allclose([one["probability"] for one in entry["labels"]], shares, atol=1e-4)
    assert json.dumps(answer).count("probability") == 8


def test_a_store_of_another_model_is_refused(tmp_path: Path) -> None:
    Store.create(tmp_path / "other", model=ModelTag("another", "0" * 16, 512)).close()
    with pytest.raises(ValueError, match="another"):
        Service(TINY, {"other": tmp_path / "other"}, ServiceConfig())
