"""Clients that others wrote work as they are."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import numpy as np
import pytest
from running_service import Running, base64_of

import onepeace
from retrieval import Item
from retrieval.client import AsyncClient, Client, ServiceError
from retrieval.gallery import GALLERY

TEXTS = ["a dog barking", "rain on a roof", "a red apple"]


def near(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)


@pytest.fixture(scope="module")
def picture(exhibits: list[tuple[Item, Any]]) -> str:
    return next(item.uri for item, _ in exhibits if item.modality == "image")


@pytest.fixture(scope="module")
def sound(exhibits: list[tuple[Item, Any]]) -> str:
    return next(item.uri for item, _ in exhibits if item.modality == "audio")


def test_the_openai_client(running: Running, embedder: onepeace.Embedder) -> None:
    import openai

    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        answer = client.embeddings.create(input=TEXTS, model="onepeace-tiny")  # asks for base64, and decodes it
        near([entry.embedding for entry in answer.data], embedder.encode(TEXTS))
        assert [entry.index for entry in answer.data] == [0, 1, 2]
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 6
        plain = client.embeddings.create(input=TEXTS[0], model="onepeace-tiny", encoding_format="float", dimensions=64)
        near(plain.data[0].embedding, embedder.encode(TEXTS[0], truncate_dim=64))
        assert [model.id for model in client.models.list()] == ["onepeace-tiny"]
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-9' here: it is 'onepeace-tiny'"):
            client.embeddings.create(input="x", model="gpt-9")
        with pytest.raises(openai.BadRequestError, match="token ids"):
            client.embeddings.create(input=[[1, 2, 3]], model="onepeace-tiny")


def test_langchains_openai_embeddings(running: Running, embedder: onepeace.Embedder) -> None:
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    with httpx.Client() as connections:
        embeddings = OpenAIEmbeddings(
            base_url=f"{running.url}/v1",
            api_key=SecretStr("none"),
            model="onepeace-tiny",
            check_embedding_ctx_length=False,
            http_client=connections,
        )
        near(embeddings.embed_documents(TEXTS), embedder.encode(TEXTS))
        near(embeddings.embed_query(TEXTS[1]), embedder.encode(TEXTS[1]))


def test_the_infinity_client(running: Running, embedder: onepeace.Embedder, picture: str) -> None:
    from infinity_client import Client as InfinityClient
    from infinity_client.api.default import embeddings
    from infinity_client.models import OpenAIEmbeddingInputText

    client = InfinityClient(base_url=running.url)
    request = OpenAIEmbeddingInputText.from_dict({"input": TEXTS, "model": "onepeace-tiny"})
    with client as opened:
        answer: Any = embeddings.sync(client=opened, body=request)
    near([entry.embedding for entry in answer.data], embedder.encode(TEXTS))
    # Its pictures go as data: addresses with a modality.
    body = {"input": [f"data:image/webp;base64,{base64_of(picture)}"], "modality": "image", "model": "onepeace-tiny"}
    posted = httpx.post(f"{running.url}/v1/embeddings", json=body, timeout=60).json()
    near(posted["data"][0]["embedding"], embedder.encode(onepeace.Image(picture)))


def test_the_cohere_client(running: Running, embedder: onepeace.Embedder, picture: str) -> None:
    import cohere

    with cohere.ClientV2(api_key="none", base_url=running.url) as client:
        answer = client.embed(
            texts=TEXTS, model="onepeace-tiny", input_type="search_document", embedding_types=["float", "ubinary"]
        )
        expected = embedder.encode(TEXTS)
        near(answer.embeddings.float_, expected)
        assert answer.embeddings.ubinary == np.packbits(expected > 0, axis=1).tolist()
        pictures = client.embed(
            images=[f"data:image/webp;base64,{base64_of(picture)}"],
            model="onepeace-tiny",
            input_type="image",
            embedding_types=["float"],
        )
        near(pictures.embeddings.float_, [embedder.encode(onepeace.Image(picture))])


def test_jinas_and_vllms_dialects(http: httpx.Client, embedder: onepeace.Embedder, picture: str, sound: str) -> None:
    mixed = {"input": [{"text": "a dog"}, {"image": base64_of(picture)}, {"audio": base64_of(sound)}, "rain"]}
    answer = http.post("/v1/embeddings", json=mixed).json()
    expected = embedder.encode(["a dog", onepeace.Image(picture), onepeace.Audio(sound), "rain"])
    near([entry["embedding"] for entry in answer["data"]], expected)
    content = [
        {"type": "text", "text": "a dog"},
        {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{base64_of(picture)}"}},
        {"type": "input_audio", "input_audio": {"data": base64_of(sound), "format": "flac"}},
    ]
    chat = {"messages": [{"role": "user", "content": content}], "truncate_prompt_tokens": 77, "model": "onepeace-tiny"}
    one = http.post("/v1/embeddings", json=chat).json()
    whole = embedder.encode(onepeace.Compose("a dog", onepeace.Image(picture), onepeace.Audio(sound)))
    near(one["data"][0]["embedding"], whole)
    batch = {"messages": [[{"role": "user", "content": "a dog"}], [{"role": "user", "content": content}]]}
    two = http.post("/v1/embeddings", json=batch).json()
    near([entry["embedding"] for entry in two["data"]], [embedder.encode("a dog"), whole])


def test_base64_is_little_endian_float32(http: httpx.Client) -> None:
    body = {"input": ["a dog"]}
    plain = http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    packed = http.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), np.float32(plain))


def test_our_own_client(running: Running, embedder: onepeace.Embedder, picture: str) -> None:
    query = onepeace.Compose(onepeace.Image(picture), "at night", weights=[1.0, -0.5])
    with Client(running.url) as client:
        near(
            client.embed(["a dog", onepeace.Image(picture), query]),
            embedder.encode(["a dog", onepeace.Image(picture), query]),
        )
        near(client.embed("a dog", dimensions=32), embedder.encode("a dog", truncate_dim=32))
        assert client.search(onepeace.Image(picture), top_k=1)[0].score > 0.99
        shares = client.classify([onepeace.Image(picture)], ["a cat", "a dog", "a car"])[0]
        classifier = onepeace.ZeroShotClassifier(embedder, ["a cat", "a dog", "a car"], ["{}"])
        expected = classifier.probabilities(embedder.encode([onepeace.Image(picture)]))[0]
        near([shares[label] for label in ("a cat", "a dog", "a car")], expected)
        with pytest.raises(ServiceError, match="no index 'nowhere': there is gallery"):
            client.search("x", index="nowhere")
        with pytest.raises(FileNotFoundError):
            client.embed(onepeace.Image(str(GALLERY / "no such file")))

    async def asynchronously() -> None:
        async with AsyncClient(running.url) as client:
            rows = await asyncio.gather(*(client.embed(text) for text in TEXTS))
            near(rows, embedder.encode(TEXTS))

    asyncio.run(asynchronously())


def test_our_client_repeats_nothing_that_may_have_been_done() -> None:
    asked = []

    def broken(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        raise httpx.ReadError("the connection was lost")

    with Client("http://test", retries=2) as client:
        client._http.close()
        client._http = httpx.Client(transport=httpx.MockTransport(broken), base_url="http://test")
        for call, attempts in [
            (lambda: client.add({"a": "a dog"}), 1),
            (lambda: client.delete("a", "notes"), 1),
            (lambda: client.add({"a": "a dog"}, replace=True), 3),
            (client.indexes, 3),
        ]:
            asked.clear()
            with pytest.raises(httpx.ReadError):
                call()
            assert len(asked) == attempts


def test_our_client_asks_for_the_item_that_is_meant_and_in_pieces_that_fit() -> None:
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"added": [], "data": []})

    with Client("http://test") as client:
        client._http.close()
        client._http = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://test")
        client.delete("../notes/a", "photos")
        assert asked.pop().url.raw_path == b"/v1/items/photos/%2E%2E/notes/a"
        client.add({str(n): onepeace.Image(bytes(10**6)) for n in range(70)})
        assert len(asked) == 3
        assert all(len(request.content) < 40 * 2**20 for request in asked)
        assert client.embed([]).shape[0] == 0


def test_our_client_comes_back_when_it_is_told_to() -> None:
    answers = iter(
        [httpx.Response(429, headers={"retry-after": "0"}), httpx.Response(503), httpx.Response(200, json={"data": []})]
    )
    asked = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return next(answers)

    client = Client("http://test")
    client._http = httpx.Client(transport=httpx.MockTransport(handle), base_url="http://test")
    assert client.indexes() == []
    assert asked == ["/v1/indexes"] * 3
