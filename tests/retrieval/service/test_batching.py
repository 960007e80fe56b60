"""Batches: of one modality, in bounds, in turns; what fails fails alone."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from retrieval.service.batching import AT_ONCE, BATCH_BYTES, BATCH_WINDOWS, TURN, Batcher


class Model:
    """Stands in for the worker: a window's vector is its mean, and batches wait until they are let through."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[Any]]] = []
        self.let_through = asyncio.Event()

    async def run(self, modality: str, windows: list[Any]) -> Any:
        self.batches.append((modality, windows))
        await self.let_through.wait()
        if any(float(window[0]) < 0 for window in windows):
            raise RuntimeError("a window that the model cannot bear")
        return np.stack([[float(window.mean())] for window in windows])


def windows(*values: float, size: int = 4) -> list[Any]:
    return [np.full(size, value, np.float32) for value in values]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_an_idle_model_gets_a_window_at_once_and_a_busy_one_gets_many() -> None:
    async def scene() -> None:
        model = Model()
        batcher = Batcher(model.run)
        batcher.start()
        asked = []
        for n in range(12):
            asked.append(asyncio.create_task(batcher.vectors(n, "text", windows(n))))
            await settle()
        assert [len(units) for _, units in model.batches] == [1] * AT_ONCE  # some are computed, one waits behind them
        assert batcher.waiting == 12 - AT_ONCE
        model.let_through.set()
        rows = await asyncio.gather(*asked)
        assert [float(row[0, 0]) for row in rows] == list(range(12))
        assert [len(units) for _, units in model.batches] == [1] * AT_ONCE + [12 - AT_ONCE]
        await batcher.close()

    asyncio.run(scene())


def test_batches_hold_one_modality_and_no_more_than_they_may() -> None:
    async def scene() -> None:
        model = Model()
        model.let_through.set()
        batcher = Batcher(model.run)
        large = BATCH_BYTES // 4 // 3  # three and a bit fill a batch
        asked = [
            *(batcher.vectors(f"t{n}", "text", windows(*range(40))) for n in range(4)),
            *(batcher.vectors(f"p{n}", "image", windows(n, size=large)) for n in range(8)),
            batcher.vectors("s", "audio", windows(7, size=2 * BATCH_BYTES)),  # larger than a batch: goes alone
        ]
        gathered = asyncio.gather(*asked)
        await settle()
        batcher.start()
        rows = await gathered
        assert [float(row[0, 0]) for row in rows[4:]] == [*range(8), 7]
        for modality, units in model.batches:
            assert modality in ("text", "image", "audio")
            assert len(units) <= BATCH_WINDOWS
            assert len(units) == 1 or sum(unit.nbytes for unit in units) <= BATCH_BYTES
        sizes = {kind: [len(units) for of, units in model.batches if of == kind] for kind in ("text", "image", "audio")}
        assert sizes == {"text": [128, 32], "image": [3, 3, 2], "audio": [1]}
        # Who waits longest goes first; the texts, which came first, go on when all others have had a turn.
        assert [kind for kind, _ in model.batches] == ["text", "image", "image", "image", "audio", "text"]
        await batcher.close()

    asyncio.run(scene())


def test_a_request_of_one_is_not_behind_a_request_of_hundreds() -> None:
    async def scene() -> None:
        model = Model()
        batcher = Batcher(model.run)
        many = asyncio.create_task(batcher.vectors("many", "text", windows(*range(500))))
        await settle()
        one = asyncio.create_task(batcher.vectors("one", "text", windows(1000)))
        await settle()
        batcher.start()
        model.let_through.set()
        assert float((await one)[0, 0]) == 1000.0
        assert [float(unit.mean()) for unit in model.batches[0][1]].index(1000.0) == TURN
        np.testing.assert_array_equal((await many)[:, 0], range(500))
        await batcher.close()

    asyncio.run(scene())


def test_a_failing_batch_fails_those_in_it_and_a_request_that_left_is_not_computed() -> None:
    async def scene() -> None:
        model = Model()
        batcher = Batcher(model.run)
        batcher.start()
        first = []
        for n in (-1, *range(1, AT_ONCE)):
            first.append(asyncio.create_task(batcher.vectors(n, "text", windows(n))))
            await settle()
        left = asyncio.create_task(batcher.vectors("left", "text", windows(5)))
        stayed = asyncio.create_task(batcher.vectors("stayed", "text", windows(6)))
        await settle()
        left.cancel()
        await settle()
        model.let_through.set()
        with pytest.raises(RuntimeError, match="cannot bear"):
            await first[0]
        assert float((await first[1])[0, 0]) == 1.0
        assert float((await stayed)[0, 0]) == 6.0
        assert [float(unit[0]) for _, units in model.batches for unit in units] == [-1, *range(1, AT_ONCE), 6]
        assert batcher.waiting == 0
        await batcher.close()

    asyncio.run(scene())
