"""The stores that a service searches, adds to and shows."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from retrieval.catalog import Catalog
from retrieval.catalog import Item as StoredItem
from retrieval.durable import replacing
from retrieval.manifest import ModelTag
from retrieval.search import Searcher, SearchHit, Stored
from retrieval.store import Store

from .errors import ApiError
from .threads import Threads
from .together import together

logger = logging.getLogger("onepeace.serve")

Rows = npt.NDArray[np.float32]
Result = TypeVar("Result")
SEARCHERS = 2  # threads
SHOWERS = 2  # threads for media and maps, of which a page asks for many at once
MAP_POINTS = 2000
REFRESH_SECONDS = 1.0  # between looks for what other processes have written


class NewItem(NamedTuple):
    """An item that is to be added."""

    id: str
    modality: str
    content: bytes | None  # of a picture or sound
    metadata: dict[str, Any]


class ServedIndex:
    """A store by name. Searches run in threads; adds and deletes one after the other."""

    def __init__(self, name: str, folder: Path, model: ModelTag, bank: Rows | None = None) -> None:
        """Raises StoreError for a store that cannot be opened, or of another model."""
        self.name = name
        folder = Path(os.path.abspath(folder))
        self.store = Store.open(folder)
        self.store.require_model(model)
        self.uploads = folder.with_name(f"{folder.name}.uploads")  # media that came over HTTP
        self.searcher = Searcher(self.store, bank=bank)
        self._writers = Threads(f"write-{name}", 1)
        self._writing = asyncio.Lock()
        self._map: tuple[int, dict[str, Any]] | None = None

    def search(self, query: Any, wanted: Mapping[str, Any]) -> list[SearchHit]:
        """Return hits for a vector, `Stored`, or a `Compose` of them. Raises ValueError for what cannot be asked."""
        like = query.id if isinstance(query, Stored) else None
        if like is not None:
            return self.searcher.search_like(like, **wanted)
        return self.searcher.search(query, **wanted)

    def item(self, id: str) -> StoredItem:  # noqa: A002
        """Return an item. Raises ApiError when there is none."""
        catalog = self.store.current.catalog
        rows = self._found(catalog, {id: "id"})
        (item,) = catalog.items(rows)
        return item

    def check_items(self, wheres: Mapping[str, str]) -> None:
        """Refuse ids that are not here, each with its place in the request. Raises ApiError."""
        self._found(self.store.current.catalog, wheres)

    def _found(self, catalog: Catalog, wheres: Mapping[str, str]) -> npt.NDArray[np.int64]:
        rows = catalog.find(list(wheres))
        for (id, where), row in zip(wheres.items(), rows, strict=True):  # noqa: A001
            if row < 0:
                raise ApiError(404, f"index {self.name!r} has no item {id[:200]!r}", param=where)
        return rows

    async def refresh(self) -> None:
        """Go on to what other processes have written. Raises StoreError."""
        await self._write(self.store.refresh)

    async def add(self, items: Sequence[NewItem], rows_ND: Rows, replace: bool) -> None:
        """Add items; they are on the disk when this returns. Raises ValueError, and then nothing is kept."""
        await self._write(self._add, items, rows_ND, replace)

    async def _write(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run what must not run beside another write; once begun it is finished, whoever gives it up."""
        await self._writing.acquire()
        task = asyncio.create_task(self._writers.run(work, *arguments))
        task.add_done_callback(lambda _: self._writing.release())
        return await asyncio.shield(task)

    def _add(self, items: Sequence[NewItem], rows_ND: Rows, replace: bool) -> None:
        outdated = self._uploaded([item.id for item in items]) if replace else []
        kept: list[Path] = []
        try:
            stored = []
            for item in items:
                uri = f"http:{item.id}"
                if isinstance(item.content, bytes):
                    kept.append(self._keep(item.modality, item.content))
                    uri = str(kept[-1])
                stored.append(StoredItem(item.id, item.modality, uri, item.metadata))
            self.store.add(stored, rows_ND, replace=replace)
        except BaseException:
            self._forget(kept)
            raise
        self._forget(outdated)

    async def delete(self, ids: Sequence[str]) -> int:
        """Take items out. Raises CatalogError for an unknown id."""
        return await self._write(self._delete, ids)

    def _delete(self, ids: Sequence[str]) -> int:
        outdated = self._uploaded(ids)
        deleted = self.store.delete(ids)
        self._forget(outdated)
        return deleted

    def _uploaded(self, ids: Sequence[str]) -> list[Path]:
        """Return the uploaded files of those items that are here."""
        catalog = self.store.current.catalog
        rows = catalog.find(ids)
        paths = [Path(item.uri) for item in catalog.items(rows[rows >= 0])]
        return [path for path in paths if path.parent == self.uploads]

    def _forget(self, paths: Sequence[Path]) -> None:
        """Remove uploaded files, unless another item has the same."""
        for path in paths:
            if not len(self.store.current.select({"uri": str(path)})):
                path.unlink(missing_ok=True)

    def _keep(self, kind: str, content: bytes) -> Path:
        """Write uploaded media beside the store under a name of our own, and return the path."""
        self.uploads.mkdir(exist_ok=True)
        path = self.uploads / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.{suffix(kind, content)}"
        if not path.exists():
            with replacing(path) as aside:
                aside.write_bytes(content)
        return path

    def map(self) -> dict[str, Any]:
        """Return a sample of the items on the first two principal axes (Pearson, 1901), within -1 and 1."""
        current = self.store.current
        if self._map is not None and self._map[0] == current.progress.number:
            return self._map[1]
        rows = np.flatnonzero(np.ones(len(current.vectors), bool) if current.live is None else current.live)
        if len(rows) > MAP_POINTS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MAP_POINTS, replace=False))
        vectors_ND = current.vectors.take(rows)
        centred_ND = vectors_ND - vectors_ND.mean(axis=0) if len(rows) else vectors_ND
        _, values, axes_DD = np.linalg.svd(centred_ND, full_matrices=False)
        places_N2 = np.zeros((len(rows), 2))
        places_N2[:, : len(axes_DD[:2])] = centred_ND @ axes_DD[:2].T
        places_N2 /= np.abs(places_N2).max(initial=1e-12)
        total = float((values**2).sum())
        points = [
            {"id": item.id, "modality": item.modality, "x": float(x), "y": float(y)}
            | {"text": str(item.metadata.get("text", ""))[:200]}
            for item, (x, y) in zip(current.catalog.items(rows), places_N2, strict=True)
        ]
        told = {"points": points, "explained": float((values[:2] ** 2).sum()) / total if total else 0.0}
        self._map = (current.progress.number, told)
        return told

    async def refresh_forever(self) -> None:
        """Go on to what other processes write. Where that fails, what is here is served, and it is tried again."""
        failing = ""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except Exception as error:  # whatever a damaged file brings about
                if str(error) != failing:  # told once, and not every second
                    logger.warning("index %s cannot be refreshed and is served as it was: %s", self.name, error)
                failing = str(error)
            else:
                if failing:
                    logger.info("index %s is refreshed again", self.name)
                failing = ""

    def close(self) -> None:
        """Let go of the files."""
        self._writers.close()
        self.store.close()


