"""Embeddings for LlamaIndex. D: embedding dimension."""

from __future__ import annotations

import asyncio
from typing import Any

from onepeace.embedder import BATCH, Embedder
from onepeace.integrations.loading import loaded

try:
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.embeddings.multi_modal_base import MultiModalEmbedding
except ImportError as error:
    raise ImportError(
        f"LlamaIndex's classes need llama-index-core: pip install 'onepeace[llama-index]' ({error})"
    ) from error

Vector = list[float]


class OnePeaceEmbedding(MultiModalEmbedding):
    """Texts, queries, pictures and sounds as lists of D floats of length one, in one space.

    `model_name` is a name or folder as `onepeace.load` takes it, `device` and `dtype` are its as well; that is all that
    is saved and pickled, and the model is loaded when it is first asked. Queries and documents are embedded alike. As
    it is one space, this is both `embed_model` and `image_embed_model` of a `MultiModalVectorStoreIndex`.

    >>> from onepeace.integrations.llama_index import OnePeaceEmbedding
    >>> from retrieval.gallery import GALLERY
    >>> embedding = OnePeaceEmbedding(model_name="onepeace-tiny")
    >>> len(embedding.get_query_embedding("a cat"))
    512
    >>> len(embedding.get_image_embedding(str(GALLERY / "pictures" / "face-tabby-cat.webp")))
    512
    >>> len(embedding.get_audio_embedding(str(GALLERY / "sounds" / "cow-mooing.ogg")))
    512
    """

    model_name: str = Field(default="onepeace-tiny", description="A shipped model's name, or a model folder.")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    dtype: str = Field(default="auto", description="auto, float32, bfloat16 or int8.")
    embed_batch_size: int = Field(default=BATCH, description="Inputs of one call.", gt=0, le=2048)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which it is saved."""
        return "OnePeaceEmbedding"

    @property
    def model(self) -> Embedder:
        """The model. Raises CheckpointError for no such model."""
        return loaded(self.model_name, self.device, self.dtype)

    def get_audio_embedding(self, audio: Any) -> Vector:
        """Return the vector of a sound: a path, bytes, or a binary file. Raises MediaError if it cannot be read."""
        return self.get_audio_embedding_batch([audio])[0]

    def get_audio_embedding_batch(self, sounds: list[Any]) -> list[Vector]:
        """Return the vectors of sounds."""
        return _lists(self.model.encode_audio(list(sounds), batch_size=self.embed_batch_size))

    async def aget_audio_embedding(self, audio: Any) -> Vector:
        """`get_audio_embedding`, in a thread."""
        return await asyncio.to_thread(self.get_audio_embedding, audio)

    def _get_text_embedding(self, text: str) -> Vector:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Vector]:
        return _lists(self.model.encode_text(list(texts), batch_size=self.embed_batch_size))

    async def _aget_text_embedding(self, text: str) -> Vector:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Vector]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def _get_query_embedding(self, query: str) -> Vector:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> Vector:
        return await self._aget_text_embedding(query)

    def _get_image_embedding(self, img_file_path: Any) -> Vector:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[Any]) -> list[Vector]:
        return _lists(self.model.encode_images(list(img_file_paths), batch_size=self.embed_batch_size))

    async def _aget_image_embedding(self, img_file_path: Any) -> Vector:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[Any]) -> list[Vector]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)


def _lists(rows_ND: Any) -> list[Vector]:
    lists: list[Vector] = rows_ND.tolist()
    return lists
