"""Inputs in, vectors out: fetched, decoded, batched, computed once however often they are asked for.

D: the model's dimension.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from encoders.media import MediaError
from onepeace.reader import InputReader, combined, mean

from .batching import Batcher
from .errors import ApiError, busy, not_ready
from .inputs import Item, ItemPart, Remote
from .metrics import Metrics
from .remote import AT_ONCE, RemoteMedia
from .room import Hold, Room
from .threads import Threads
from .together import together
from .worker import ASK, HEAD, ModelWorker, WorkerGoneError

Row = npt.NDArray[np.float32]
DECODERS = 2  # threads
SHORT = 2_000  # characters
PREPARED_BYTES = 256 * 2**20  # of windows that wait for the model
LARGEST = 80 * 2**20  # bytes of the windows of one input, or about so: a sound of ten minutes


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
        self.decoders = Threads("decode", DECODERS)
        self.room_fetched = Room(AT_ONCE * remote.max_bytes)  # until they are decoded
        self.room_prepared = Room(PREPARED_BYTES)

    async def encode(self, items: Sequence[Item], request: Hashable) -> list[tuple[Row, int] | ApiError]:
        """Return the unit vector (D,) and the number of ids of each item, or why there is none.

        Raises ApiError where nothing can be computed: too many items at once, or no model.
        """
        with self.working(sum(len(item) for item in items)):
            turn = Turn(request, asyncio.Semaphore(DECODERS))
            return await together(self._item(item, turn) for item in items)

    @contextmanager
    def working(self, parts: int) -> Iterator[None]:
        """Count what is being worked on. Raises ApiError where it would be too much, and where there is no model."""
        if self.items and self.items + parts > self.items_at_once:
            raise busy(1, "too many inputs are being worked on: try again soon")
        self.items += parts
        try:
            yield
        except WorkerGoneError as error:
            raise not_ready(f"{error}: try again soon") from None
        finally:
            self.items -= parts

    async def _item(self, item: Item, turn: Turn) -> tuple[Row, int] | ApiError:
        try:
            parts = await together(self._part(part, turn) for part in item)
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
        key, known = await self._begun(part, turn)
        if isinstance(known, Encoded):
            return known
        known.waiting += 1
        try:
            return await asyncio.shield(known.task)  # one who leaves does not take it from the others who wait
        except MediaError as error:
            raise ApiError(400, str(error), param=part.where, code="unreadable_input") from None
        finally:
            known.waiting -= 1
            if not known.waiting and not known.task.done():  # nobody wants it any more
                del self._computing[key]
                known.task.cancel()

    async def _begun(self, part: ItemPart, turn: Turn) -> tuple[bytes, Encoded | Shared]:
        """Return a part's key, and its vector or who computes it. What was fetched is held until it is decoded."""
        hold = await self.room_fetched.take(self.remote.max_bytes) if isinstance(part.content, Remote) else None
        try:
            content = await self.fetched(part)
            if hold is not None:
                hold.become(len(content))
            encoded = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            key = hashlib.blake2b(encoded, digest_size=16, person=part.kind.encode()).digest()
            if (kept := self._cache.get(key)) is not None:
                return key, kept
            shared = self._computing.get(key)
            if shared is None:
                shared = Shared(asyncio.create_task(self._computed(part.kind, content, turn, hold)))
                self._computing[key] = shared
                shared.task.add_done_callback(partial(self._finished, key, hold))
                hold = None  # it is the task's now
            return key, shared
        finally:
            if hold is not None:
                hold.release()

    def _finished(self, key: bytes, hold: Hold | None, task: asyncio.Task[Encoded]) -> None:
        if hold is not None:
            hold.release()  # of a task that was cancelled before it began, too
        if key in self._computing and self._computing[key].task is task:
            del self._computing[key]
        if not task.cancelled() and task.exception() is None:
            self._cache.put(key, task.result())

    async def _computed(self, kind: str, content: str | bytes, turn: Turn, hold: Hold | None) -> Encoded:
        if kind == "text" and len(content) <= SHORT:  # quicker than to hand it to a thread
            return await self._embedded(kind, self.reader.windows(kind, content), turn)
        async with turn.decoding:
            prepared = await self.room_prepared.take(LARGEST)
            try:
                windows: list[Any] = await self.decoders.run(self.reader.windows, kind, content)
                prepared.become(sum(window.nbytes for window in windows))
            except BaseException:
                prepared.release()
                raise
        del content
        if hold is not None:
            hold.release()
        try:
            return await self._embedded(kind, windows, turn)
        finally:
            prepared.release()

    async def _embedded(self, kind: str, windows: list[Any], turn: Turn) -> Encoded:
        rows_ND = await self.batcher.vectors(turn.request, kind, windows)
        return Encoded(mean(rows_ND), len(windows[0]) if kind == "text" else 0)

    async def _forward(self, modality: str, windows: list[Any]) -> Any:
        self.metrics.batch.labels(modality).observe(len(windows))
        with self.metrics.forward.labels(modality).time():
            if modality == ASK:
                return await self.worker.ask([window.arrays for window in windows])
            if modality.startswith(HEAD):
                return await self.worker.predict(modality.removeprefix(HEAD), [window.arrays for window in windows])
            return await self.worker.embed(modality, windows)

    def close(self) -> None:
        """End the threads."""
        self.decoders.close()
