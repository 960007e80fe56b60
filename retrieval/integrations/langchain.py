"""A store as LangChain's VectorStore. N: items, D: width of a vector."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from onepeace.integrations.langchain import OnePeaceEmbeddings
from retrieval.catalog import Item
from retrieval.filters import Where
from retrieval.manifest import ModelTag
from retrieval.search import Searcher, SearchHit
from retrieval.store import Store

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
except ImportError as error:
    raise ImportError("LangChain's classes need langchain-core: pip install 'onepeace[langchain]'") from error

TEXT = "text"  # where the catalog keeps a text itself


class OnePeaceVectorStore(VectorStore):
    """Documents in a `retrieval.Store`: on the disk when `add_texts` returns, and found by text, picture or sound.

    `folder` is a store, which `onepeace index build` may have made too, or a place for a new one; without it the store
    is temporary and goes with this object. A text is a document's page content. A picture or sound that `add_images`
    or `add_audio` brought has its uri as page content, and uri and modality in its metadata. Documents never name
    files to be read: only those two methods open any.

    `filter` is a mapping of fields to values or lists of values, or a filter as `onepeace search --where` takes it;
    `id`, `modality` and `uri` are the store's own, every other field is looked up in the metadata. Scores are
    cosines, higher is nearer.

    >>> from onepeace.integrations.langchain import OnePeaceEmbeddings
    >>> from retrieval.gallery import GALLERY
    >>> from retrieval.integrations.langchain import OnePeaceVectorStore
    >>> store = OnePeaceVectorStore(OnePeaceEmbeddings("onepeace-tiny"))
    >>> ids = store.add_texts(["a dog barking", "a bowl of soup"], [{"kind": "animal"}, {"kind": "food"}])
    >>> ids = store.add_audio([GALLERY / "sounds" / "dog-barking-again.ogg"], ids=["bark"])
    >>> [document.id for document in store.similarity_search("woof, woof", k=1, filter="modality=audio")]
    ['bark']
    """

    def __init__(self, embedding: Embeddings, folder: str | os.PathLike[str] | None = None) -> None:
        """Open the store in `folder`, or make one.

        Raises:
            StoreError: a folder that holds something else, or a store that was built with another model.
        """
        self.embedding = embedding
        tag = _tag(embedding)
        if folder is None:
            folder = tempfile.mkdtemp(prefix="onepeace-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder)
        if path.is_dir() and any(path.iterdir()):
            self.store = Store.open(path)
            self.store.require_model(tag)
        else:
            self.store = Store.create(path, model=tag)
        self._searcher = Searcher(self.store)

    @property
    def embeddings(self) -> Embeddings:
        """What embeds texts and queries."""
        return self.embedding

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        folder: str | os.PathLike[str] | None = None,
        **_: Any,
    ) -> Self:
        """Make a store, or open the one in `folder`, and add texts; further words are those of `add_texts`."""
        store = cls(embedding, folder)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **_: Any,
    ) -> list[str]:
        """Add texts and return their ids; an id that is taken takes the new text, and None gets a new id.

        Raises:
            ValueError: lists of different lengths, metadata that are no JSON, or with a key "text", where the store
                keeps the text itself.
        """
        texts = list(texts)
        metadatas = _matched("metadatas", metadatas, len(texts), {})
        if any(TEXT in metadata for metadata in metadatas):
            raise ValueError(f"metadata must not have the key {TEXT!r}, where the store keeps the text: rename it")
        names = _named(ids, len(texts))
        items = [
            Item(name, "text", name, {TEXT: text, **metadata})
            for name, text, metadata in zip(names, texts, metadatas, strict=True)
        ]
        return self._add(items, self.embedding.embed_documents(texts) if texts else [])

    def add_images(
        self,
        uris: Sequence[str | os.PathLike[str]],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
    ) -> list[str]:
        """Add pictures by their paths and return their ids; all of them, or none if one cannot be read (MediaError)."""
        return self._add_media("image", uris, metadatas, ids)

    def add_audio(
        self,
        uris: Sequence[str | os.PathLike[str]],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
    ) -> list[str]:
        """Add sounds by their paths and return their ids; all of them, or none if one cannot be read (MediaError)."""
        return self._add_media("audio", uris, metadatas, ids)

    async def aadd_images(self, uris: Sequence[str | os.PathLike[str]], *given: Any, **named: Any) -> list[str]:
        """`add_images`, in a thread."""
        return await run_in_executor(None, self.add_images, uris, *given, **named)

    async def aadd_audio(self, uris: Sequence[str | os.PathLike[str]], *given: Any, **named: Any) -> list[str]:
        """`add_audio`, in a thread."""
        return await run_in_executor(None, self.add_audio, uris, *given, **named)

    def _add_media(
        self,
        modality: str,
        uris: Sequence[str | os.PathLike[str]],
        metadatas: list[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
    ) -> list[str]:
        if not isinstance(self.embedding, OnePeaceEmbeddings):
            raise ValueError(f"{type(self.embedding).__name__} embeds texts only: give OnePeaceEmbeddings")
        if isinstance(uris, str | os.PathLike):
            raise ValueError(f"uris must be a list of paths, got {os.fspath(uris)!r}")
        paths = [os.fspath(uri) for uri in uris]
        names = _named(ids, len(paths))
        items = [
            Item(name, modality, path, dict(metadata))
            for name, path, metadata in zip(names, paths, _matched("metadatas", metadatas, len(paths), {}), strict=True)
        ]
        embed = self.embedding.embed_images if modality == "image" else self.embedding.embed_audio
        return self._add(items, embed(paths) if paths else [])

    def _add(self, items: list[Item], vectors: list[list[float]]) -> list[str]:
        last = {item.id: place for place, item in enumerate(items)}  # of several with one id the last counts
        kept = sorted(last.values())
        if kept:
            self.store.add([items[place] for place in kept], [vectors[place] for place in kept], replace=True)
        return [item.id for item in items]

    def delete(self, ids: list[str] | None = None, **_: Any) -> bool:
        """Delete documents, or all with None; ids that are not there are passed over."""
        names = [item.id for item in self.store.catalog] if ids is None else ids
        self.store.delete(names, missing_ok=True)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids in the order asked, without those that are not there."""
        catalog = self.store.catalog
        rows = catalog.find(ids)
        return [_document(item) for item in catalog.items(rows[rows >= 0])]

    def similarity_search(self, query: Any, k: int = 4, filter: Where | None = None, **_: Any) -> list[Document]:  # noqa: A002
        """Return the `k` documents nearest to a text, or to anything else that the embedding takes as a query."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter)]

    def similarity_search_with_score(
        self,
        query: Any,
        k: int = 4,
        filter: Where | None = None,  # noqa: A002
        **_: Any,
    ) -> list[tuple[Document, float]]:
        """Return the `k` nearest documents with their cosines, from -1 to 1. Raises ValueError for an unknown field."""
        return self.similarity_search_with_score_by_vector(self.embedding.embed_query(query), k, filter)

    def similarity_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Where | None = None,  # noqa: A002
        **_: Any,
    ) -> list[Document]:
        """Return the `k` documents nearest to a vector (D,)."""
        return [document for document, _ in self.similarity_search_with_score_by_vector(embedding, k, filter)]

    def similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Where | None = None,  # noqa: A002
        **_: Any,
    ) -> list[tuple[Document, float]]:
        """Return the `k` documents nearest to a vector (D,), with their cosines."""
        return [(_document(hit.item), hit.score) for hit in self._hits(embedding, k, filter)]

    def max_marginal_relevance_search(
        self,
        query: Any,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where | None = None,  # noqa: A002
        **_: Any,
    ) -> list[Document]:
        """Return `k` of the `fetch_k` nearest that differ: most with `lambda_mult` 0, only by chance with 1."""
        vector = self.embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where | None = None,  # noqa: A002
        **_: Any,
    ) -> list[Document]:
        """`max_marginal_relevance_search` for a vector (D,)."""
        hits = self._hits(embedding, max(k, fetch_k), filter)
        if not hits:
            return []
        rows_ND = self.store.vectors([hit.item.id for hit in hits])
        chosen = maximal_marginal_relevance(np.asarray(embedding, np.float32), list(rows_ND), lambda_mult, k)
        return [_document(hits[place].item) for place in chosen]

    def _hits(self, embedding: list[float], k: int, where: Where | None) -> list[SearchHit]:
        if where is not None and not isinstance(where, str | Mapping):
            raise ValueError(f"filter must be a mapping or a text like 'year>=2020', got {type(where).__name__}")
        vector_D: npt.NDArray[np.float32] = np.asarray(embedding, np.float32)
        return self._searcher.search(vector_D, k, where or None) if k > 0 else []

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: min(1.0, max(0.0, (1.0 + cosine) / 2.0))  # rounding may lead a hair beyond

    def close(self) -> None:
        """Let go of the store's files."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tag(embedding: Embeddings) -> ModelTag:
    """The model behind an embedding. Of one that is not ours no more is known than its class and dimension."""
    if isinstance(embedding, OnePeaceEmbeddings):
        return ModelTag.of(embedding.model)
    name = f"{type(embedding).__module__}.{type(embedding).__qualname__}"
    return ModelTag(name, hashlib.sha256(name.encode()).hexdigest()[:16], len(embedding.embed_query("dimension")))


def _document(item: Item) -> Document:
    metadata = dict(item.metadata)
    if item.modality == "text":
        text = metadata.pop(TEXT, item.uri)
        return Document(
            id=item.id, page_content=text, metadata=metadata if item.uri == item.id else {"uri": item.uri, **metadata}
        )
    return Document(
        id=item.id, page_content=item.uri, metadata={"uri": item.uri, "modality": item.modality, **metadata}
    )


def _named(ids: Sequence[str | None] | None, count: int) -> list[str]:
    return [str(uuid4()) if name is None else name for name in _matched("ids", ids, count, None)]


def _matched(name: str, values: Sequence[Any] | None, count: int, default: Any) -> list[Any]:
    """Return one value an item. Raises ValueError where there are more or fewer."""
    if values is None:
        return [default] * count
    if isinstance(values, str) or len(values) != count:
        raise ValueError(f"expected a list of {count} {name}, got {len(values)}")
    return [default if value is None else value for value in values]
