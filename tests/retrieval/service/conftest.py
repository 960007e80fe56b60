"""A service over a store of some of the gallery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from film_store import KEY, write_film_store
from running_service import TINY, Running, start, stop

import onepeace
from retrieval import Item, ModelTag, Store
from retrieval.gallery import GALLERY, read_gallery
from retrieval.service.config import ServiceConfig
from retrieval.service.security import ApiKeys
from retrieval.service.service import Service


@pytest.fixture(scope="session")
def embedder() -> onepeace.Embedder:
    return onepeace.load("onepeace-tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def exhibits() -> list[tuple[Item, Any]]:
    """Items of the gallery of all kinds, with what `encode` takes of each."""
    found: list[tuple[Item, Any]] = []
    for exhibit in read_gallery(GALLERY):
        path = str(GALLERY / exhibit.file)
        wrap = onepeace.Image if exhibit.modality == "image" else onepeace.Audio
        found.append((Item(exhibit.file, exhibit.modality, path, {"label": exhibit.file[:4]}), wrap(path)))
        if exhibit.caption:
            text = Item(f"{exhibit.file}#caption", "text", path, {"text": exhibit.caption})
            found.append((text, exhibit.caption))
    return found


@pytest.fixture(scope="session")
def running(
    tmp_path_factory: pytest.TempPathFactory, embedder: onepeace.Embedder, exhibits: list[tuple[Item, Any]]
) -> Iterator[Running]:
    """A service without keys over a store of thirty pictures, sounds and captions."""
    some = [*exhibits[:20], *exhibits[-10:]]
    folder = tmp_path_factory.mktemp("service") / "gallery"
    vectors = embedder.encode([source for _, source in some])
    Store.create(folder, [item for item, _ in some], vectors, model=ModelTag.of(embedder)).close()
    started, thread = start(Service(TINY, {"gallery": folder}, ServiceConfig(cache_bytes=0)))
    yield started
    stop(started, thread)


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def film_service(tmp_path_factory: pytest.TempPathFactory, embedder: onepeace.Embedder) -> Iterator[Running]:
    """A service with a key over a store of a video, a PDF and a long sound."""
    folder = write_film_store(tmp_path_factory.mktemp("films"), embedder)
    started, thread = start(Service(TINY, {"films": folder}, ServiceConfig()), ApiKeys([KEY]))
    yield started
    stop(started, thread)


@pytest.fixture
def film_http(film_service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=film_service.url, timeout=60, headers={"X-API-Key": KEY}) as client:
        yield client
