"""Searching from four threads while one writes, for a minute: every answer is right for some moment of the search."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval import Item, ModelTag, Searcher, Store, unit_rows
from retrieval import writer as writing
from retrieval.integrity import problems

MOST, WIDTH, KINDS, K = 200_000, 16, 5, 10
NEVER = 2**62


class History:
    """Every item that ever was: its vector, and the numbers of the writes that brought it and took it away."""

    def __init__(self) -> None:
        self.vectors = unit_rows(np.random.default_rng(0).normal(size=(MOST, WIDTH)), WIDTH)
        self.added = np.full(MOST, NEVER)
        self.deleted = np.full(MOST, NEVER)
        self.items = 0
        self.begun = self.done = 0  # the last write that was begun, and the last that came back

    def live(self, number: int, items: int) -> np.ndarray:
        return (self.added[:items] <= number) & (self.deleted[:items] > number)


def write(store: Store, history: History, goes_on: Callable[[], bool]) -> dict[str, int]:
    """Add, delete and compact; return how often each was done."""
    draws, counts = random.Random(1), {"add": 0, "delete": 0, "compact": 0}
    with store.writing() as writer:
        while goes_on() and history.items < MOST - 100:
            number = history.begun + 1
            if draws.random() < 0.01 and history.items > 500:
                kind = "compact"
                writer.compact()
            elif draws.random() < 0.7 or history.items < 200:
                kind, first = "add", history.items
                end = first + draws.randint(1, 64)
                history.added[first:end] = number
                history.items, history.begun = end, number
                items = [Item(f"{n}", "text", "x", {"kind": n % KINDS}) for n in range(first, end)]
                writer.add(items, history.vectors[first:end])
            else:
                kind = "delete"
                there = np.flatnonzero(history.live(history.done, history.items))
                gone = draws.sample(there.tolist(), min(len(there), draws.randint(1, 40)))
                history.deleted[gone] = number
                history.begun = number
                writer.delete([f"{n}" for n in gone])
            history.done = history.begun
            counts[kind] += 1
    return counts


def look(store: Store, history: History, seed: int, done: threading.Event, recalls: list[float]) -> None:
    """Search, and compare with all items that were there at one of the moments in between."""
    rng, searcher, turn = np.random.default_rng(seed), Searcher(store), 0
    while not done.is_set():
        turn += 1
        query = unit_rows(rng.normal(size=WIDTH), WIDTH)[0]
        kind = turn % (KINDS + 1)  # the last stands for none
        filtered = kind < KINDS and history.done > 100
        first = history.done
        hits = searcher.search(query, K, where=f"kind={kind}" if filtered else None)
        last, items = history.begun, history.items
        found = np.array([int(hit.item.id) for hit in hits], np.int64)
        true = history.vectors[:items] @ query
        np.testing.assert_allclose([hit.score for hit in hits], true[found], atol=1e-5)
        assert (np.diff([hit.score for hit in hits]) <= 0).all()
        best = -1.0
        for number in range(first, last + 1):
            counted = history.live(number, items)
            if filtered:
                counted &= np.arange(items) % KINDS == kind
            expected = np.flatnonzero(counted)
            expected = expected[np.argsort(-true[expected])][:K]
            if counted[found].all() and len(found) == len(expected):
                best = max(best, len(np.intersect1d(found, expected)) / len(expected) if len(expected) else 1)
        assert best >= 0, f"{found} were never there together, writes {first} to {last}"
        if filtered:
            assert best == 1, f"writes {first} to {last}"  # few items are compared one by one
        else:
            recalls.append(best)


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_every_answer_is_right_for_some_moment_of_the_search(
    seconds: float, tmp_path: Path, tag: ModelTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 64_000)  # a thousand items
    monkeypatch.setattr(writing, "TAIL_ROWS", 200)  # merged beside the rest, again and again
    merges: list[str] = []
    merge = writing.StoreWriter.merge

    def counted(self: writing.StoreWriter, *args: object, **kwargs: object) -> None:
        merge(self, *args, **kwargs)  # type: ignore[arg-type]
        merges.append(threading.current_thread().name)

    monkeypatch.setattr(writing.StoreWriter, "merge", counted)
    store = Store.create(tmp_path / "s", model=tag, kind="ivf-sq", recall=0.95)
    history, done = History(), threading.Event()
    recalls: list[float] = []
    errors: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            look(store, history, seed, done, recalls)
        except BaseException as error:
            errors.append(error)

    until = time.monotonic() + seconds
    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        counts = write(store, history, lambda: time.monotonic() < until or "onepeace-merge" not in merges)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    print(counts, "merges", len(merges), "searches without a filter", len(recalls), "recall", np.mean(recalls))
    assert min(counts.values()) > 0 or seconds < 60
    assert np.mean(recalls) > 0.9
    assert {int(item.id) for item in store.catalog} == set(
        np.flatnonzero(history.live(history.done, history.items)).tolist()
    )
    assert not problems(store.folder)
