"""Forward passes side by side on a processor, each with its share of the threads.

Two passes of one thread each get more done than one pass of two threads: no product waits for its slowest part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

MOST = 4  # lanes, however many cores there are


class Lanes:
    """Lets so many threads compute at once. A thread alone has all of torch's threads, several divide them.

    >>> lanes = Lanes(2)
    >>> with lanes.one():
    ...     torch.zeros(2, 2).sum().item()
    0.0
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._room = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._busy = 0

    @classmethod
    def for_device(cls, device: torch.device, reentrant: bool) -> Lanes:
        """Return one lane where buffers are kept between passes or the device runs one after the other anyway."""
        return cls(max(1, min(MOST, torch.get_num_threads())) if device.type == "cpu" and reentrant else 1)

    @contextmanager
    def mapping(self) -> Iterator[Callable[..., Iterator[Any]]]:
        """Give a `map` with a thread for each lane. Its threads stay to the end: oneDNN keeps buffers for each.

        >>> with Lanes(2).mapping() as run:
        ...     list(run(abs, [-1, -2, 3]))
        [1, 2, 3]
        """
        if self.count == 1:
            yield map
            return
        with ThreadPoolExecutor(self.count, thread_name_prefix="lane") as pool:
            yield pool.map

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a lane. The calling thread's number of torch threads is as before at the end."""
        with self._room:
            with self._lock:
                self._busy += 1
                busy = self._busy
            threads = torch.get_num_threads()
            share = max(1, threads // busy)
            if share != threads:  # also the number that new threads begin with, so it is set back
                torch.set_num_threads(share)
            try:
                yield
            finally:
                if share != threads:
                    torch.set_num_threads(threads)
                with self._lock:
                    self._busy -= 1
