"""Inputs that are decoded while the model works on those before them, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

CHUNK_BYTES = 64 * 2**20  # of decoded media; long sounds close a chunk before it is full
CPU_BATCH_BYTES = 3 * 2**20  # of decoded media in one forward: a CPU is no faster with more, its caches only overflow
AHEAD = 16  # inputs that may be decoded before they are asked for
WORKERS = 2  # threads that decode while the model runs

Item = TypeVar("Item")
Decoded = TypeVar("Decoded")


def chunks(
    items: Sequence[Item], decode: Callable[[Item], Decoded], size: int, nbytes: Callable[[Decoded], int]
) -> Iterator[list[tuple[Item, Decoded]]]:
    """Yield items with what `decode` made of them, in order, in chunks bounded in number and memory.

    A few are decoded ahead while the model works; more would let a folder of long sounds fill the memory. What was not
    begun is dropped when something goes wrong.

    >>> [[text for _, text in chunk] for chunk in chunks([1, 2, 3], str, 2, len)]
    [['1', '2'], ['3']]
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            yield from _chunks(items, decode, size, nbytes, pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _chunks(
    items: Sequence[Item],
    decode: Callable[[Item], Decoded],
    size: int,
    nbytes: Callable[[Decoded], int],
    pool: ThreadPoolExecutor,
) -> Iterator[list[tuple[Item, Decoded]]]:
    futures = deque(pool.submit(decode, item) for item in items[:AHEAD])
    chunk: list[tuple[Item, Decoded]] = []
    used = 0
    for number, item in enumerate(items):
        decoded = futures.popleft().result()
        if number + AHEAD < len(items):
            futures.append(pool.submit(decode, items[number + AHEAD]))
        chunk.append((item, decoded))
        used += nbytes(decoded)
        if len(chunk) == size or used >= CHUNK_BYTES or number + 1 == len(items):
            yield chunk
            chunk, used = [], 0
