"""Inside LlamaIndex's own indexes, with their store in memory and no language model."""

from __future__ import annotations

import asyncio
import io
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from later import Later

import onepeace
from onepeace.integrations.loading import loaded
from retrieval.gallery import GALLERY

if TYPE_CHECKING:
    from onepeace.integrations.llama_index import OnePeaceEmbedding

core = Later("llama_index.core")
integration = Later("onepeace.integrations.llama_index")

PICTURES = [
    str(GALLERY / "pictures" / name) for name in ("face-tabby-cat.webp", "red-apple.webp", "saxophone-drawn-black.webp")
]
BARK = str(GALLERY / "sounds" / "dog-barking-again.ogg")
TEXTS = ["a dog barking", "a cat", "an apple", "rain on a street", "a saxophone"]


@pytest.fixture(scope="module")
def embedding() -> OnePeaceEmbedding:
    return integration.OnePeaceEmbedding(dtype="float32", embed_batch_size=2)


@pytest.fixture(scope="module")
def shipped() -> onepeace.Embedder:
    return loaded("onepeace-tiny", dtype="float32")


def test_vectors_are_those_of_encode(embedding: OnePeaceEmbedding, shipped: onepeace.Embedder) -> None:
    with open(PICTURES[0], "rb") as file:
        in_memory = io.BytesIO(file.read())
    for found, theirs in [
        ([embedding.get_query_embedding("a cat")], shipped.encode(["a cat"])),
        ([embedding.get_text_embedding("a cat")], shipped.encode(["a cat"])),
        (embedding.get_text_embedding_batch(TEXTS), shipped.encode(TEXTS)),
        ([embedding.get_image_embedding(in_memory)], shipped.encode_images(PICTURES[:1])),
        (embedding.get_image_embedding_batch(PICTURES), shipped.encode_images(PICTURES)),
        ([embedding.get_audio_embedding(BARK)], shipped.encode_audio([BARK])),
    ]:
        np.testing.assert_allclose(found, theirs, atol=1e-6)


def test_what_is_asynchronous_gives_the_same(embedding: OnePeaceEmbedding) -> None:
    async def everything() -> list[object]:
        return [
            await embedding.aget_query_embedding("a cat"),
            await embedding.aget_text_embedding("a cat"),
            await embedding.aget_text_embedding_batch(TEXTS),
            await embedding.aget_image_embedding(PICTURES[0]),
            await embedding.aget_image_embedding_batch(PICTURES),
            await embedding.aget_audio_embedding(BARK),
        ]

    ours = asyncio.run(everything())
    theirs = [
        embedding.get_query_embedding("a cat"),
        embedding.get_text_embedding("a cat"),
        embedding.get_text_embedding_batch(TEXTS),
        embedding.get_image_embedding(PICTURES[0]),
        embedding.get_image_embedding_batch(PICTURES),
        embedding.get_audio_embedding(BARK),
    ]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_an_index_ranks_as_brute_force_does(embedding: OnePeaceEmbedding, shipped: onepeace.Embedder) -> None:
    index = core.VectorStoreIndex(nodes=[core.schema.TextNode(text=text) for text in TEXTS], embed_model=embedding)
    found = index.as_retriever(similarity_top_k=5).retrieve("a pet")
    cosines = shipped.encode(TEXTS) @ shipped.encode("a pet")
    assert [hit.text for hit in found] == [TEXTS[n] for n in np.argsort(-cosines)]
    np.testing.assert_allclose([hit.score for hit in found], np.sort(cosines)[::-1], atol=1e-5)


def test_words_and_pictures_find_pictures_in_a_multimodal_index(
    embedding: OnePeaceEmbedding, shipped: onepeace.Embedder
) -> None:
    nodes = [
        *(core.schema.TextNode(text=text) for text in TEXTS),
        *(core.schema.ImageNode(image_path=path, metadata={"file": path}) for path in PICTURES),
    ]
    index = core.indices.MultiModalVectorStoreIndex(nodes=nodes, embed_model=embedding, image_embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=5, image_similarity_top_k=3)
    assert retriever.text_retrieve("an animal that purrs")[0].text == "a cat"
    cosines = shipped.encode_images(PICTURES) @ shipped.encode("a musical instrument")
    found = retriever.text_to_image_retrieve("a musical instrument")
    assert [hit.node.image_path for hit in found] == [PICTURES[n] for n in np.argsort(-cosines)]
    assert retriever.image_to_image_retrieve(PICTURES[1])[0].node.image_path == PICTURES[1]


def test_a_sound_as_the_query(embedding: OnePeaceEmbedding) -> None:
    index = core.VectorStoreIndex(nodes=[core.schema.TextNode(text=text) for text in TEXTS], embed_model=embedding)
    bundle = core.schema.QueryBundle(query_str="", embedding=embedding.get_audio_embedding(BARK))
    assert index.as_retriever(similarity_top_k=1).retrieve(bundle)[0].text == "a dog barking"


def test_it_is_saved_and_pickled_by_the_model_s_name(embedding: OnePeaceEmbedding) -> None:
    for copy in (pickle.loads(pickle.dumps(embedding)), integration.OnePeaceEmbedding.from_dict(embedding.to_dict())):
        assert (copy.model_name, copy.dtype, copy.embed_batch_size) == ("onepeace-tiny", "float32", 2)
        assert copy.model is embedding.model
    assert len(pickle.dumps(embedding)) < 10_000


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no model 'onepiece-tiny'"):
        integration.OnePeaceEmbedding(model_name="onepiece-tiny").get_text_embedding("a")
    with pytest.raises(onepeace.MediaError, match=r"none\.png"):
        integration.OnePeaceEmbedding(dtype="float32").get_image_embedding("none.png")
