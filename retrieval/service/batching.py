"""Micro-batches: what waits for the model goes through it together; no request waits behind another's many items."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .worker import LANES, Row

Rows = npt.NDArray[np.float32]
Run = Callable[[str, list[Any]], Awaitable[Any]]  # one answer a window, which may be the rows of a matrix
BATCH_BYTES = 3 * 2**20  # of prepared windows in one batch: a CPU is no faster with more, and others wait for it
BATCH_WINDOWS = 128
TURN = 16  # windows of one request in a batch, before others have their turn
AT_ONCE = LANES + 1  # batches that are sent to the model: some are computed, one waits in the pipe


class Unit(NamedTuple):
    """A prepared window that waits for its vector, or a row of a question that waits for its numbers."""

    window: Any  # with `nbytes`
    answer: asyncio.Future[Any]


class Bundle:
    """The arrays of a row of a question, which wait together: `Row` of the worker."""

    def __init__(self, arrays: Row) -> None:
        self.arrays = arrays
        self.nbytes = sum(array.nbytes for some in arrays.values() for array in some)


class Queue(NamedTuple):
    """What a request has waiting."""

    units: deque[Unit]
    since: float  # when it came, or last had a turn


class Batcher:
    """Gathers windows of one modality, rows for one head, or asked sequences into batches while the model is busy.

    An idle model gets what there is at once; under load batches fill by themselves. Requests take turns, some
    windows each; of the modalities the one goes first whose request has waited longest for its turn.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.waiting = 0  # windows
        self._queues: dict[str, dict[Hashable, Queue]] = {}  # by modality, then by request
        self._something = asyncio.Event()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to hand batches on, in the running event loop."""
        self._loop = asyncio.create_task(self._serve(), name="batcher")

    async def close(self) -> None:
        """Stop. What still waits is cancelled."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        for queues in self._queues.values():
            for queue in queues.values():
                for unit in queue.units:
                    unit.answer.cancel()

    async def vectors(self, request: Hashable, modality: str, windows: Sequence[Any]) -> Rows:
        """Return the rows (N, D) of N windows of one request. Raises what the model raised for their batch."""
        return np.stack(await self.answers(request, modality, windows))

    async def answers(self, request: Hashable, modality: str, windows: Sequence[Any]) -> list[Any]:
        """Return what the model says of each window of one request. Raises what it raised for their batch."""
        loop = asyncio.get_running_loop()
        units = [Unit(window, loop.create_future()) for window in windows]
        queues = self._queues.setdefault(modality, {})
        queues.setdefault(request, Queue(deque(), time.monotonic())).units.extend(units)
        self.waiting += len(units)
        self._something.set()
        try:
            return list(await asyncio.gather(*(unit.answer for unit in units)))
        finally:
            for unit in units:
                unit.answer.cancel()  # of a request that was given up; done ones do not mind

    async def _serve(self) -> None:
        while True:
            await self._room.acquire()
            await self._something.wait()
            modality, units = self._next()
            if not units:
                self._something.clear()
                self._room.release()
                continue
            task = asyncio.create_task(self._one(modality, units))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next(self) -> tuple[str, list[Unit]]:
        """Take the next batch out of the queues; an empty one when nothing waits."""
        # The first request of a modality is the one that has waited longest since it came or had a turn.
        for modality in sorted(self._queues, key=lambda kind: next(iter(self._queues[kind].values())).since):
            queues = self._queues[modality]
            units: list[Unit] = []
            room = BATCH_BYTES
            while queues and len(units) < BATCH_WINDOWS:
                request, queue = next(iter(queues.items()))
                turn = 0
                while queue.units and turn < TURN and len(units) < BATCH_WINDOWS:
                    unit = queue.units[0]
                    if units and unit.window.nbytes > room:
                        break
                    queue.units.popleft()
                    self.waiting -= 1
                    if not unit.answer.done():
                        units.append(unit)
                        room -= unit.window.nbytes
                        turn += 1
                if not turn and queue.units:
                    break  # no room for this one: it is first in the next batch
                del queues[request]
                if queue.units:
                    queues[request] = Queue(queue.units, time.monotonic())  # behind the others
            if not queues:
                del self._queues[modality]
            if units:
                return modality, units
        return "", []

    async def _one(self, modality: str, units: list[Unit]) -> None:
        try:
            rows = await self.run(modality, [unit.window for unit in units])
        except Exception as error:
            for unit in units:
                if not unit.answer.done():
                    unit.answer.set_exception(error)
        else:
            for unit, row in zip(units, rows, strict=True):
                if not unit.answer.done():
                    unit.answer.set_result(row)
        finally:
            self._room.release()
