"""Texts that ask sequences: files of a store, or an album that comes with a request, in the batches of embeddings.

N: items of a sequence, D: the model's dimension.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from onepeace.checkpoint import CheckpointError
from onepeace.sequences import Reading
from retrieval.asking import Album, album_of, answers, near_files
from retrieval.filters import Where
from retrieval.search import AskedHit

from .batching import Bundle
from .encoding import LARGEST, Encoding
from .errors import ApiError
from .indexes import ServedIndex
from .threads import Threads
from .together import together
from .worker import ASK

Row = npt.NDArray[np.float32]


class Asking:
    """Asks sequences, for all requests of the service."""

    def __init__(self, encoding: Encoding, searching: Threads) -> None:
        self.encoding, self.searching = encoding, searching
        try:
            encoding.reader.folder.sequence_config()
            self.possible = True  # the model has a tower that reads sequences
        except CheckpointError:
            self.possible = False

    def check(self) -> None:
        """Refuse a model that reads no sequences. Raises ApiError."""
        if not self.possible:
            name = self.encoding.reader.name
            why = f"{name} has no sequence tower, so it cannot be asked: train one, or serve onepeace-tiny"
            raise ApiError(400, why, code="invalid_search")

    async def files(
        self, index: ServedIndex, text: str, text_D: Row, top_k: int, where: Where | None, request: Hashable
    ) -> list[AskedHit]:
        """Return the part of each file of a store that answers, as `Searcher.ask` does; `text_D` is the text's vector.

        Raises ValueError for a filter that cannot be read or names an unknown field, and ApiError where nothing can be
        computed.
        """
        near = await self.searching.run(near_files, index.searcher, text_D[None], top_k, where)
        turn = asyncio.Semaphore(1)  # one file is read after the other, so that others' searches come between
        with self.encoding.working(len(near)):
            found = await together(self._file(index, uri, text, text_D, request, turn) for uri in near)
        return answers([one for one in found if one is not None], top_k)

    async def _file(
        self, index: ServedIndex, uri: str, text: str, text_D: Row, request: Hashable, turn: asyncio.Semaphore
    ) -> tuple[Album, Reading] | None:
        with ExitStack() as held:  # what was read, until the model has answered
            async with turn:
                room = await self.encoding.room_prepared.take(LARGEST)
                held.callback(room.release)
                album = await self.searching.run(album_of, index.store.current, uri, text_D[None])
                room.become(album.vectors.nbytes)
            if not album.items:  # it was taken out meanwhile
                return None
            return album, await self._read(text, album.vectors, request)

    async def album(self, text: str, rows_ND: Row, request: Hashable) -> Reading:
        """Return what items with these vectors say to a text. Raises ApiError where nothing can be computed."""
        with self.encoding.working(1):
            return await self._read(text, rows_ND, request)

    async def _read(self, text: str, rows_ND: Row, request: Hashable) -> Reading:
        question = Bundle({"text": self.encoding.reader.windows("text", text), "items": [rows_ND]})
        [reading] = await self.encoding.batcher.answers(request, ASK, [question])
        self.encoding.metrics.items.labels(ASK, "answered").inc()
        return reading
