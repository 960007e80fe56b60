"""Encoding beside an event loop and in threads, and the windows of a sound."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import onepeace
from onepeace import Audio, Embedder, Image, MediaError, Window

RNG = np.random.default_rng(4)
NOISE = (RNG.normal(size=16_000 * 5) * 0.1).astype(np.float32)
VALUES: list[Any] = [
    "a dog",
    Image(RNG.integers(0, 255, (40, 60, 3), dtype=np.uint8)),
    Audio(NOISE, 16_000),
    ["rain", "the cat of the night"],
]


def test_concurrent_calls_give_what_encode_gives(embedder: Embedder) -> None:
    async def together() -> list[Any]:
        return await asyncio.gather(*(embedder.aencode(value, batch_size=2) for value in VALUES * 3))

    for found, value in zip(asyncio.run(together()), VALUES * 3, strict=True):
        np.testing.assert_allclose(found, embedder.encode(value), atol=1e-6)


def test_options_and_errors_are_those_of_encode(embedder: Embedder) -> None:
    row = asyncio.run(embedder.aencode("a dog", truncate_dim=16, precision="int8"))
    np.testing.assert_array_equal(row, embedder.encode("a dog", truncate_dim=16, precision="int8"))
    with pytest.raises(TypeError, match="did you mean truncate_dim"):
        asyncio.run(embedder.aencode("a dog", truncate=16))
    with pytest.raises(MediaError, match="cannot read image"):
        asyncio.run(embedder.aencode(Image(b"nothing")))


def test_a_model_that_was_used_can_be_copied_and_sent_to_another_process(embedder: Embedder) -> None:
    row = asyncio.run(embedder.aencode("a dog"))
    embedder.encode_tokens("a dog")
    for other in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        np.testing.assert_array_equal(asyncio.run(other.aencode("a dog")), row)
        assert len(other.encode_tokens("a dog")) == 2


class Watched:
    """Counts forward passes, and how many run at once; each waits for `go`."""

    def __init__(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes = self.running = self.most = 0
        self.begun, self.go = threading.Event(), threading.Event()
        embed = embedder.model.embed

        def watched(*args: Any) -> Any:
            self.passes += 1
            self.running += 1
            self.most = max(self.most, self.running)
            self.begun.set()
            self.go.wait(30)
            try:
                return embed(*args)
            finally:
                self.running -= 1

        monkeypatch.setattr(embedder.model, "embed", watched)


def test_one_forward_pass_runs_at_a_time_however_it_is_called(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(embedder, monkeypatch)
    watched.go.set()
    with ThreadPoolExecutor(4) as pool:
        async_rows = pool.submit(asyncio.run, embedder.aencode(["a dog", "rain"] * 4, batch_size=1))
        rows = list(pool.map(lambda _: embedder.encode(["a dog", "rain"] * 4, batch_size=1), range(3)))
    for found in [async_rows.result(), *rows]:
        np.testing.assert_allclose(found, rows[0], atol=1e-6)
    assert (watched.passes, watched.most) == (32, 1)


def test_a_cancelled_call_stops_after_its_batch_and_one_that_waits_never_starts(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(embedder, monkeypatch)

    async def cancel() -> Any:
        running = asyncio.create_task(embedder.aencode(["a dog", "rain", "a cat"], batch_size=1))
        waiting = asyncio.create_task(embedder.aencode("a street"))
        await asyncio.to_thread(watched.begun.wait, 30)
        for task in (running, waiting):
            task.cancel()
        for task in (running, waiting):
            with pytest.raises(asyncio.CancelledError):
                await task
        watched.go.set()
        return await embedder.aencode("a bird")  # behind them

    row = asyncio.run(cancel())
    assert watched.passes == 2  # the batch that ran, and the bird
    np.testing.assert_allclose(row, embedder.encode("a bird"), atol=1e-6)


def test_windows_have_times_and_the_vectors_that_the_sound_is_made_of(embedder: Embedder) -> None:
    windows = embedder.encode_windows(Audio(NOISE, 16_000))
    assert [(window.start, window.end) for window in windows] == [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)]
    many = embedder.encode_many([Audio(NOISE, 16_000)], windows=True)
    np.testing.assert_allclose(np.stack([window.vector for window in windows]), many.vectors, atol=1e-6)
    whole = np.mean([window.vector for window in windows], axis=0)
    np.testing.assert_allclose(whole / np.linalg.norm(whole), embedder.encode(Audio(NOISE, 16_000)), atol=1e-6)


def test_several_sounds_give_a_list_each(embedder: Embedder) -> None:
    short = {"array": NOISE[:4_800], "sampling_rate": 16_000}
    long, one = embedder.encode_windows([Audio(NOISE, 16_000), short])
    assert len(long) == 3
    assert isinstance(one[0], Window)
    assert [(window.start, window.end) for window in one] == [(0.0, 0.3)]  # what is repeated does not count
    np.testing.assert_allclose(one[0].vector, embedder.encode(short), atol=1e-5)
    assert embedder.encode_windows([]) == []
    with pytest.raises(MediaError, match="input 1"):
        embedder.encode_windows([short, b"nothing"])
    with pytest.raises(TypeError, match="wanted Audio"):
        embedder.encode_windows([onepeace.Text("a dog")])
