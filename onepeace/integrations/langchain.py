"""Embeddings for LangChain. D: embedding dimension."""

from __future__ import annotations

from typing import Any

from onepeace.embedder import BATCH, Embedder
from onepeace.loading import load_embedder

try:
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import run_in_executor
except ImportError as error:
    raise ImportError("LangChain's classes need langchain-core: pip install 'onepeace[langchain]'") from error


class OnePeaceEmbeddings(Embeddings):
    """Texts, pictures and sounds as lists of D floats of length one, in one space.

    `model` is a name or folder as `onepeace.load` takes it, or a model that is loaded. Queries and documents are
    embedded alike. Every method has an asynchronous twin that runs in a thread.

    >>> from onepeace.integrations.langchain import OnePeaceEmbeddings
    >>> from retrieval.gallery import GALLERY
    >>> embeddings = OnePeaceEmbeddings("onepeace-tiny")
    >>> len(embeddings.embed_query("a dog barking"))
    512
    >>> len(embeddings.embed_audio([GALLERY / "sounds" / "dog-barking-again.ogg"]))
    1
    """

    def __init__(self, model: str | Embedder = "onepeace-tiny", *, batch_size: int = BATCH, **options: Any) -> None:
        """Load the model; `options` go to `onepeace.load`. Raises CheckpointError for no such model."""
        self.model = model if isinstance(model, Embedder) else load_embedder(model, **options)
        self.batch_size = batch_size

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        return _lists(self.model.encode_text(list(texts), batch_size=self.batch_size))

    def embed_query(self, text: Any) -> list[float]:
        """Return the vector of a text, or of whatever `Embedder.encode` takes: `Image`, `Audio`, `Compose`."""
        vector: list[float] = self.model.encode(text).tolist()
        return vector

    def embed_images(self, uris: list[Any]) -> list[list[float]]:
        """Return a vector for each picture: paths, bytes, PIL images. Raises MediaError for one that cannot be read."""
        return _lists(self.model.encode_images(list(uris), batch_size=self.batch_size))

    def embed_image(self, uris: list[Any]) -> list[list[float]]:
        """`embed_images`, under the name by which other vector stores (Chroma, for one) ask for it."""
        return self.embed_images(uris)

    def embed_audio(self, uris: list[Any]) -> list[list[float]]:
        """Return a vector for each sound: paths, bytes. Raises MediaError for one that cannot be read."""
        return _lists(self.model.encode_audio(list(uris), batch_size=self.batch_size))

    async def aembed_images(self, uris: list[Any]) -> list[list[float]]:
        """`embed_images`, in a thread."""
        return await run_in_executor(None, self.embed_images, uris)

    async def aembed_audio(self, uris: list[Any]) -> list[list[float]]:
        """`embed_audio`, in a thread."""
        return await run_in_executor(None, self.embed_audio, uris)


def _lists(rows_ND: Any) -> list[list[float]]:
    lists: list[list[float]] = rows_ND.tolist()
    return lists
