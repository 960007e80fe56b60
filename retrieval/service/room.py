"""Memory that all requests share: so many bytes, and who needs more than are left waits for his turn."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """Bytes that may be held at once. Where nothing is held, anything has room."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, count: int) -> Hold:
        """Return a hold of `count` bytes once there is room, the first that asked first.

        Who holds some must not wait for more: two who did could wait for each other.
        """
        if self._waiting or not self._has(count):
            asked = count, asyncio.get_running_loop().create_future()
            self._waiting.append(asked)
            try:
                await asked[1]
            except asyncio.CancelledError:
                if asked[1].cancelled():
                    self._waiting.remove(asked)
                else:  # it had its turn already
                    self.held -= count
                self._admit()
                raise
        else:
            self.held += count
        return Hold(self, count)

    def take_now(self, count: int) -> Hold | None:
        """Return a hold of `count` bytes; None where there is no room."""
        if self._waiting or not self._has(count):
            return None
        self.held += count
        return Hold(self, count)

    def give_back(self, count: int) -> None:
        """Let others have some."""
        self.held -= count
        self._admit()

    def _has(self, count: int) -> bool:
        return not self.held or self.held + count <= self.size

    def _admit(self) -> None:
        while self._waiting and self._has(self._waiting[0][0]):
            count, turn = self._waiting[0]
            if not turn.done():
                self.held += count
                turn.set_result(None)
            self._waiting.popleft()


class Hold:
    """What one holds of a room."""

    def __init__(self, room: Room, count: int) -> None:
        self._room, self._count = room, count

    def become(self, count: int) -> None:
        """Hold as much as it turned out to be."""
        before, self._count = self._count, count
        self._room.give_back(before - count)

    def release(self) -> None:
        """Hold nothing any more; twice is as good as once."""
        self.become(0)