class Indexes:
    """All of them, the threads that search, and those that show."""

    def __init__(self, stores: Mapping[str, Path], model: ModelTag, bank: Rows | None = None) -> None:
        """Open them; `bank` is the model's query bank. Raises StoreError for one that cannot be."""
        self.all = {name: ServedIndex(name, folder, model, bank) for name, folder in stores.items()}
        self.searching = Threads("search", SEARCHERS)
        self.showing = Threads("show", SHOWERS)

    def named(self, name: str | None) -> ServedIndex:
        """Return a store by name; the only one without. Raises ApiError."""
        if name is None and len(self.all) == 1:
            return next(iter(self.all.values()))
        if name is None:
            names = ", ".join(self.all) or "none: start the service with --index NAME=STORE"
            raise ApiError(400, f"say which index: {names}", param="index")
        if name not in self.all:
            raise ApiError(404, f"no index {name[:200]!r}: there is {', '.join(self.all) or 'none'}", param="index")
        return self.all[name]

    async def refresh_forever(self) -> None:
        """Go on to what other processes write."""
        await together(index.refresh_forever() for index in self.all.values())

    def close(self) -> None:
        """Let go of the files."""
        self.searching.close()
        self.showing.close()
        for index in self.all.values():
            index.close()


def suffix(kind: str, content: bytes) -> str:
    """Return a file's suffix by its first bytes, so that whoever opens it later knows what it is."""
    starts = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"II": "tif", b"MM": "tif"}
    starts |= {b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"\xff\xf1": "aac", b"\xff\xf9": "aac", b"\xff": "mp3"}
    if content[:4] == b"RIFF":
        return "webp" if content[8:12] == b"WEBP" else "wav"
    if content[4:8] == b"ftyp":
        return "m4a"
    return next((name for start, name in starts.items() if content.startswith(start)), kind)


def thumbnail(source: Any, side: int) -> bytes:
    """Return a picture as JPEG of at most `side` pixels a side."""
    from encoders.media import Limits, open_image

    picture = open_image(source, Limits(max_pixels=100_000_000), side)
    picture.thumbnail((side, side))
    out = BytesIO()
    picture.save(out, "JPEG", quality=82)
    return out.getvalue()
