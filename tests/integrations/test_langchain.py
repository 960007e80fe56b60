"""LangChain's own suites for embeddings and vector stores, and what they leave open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, VectorStoreIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

import onepeace
from onepeace.integrations.langchain import OnePeaceEmbeddings
from retrieval import ModelTag, Store, StoreError
from retrieval.gallery import GALLERY
from retrieval.integrations.langchain import OnePeaceVectorStore

PICTURES = [GALLERY / "pictures" / name for name in ("face-tabby-cat.webp", "red-apple.webp")]
BARK = GALLERY / "sounds" / "dog-barking-again.ogg"


class OurParameters:
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OnePeaceEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": LOADED[0]}


LOADED: list[onepeace.Embedder] = []


@pytest.fixture(scope="module", autouse=True)
def shipped() -> onepeace.Embedder:
    LOADED[:] = [onepeace.load("onepeace-tiny", dtype="float32")]
    return LOADED[0]


class TestEmbeddingsUnit(OurParameters, EmbeddingsUnitTests):
    pass


class TestEmbeddings(OurParameters, EmbeddingsIntegrationTests):
    pass


class TestVectorStoreOfOurs(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, shipped: onepeace.Embedder) -> Iterator[OnePeaceVectorStore]:
        with OnePeaceVectorStore(OnePeaceEmbeddings(shipped)) as store:
            yield store


class TestVectorStoreOfOthers(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[OnePeaceVectorStore]:
        with OnePeaceVectorStore(self.get_embeddings(), tmp_path / "store") as store:
            yield store


@pytest.fixture(scope="module")
def embeddings(shipped: onepeace.Embedder) -> OnePeaceEmbeddings:
    return OnePeaceEmbeddings(shipped)


TEXTS = ["a dog barking", "a cat", "an apple", "rain on a street", "a red fruit"]


@pytest.fixture
def mixed(embeddings: OnePeaceEmbeddings, tmp_path: Path) -> Iterator[OnePeaceVectorStore]:
    """Five texts, two pictures and a sound."""
    with OnePeaceVectorStore.from_texts(
        TEXTS,
        embeddings,
        [{"year": 2018 + n} for n in range(5)],
        ids=[f"t{n}" for n in range(5)],
        folder=tmp_path / "s",
    ) as store:
        store.add_images(PICTURES, [{"year": 2022}, {"year": 2023}], ids=["cat", "apple"])
        store.add_audio([BARK], ids=["bark"])
        yield store


def test_vectors_are_those_of_encode(embeddings: OnePeaceEmbeddings, shipped: onepeace.Embedder) -> None:
    pairs = [
        (embeddings.embed_documents(TEXTS), shipped.encode(TEXTS)),
        ([embeddings.embed_query(onepeace.Audio(BARK))], shipped.encode([onepeace.Audio(BARK)])),
        (embeddings.embed_images(PICTURES), shipped.encode_images(PICTURES)),
        (embeddings.embed_image(PICTURES), shipped.encode_images(PICTURES)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


async def test_media_in_a_thread(embeddings: OnePeaceEmbeddings, mixed: OnePeaceVectorStore) -> None:
    assert await embeddings.aembed_images(PICTURES) == embeddings.embed_images(PICTURES)
    assert await embeddings.aembed_audio([BARK]) == embeddings.embed_audio([BARK])
    assert await mixed.aadd_images(PICTURES[:1], ids=["again"]) == ["again"]
    assert await mixed.aadd_audio([BARK], ids=["bark again"]) == ["bark again"]
    assert {document.id for document in await mixed.asimilarity_search(onepeace.Audio(BARK), k=2)} == {
        "bark",
        "bark again",
    }


def test_scores_and_order_are_those_of_brute_force(mixed: OnePeaceVectorStore, shipped: onepeace.Embedder) -> None:
    everything = [*TEXTS, *map(onepeace.Image, PICTURES), onepeace.Audio(BARK)]
    cosines = shipped.encode(everything) @ shipped.encode("an animal")
    ids = np.array([*(f"t{n}" for n in range(5)), "cat", "apple", "bark"])
    found = mixed.similarity_search_with_score("an animal", k=8)
    assert [document.id for document, _ in found] == ids[np.argsort(-cosines)].tolist()
    np.testing.assert_allclose([score for _, score in found], np.sort(cosines)[::-1], atol=1e-5)
    relevant = mixed.similarity_search_with_relevance_scores("an animal", k=8)
    np.testing.assert_allclose([score for _, score in relevant], (1 + np.sort(cosines)[::-1]) / 2, atol=1e-5)


def test_diversity_is_that_of_brute_force(mixed: OnePeaceVectorStore, shipped: onepeace.Embedder) -> None:
    rows = shipped.encode(TEXTS)
    query = shipped.encode("fruit")
    chosen: list[int] = []
    while len(chosen) < 3:
        worth = [
            0.3 * rows[n] @ query - 0.7 * max((rows[n] @ rows[m] for m in chosen), default=0.0)
            if n not in chosen
            else -9
            for n in range(5)
        ]
        chosen.append(int(np.argmax(worth)))
    found = mixed.max_marginal_relevance_search("fruit", k=3, lambda_mult=0.3, filter={"modality": "text"})
    assert [document.id for document in found] == [f"t{n}" for n in chosen]


def test_media_are_found_by_words_and_say_what_they_are(mixed: OnePeaceVectorStore) -> None:
    (cat,) = mixed.similarity_search("a cat", k=1, filter="modality=image")
    assert cat == Document(
        id="cat",
        page_content=str(PICTURES[0]),
        metadata={"uri": str(PICTURES[0]), "modality": "image", "year": 2022},
    )
    assert mixed.similarity_search("woof", k=1, filter={"modality": "audio"})[0].id == "bark"
    assert mixed.similarity_search_by_vector(mixed.embeddings.embed_image([PICTURES[1]])[0], k=1)[0].id == "apple"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("year>=2021 and modality=text", {"t3", "t4"}),
        ({"year": [2018, 2023]}, {"t0", "apple"}),
        ({"id": "bark"}, {"bark"}),
        ({}, {"t0", "t1", "t2", "t3", "t4", "cat", "apple", "bark"}),
    ],
)
def test_filters(mixed: OnePeaceVectorStore, wanted: Any, ids: set[str]) -> None:
    assert {document.id for document in mixed.similarity_search("a thing", k=10, filter=wanted)} == ids


def test_a_retriever_of_each_kind(mixed: OnePeaceVectorStore) -> None:
    retriever = mixed.as_retriever(search_kwargs={"k": 2, "filter": "modality=text"})
    assert retriever.invoke("a cat")[0].id == "t1"
    diverse = mixed.as_retriever(search_type="mmr", search_kwargs={"k": 2, "fetch_k": 5})
    assert len(diverse.invoke("a cat")) == 2
    strict = mixed.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.99})
    assert [document.id for document in strict.invoke("a cat")] == ["t1"]


def test_it_is_there_when_it_is_opened_again(mixed: OnePeaceVectorStore, embeddings: OnePeaceEmbeddings) -> None:
    before = mixed.similarity_search_with_score("a cat", k=8)
    mixed.close()
    with OnePeaceVectorStore(embeddings, mixed.store.folder) as again:
        assert again.similarity_search_with_score("a cat", k=8) == before


def test_a_temporary_store_goes_with_its_object(embeddings: OnePeaceEmbeddings) -> None:
    store = OnePeaceVectorStore.from_documents([Document(page_content="a", id="one")], embeddings)
    folder = store.store.folder
    assert folder.is_dir()
    assert [document.id for document in store.get_by_ids(["none", "one"])] == ["one"]
    store.close()
    del store
    assert not folder.exists()


def test_a_store_that_index_build_would_make(
    embeddings: OnePeaceEmbeddings, shipped: onepeace.Embedder, tmp_path: Path
) -> None:
    from retrieval import Item

    item = Item("notes.txt#1", "text", "/data/notes.txt#1", {"text": "a note"})
    Store.create(tmp_path / "s", [item], shipped.encode(["a note"]), model=ModelTag.of(shipped)).close()
    with OnePeaceVectorStore(embeddings, tmp_path / "s") as store:
        assert store.similarity_search("a note") == [
            Document(id="notes.txt#1", page_content="a note", metadata={"uri": "/data/notes.txt#1"})
        ]


def test_deleting_all_and_the_last_of_one_id(mixed: OnePeaceVectorStore) -> None:
    assert mixed.add_texts(["old", "new"], ids=["t0", "t0"]) == ["t0", "t0"]
    assert mixed.get_by_ids(["t0"])[0].page_content == "new"
    mixed.delete()
    assert mixed.similarity_search("a cat") == []


def test_nothing_is_added_if_one_cannot_be_read(mixed: OnePeaceVectorStore) -> None:
    with pytest.raises(onepeace.MediaError, match=r"none\.png"):
        mixed.add_images([PICTURES[0], "none.png"])
    assert len(mixed.store) == 8


def test_mistakes_are_named(mixed: OnePeaceVectorStore, embeddings: OnePeaceEmbeddings, tmp_path: Path) -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding

    with pytest.raises(ValueError, match="list of 2 ids, got 1"):
        mixed.add_texts(["a", "b"], ids=["one"])
    with pytest.raises(ValueError, match="key 'text'"):
        mixed.add_texts(["a"], [{"text": "b"}])
    with pytest.raises(ValueError, match="list of paths"):
        mixed.add_images("cat.png")
    with pytest.raises(ValueError, match="unknown field 'yeer'"):
        mixed.similarity_search("a", filter={"yeer": 1})
    with pytest.raises(ValueError, match="got function"):
        mixed.similarity_search("a", filter=lambda document: True)
    other = DeterministicFakeEmbedding(size=6)
    with pytest.raises(StoreError, match="different models"):
        OnePeaceVectorStore(other, mixed.store.folder)
    with OnePeaceVectorStore(other) as store, pytest.raises(ValueError, match="texts only"):
        store.add_audio([BARK])
