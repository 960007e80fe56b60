"""Memory that the service and its worker share: windows are written there once, where a pipe would carry every byte."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SLOT_BYTES = 8 * 2**20  # more than a batch takes
ALIGNED = 64  # bytes


class Place(NamedTuple):
    """Where an array lies."""

    start: int  # bytes from the beginning of the memory
    shape: tuple[int, ...]
    dtype: str


class Slots:
    """A piece of shared memory in equal slots, each for the windows of one batch."""

    def __init__(self, count: int, slot_bytes: int = SLOT_BYTES) -> None:
        self.slot_bytes = slot_bytes
        self._memory = SharedMemory(create=True, size=count * slot_bytes)
        self._free = list(range(count))

    @property
    def name(self) -> str:
        """What `attached` takes in another process."""
        return self._memory.name

    def write(self, arrays: Sequence[npt.NDArray[np.generic]]) -> tuple[int, list[Place]] | None:
        """Copy arrays into a free slot; return the slot and their places. None: no slot is free, or so large."""
        needed = sum(-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays)
        if not self._free or needed > self.slot_bytes:
            return None
        slot = self._free.pop()
        places, start = [], slot * self.slot_bytes
        for array in arrays:
            place = Place(start, array.shape, array.dtype.str)
            array_at(self._memory, place)[...] = array
            places.append(place)
            start += -(-array.nbytes // ALIGNED) * ALIGNED
        return slot, places

    def release(self, slot: int) -> None:
        """Let a slot be written again."""
        self._free.append(slot)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        self._memory.unlink()


def array_at(memory: SharedMemory, place: Place) -> npt.NDArray[np.generic]:
    """Return the array of a place, without a copy."""
    assert memory.buf is not None  # it is open
    flat = np.frombuffer(memory.buf, place.dtype, prod(place.shape), place.start)
    return flat.reshape(place.shape)
