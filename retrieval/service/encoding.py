"""Inputs in, vectors out: fetched, decoded, batched, computed once however often they are asked for.

D: the model's dimension.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from encoders.media import MediaError
from onepeace.reader import InputReader, combined, mean

from .batching import Batcher
from .errors import ApiError, busy, not_ready
from .inputs import Item, ItemPart, Remote
from .metrics import Metrics
from .remote import RemoteMedia
from .worker import ModelWorker, WorkerGoneError

Row = npt.NDArray[np.float32]
DECODERS = 2  # threads
SHORT = 2_000  # characters


@dataclass(frozen=True)
class Encoded:
    """A part's vector, and how many ids its text had."""

    row: Row  # (D,)
    tokens: int


class Turn(NamedTuple):
    """A request's place among others."""

    request: Hashable
    decoding: asyncio.Semaphore  # its many inputs do not fill the queue of the decoding threads


@dataclass
class Shared:
    """A part that is being computed, for however many wait for it."""

    task: asyncio.Task[Encoded]
    waiting: int = 0


class VectorCache:
    """The vectors of the parts that came last, by a hash of their content."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[bytes, Encoded] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> Encoded | None:
        """Return what is kept."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, value: Encoded) -> None:
        """Keep a vector, and let go of those that were used longest ago."""
        if value.row.nbytes > self.max_bytes or key in self._kept:
            return
        self._kept[key] = value
        self._bytes += value.row.nbytes
        while self._bytes > self.max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].row.nbytes


class Encoding:
    """Turns items into unit vectors, for all requests of the service."""

    def __init__(
        self,
        reader: InputReader,
        worker: ModelWorker,
        remote: RemoteMedia,
        metrics: Metrics,
        *,
        cache_bytes: int,
        items_at_once: int,
    ) -> None:
        self.reader, self.worker, self.remote, self.metrics = reader, worker, remote, metrics
        self.batcher = Batcher(self._forward)
        self.items_at_once = items_at_once
        self.items = 0  # that are being worked on
        self._cache = VectorCache(cache_bytes)
        self._computing: dict[bytes, Shared] = {}
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")

    async def encode(self, items: Sequence[Item], request: Hashable) -> list[tuple[Row, int] | ApiError]:
        """Return the unit vector (D,) and the number of ids of each item, or why there is none.

        Raises ApiError where nothing can be computed: too many items at once, or no model.
        """
        parts = sum(len(item) for item in items)
        if self.items and self.items + parts > self.items_at_once:
            raise busy(1, "too many inputs are being worked on: try again soon")
        self.items += parts
        turn = Turn(request, asyncio.Semaphore(DECODERS))
        try:
            return await asyncio.gather(*(self._item(item, turn) for item in items))
        except WorkerGoneError as error:
            raise not_ready(f"{error}: try again soon") from None
        finally:
            self.items -= parts

    async def _item(self, item: Item, turn: Turn) -> tuple[Row, int] | ApiError:
        try:
            parts = await asyncio.gather(*(self._part(part, turn) for part in item))
            row_D = combined([part.row for part in parts], [part.weight for part in item])
        except ApiError as error:
            self.metrics.items.labels(item[0].kind, "refused").inc()
            return error
        except ValueError as error:
            self.metrics.items.labels(item[0].kind, "refused").inc()
            return ApiError(400, str(error), param=item[0].where, code="no_direction")
        self.metrics.items.labels(item[0].kind, "embedded").inc()
        return row_D, sum(part.tokens for part in parts)

    async def fetched(self, part: ItemPart) -> str | bytes:
        """Return what a part holds, from its address where it lies at one. Raises ApiError."""
        if not isinstance(part.content, Remote):
            return part.content
        try:
            return await self.remote.fetch(part.content.url)
        except ApiError as error:
            error.param = part.where
            raise

    async def _part(self, part: ItemPart, turn: Turn) -> Encoded:
        content = await self.fetched(part)
        encoded = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        key = hashlib.blake2b(encoded, digest_size=16, person=part.kind.encode()).digest()
        if (kept := self._cache.get(key)) is not None:
            return kept
        shared = self._computing.get(key)
        if shared is None:
            shared = Shared(asyncio.create_task(self._computed(part.kind, content, turn)))
            self._computing[key] = shared
            shared.task.add_done_callback(lambda task: self._finished(key, task))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)  # one who leaves does not take it from the others who wait
        except MediaError as error:
            raise ApiError(400, str(error), param=part.where, code="unreadable_input") from None
        finally:
            shared.waiting -= 1
            if not shared.waiting and not shared.task.done():  # nobody wants it any more
                del self._computing[key]
                shared.task.cancel()

    def _finished(self, key: bytes, task: asyncio.Task[Encoded]) -> None:
        if key in self._computing and self._computing[key].task is task:
            del self._computing[key]
        if not task.cancelled() and task.exception() is None:
            self._cache.put(key, task.result())

    async def _computed(self, kind: str, content: str | bytes, turn: Turn) -> Encoded:
        windows: list[Any]
        if kind == "text" and len(content) <= SHORT:  # quicker than to hand it to a thread
            windows = self.reader.windows(kind, content)
        else:
            async with turn.decoding:
                loop = asyncio.get_running_loop()
                windows = await loop.run_in_executor(self._decoders, self.reader.windows, kind, content)
        rows_ND = await self.batcher.vectors(turn.request, kind, windows)
        return Encoded(mean(rows_ND), len(windows[0]) if kind == "text" else 0)

    async def _forward(self, modality: str, windows: list[Any]) -> npt.NDArray[np.float32]:
        self.metrics.batch.labels(modality).observe(len(windows))
        with self.metrics.forward.labels(modality).time():
            return await self.worker.embed(modality, windows)

    def close(self) -> None:
        """End the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
