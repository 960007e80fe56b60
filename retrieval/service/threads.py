"""Threads, a few for each kind of work, so that no kind waits behind another and nothing that hangs holds them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from .errors import not_ready

Result = TypeVar("Result")
MOST_LEFT = 16  # threads that go on after their request was given up


class Threads:
    """Threads of which `count` work at once.

    A thread cannot be stopped: work that its request no longer waits for goes on to its end, and another thread takes
    its place. Work that had not begun never does.
    """

    def __init__(self, name: str, count: int) -> None:
        self._turns = asyncio.Semaphore(count)
        self._pool = ThreadPoolExecutor(count + MOST_LEFT, thread_name_prefix=name)
        self._left: set[Future[Any]] = set()

    @property
    def left(self) -> int:
        """How many threads are busy with what was given up."""
        self._left = {work for work in self._left if not work.done()}
        return len(self._left)

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run something in a thread. Raises what it raises; ApiError where too many threads hang."""
        async with self._turns:
            if self.left >= MOST_LEFT:
                raise not_ready("too much that was given up is still running: try again later")
            running = self._pool.submit(work, *arguments)
            try:
                return await asyncio.wrap_future(running)
            except asyncio.CancelledError:
                if not running.done():
                    self._left.add(running)
                raise

    def close(self) -> None:
        """Wait for what runs, unless it was given up."""
        self._pool.shutdown(wait=not self.left, cancel_futures=True)
