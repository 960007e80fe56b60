"""What ordering the nearest by a bank of texts is worth, and what it costs.

    python benchmarks/rerank.py ../shared/data

Each row of the table is one store, of rows that onepeace-tiny was not trained on, and one kind of question; figures are
R@1 in percent: the first hit is the caption's picture, or of the label that is asked for. "Shipped bank" is
`rerank=True`; "without its source" is a bank of the training rows of all other sources, whose texts are not such as
those that are asked. The gallery that ships is one store of pictures and sounds: its captions ask for the very item,
and the column says how many find it among the first five, too. The ratio at the end is of the times of one
search of a picture store by a vector, in turns, medians.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import onepeace
from onepeace.manifest import Shards, read_manifest
from onepeace.query_bank import write_query_bank
from retrieval import Item, ModelTag, Searcher, Store
from retrieval.gallery import GALLERY, read_gallery

TURNS = 200
Row = dict[str, Any]


@dataclass
class Task:
    """Questions (Q, D), what they ask for, and the items (N, D) that are searched."""

    name: str
    source: str
    asked: np.ndarray
    wanted: list[str]
    items: np.ndarray
    labels: list[str]
    same: bool = False  # the questions are the items: each is asked of all others
    first: int = 1  # hits that count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data pack")
    parser.add_argument("--model", default="onepeace-tiny")
    asked = parser.parse_args()
    model, shards = onepeace.load_embedder(asked.model), Shards(asked.data)
    rows = [row for split in ("val", "test") for row in read_manifest(asked.data / f"manifest-{split}.parquet")]
    banks = other_banks(model, asked.data)
    pictures_ND = np.empty((0, model.dimension), np.float32)
    print("| searched | questions | R@1 | shipped bank | without its source |")
    print("| --- | --- | --- | --- | --- |")
    for task in chain(gallery_tasks(model), tasks(model, rows, shards)):
        if task.source == "flickr8k" and not len(pictures_ND):
            pictures_ND = task.items
        used = [None, model.query_bank, *([banks[task.source]] if task.source in banks else [])]
        figures = [f"{right(model, task, bank):.1f}" for bank in used]
        print(f"| {task.name} | {len(task.wanted)} | {' | '.join([*figures, ''][:3])} |", flush=True)
    print_times(model, pictures_ND)


def other_banks(model: Any, data: Path) -> dict[str, np.ndarray]:
    """Return a bank for each source, of the training rows of all others, made as the shipped one."""
    manifest = data / "manifest-train.parquet"
    sources = {row["source"] for row in read_manifest(manifest)}
    banks = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = onepeace.load_embedder(shutil.copytree(model.folder.path, Path(folder) / "copy"))
        for left in sorted(sources):
            write_query_bank(copy, [manifest], where={"source": sorted(sources - {left})}, texts=1500, dimensions=128)
            banks[left] = copy.folder.query_bank()
    return banks


def gallery_tasks(model: Any) -> Iterator[Task]:
    exhibits = read_gallery()
    wrap: dict[str, Any] = {"image": onepeace.Image, "audio": onepeace.Audio}
    vectors = model.encode([wrap[one.modality](GALLERY / one.file) for one in exhibits])
    ids = [one.id for one in exhibits]
    for modality, kind in (("image", "pictures"), ("audio", "sounds")):
        asked = [one for one in exhibits if one.modality == modality]
        words, wanted = model.encode([one.caption for one in asked]), [one.id for one in asked]
        for first, found in ((1, ""), (5, ", in the first five")):
            yield Task(
                f"gallery: all, by captions of {kind}{found}", "gallery", words, wanted, vectors, ids, first=first
            )


def tasks(model: Any, rows: Sequence[Row], shards: Shards) -> Iterator[Task]:
    def of(source: str) -> list[Row]:
        return [row for row in rows if row["source"] == source]

    def media(some: Sequence[Row]) -> np.ndarray:
        return np.asarray(
            model.encode(
                [
                    onepeace.Image(shards.read(row["image"]))
                    if row["image"]
                    else onepeace.Audio(shards.read(row["audio"]))
                    for row in some
                ]
            )
        )

    for source in ("flickr8k", "openclipart"):
        some = of(source)
        pictures = media(some)
        said = [(text["text"], row["id"]) for row in some for text in row["texts"] if text["lang"] == "en"]
        words = model.encode([text for text, _ in said])
        own = [name for _, name in said]
        ids = [row["id"] for row in some]
        yield Task(f"{source}: pictures, by a text", source, words, own, pictures, ids)
        yield Task(f"{source}: texts, by a picture", source, pictures, ids, words, own)
    for source in ("caltech101", "tinyimagenet", "animalsounds", "esc10"):
        some = of(source)
        vectors, labels = media(some), [row["label"] for row in some]
        names = sorted(set(labels))
        kind = "pictures" if some[0]["image"] else "sounds"
        words = model.encode([name.replace("_", " ") for name in names])
        yield Task(f"{source}: {kind}, by the name of a class", source, words, names, vectors, labels)
        yield Task(f"{source}: {kind}, by another of the class", source, vectors, labels, vectors, labels, same=True)


def right(model: Any, task: Task, bank: np.ndarray | None) -> float:
    """Return the share of questions with what is wanted among the hits that count, in percent."""
    with tempfile.TemporaryDirectory() as folder:
        items = [Item(f"{n}", "image", f"{n}") for n in range(len(task.labels))]
        with Store.create(Path(folder) / "s", items, task.items, model=ModelTag.of(model)) as store:
            found = Searcher(store, bank=bank).search_many(task.asked, task.first + 1, rerank=bank is not None)
    hits = [[int(hit.item.id) for hit in some] for some in found]
    if task.same:
        hits = [[hit for hit in some if hit != place] for place, some in enumerate(hits)]
    labels = [[task.labels[hit] for hit in some[: task.first]] for some in hits]
    return 100 * float(np.mean([want in some for some, want in zip(labels, task.wanted, strict=True)]))


def print_times(model: Any, rows_ND: np.ndarray) -> None:
    """Time searches of as many copies of the rows as make 10,000 items, with and without the bank, in turns."""
    many = np.tile(rows_ND, (-(-10_000 // len(rows_ND)), 1))[:10_000]
    taken: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        items = [Item(f"{n}", "image", f"{n}") for n in range(len(many))]
        with Store.create(Path(folder) / "s", items, many, model=ModelTag.of(model)) as store:
            searcher = Searcher(store, model)
            for turn in range(TURNS):
                for rerank, times in taken.items():
                    begun = time.perf_counter()
                    searcher.search(rows_ND[turn], 10, rerank=rerank)
                    times.append(time.perf_counter() - begun)
    plain, anew = (1000 * median(times) for times in taken.values())
    print(f"\n10,000 pictures: {plain:.2f} ms a search, {anew:.2f} ms with the bank")
    print(f"ratio of times, with the bank / without: {anew / plain:.2f}")


if __name__ == "__main__":
    main()
