"""What a store's adds, deletes, openings and recoveries cost as it grows.

    python benchmarks/store.py [--rows 200000] [--precision float32] [--chart FILE.svg] [--json FILE]

Items come in batches of 512. Every tenth of the way it measures, medians of several where that is cheap: adding a batch
and deleting ten items (each on the disk when it returns, lock held), another reader's refresh, closing, opening
(checksums not compared), opening after a writer was killed (SIGKILL) and the last 20 batches are in the journal only, a
snapshot, and compacting a copy. Under the table: how each grows with the number of items, as the exponent of a power
(0: not at all, 1: in proportion).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lines import picture

from onepeace.bench.measure import machine_facts
from retrieval import Item, ModelTag, Store
from retrieval.snapshot import snapshot
from retrieval.vectors import unit_rows

DIMENSION, BATCH = 512, 512
MEASURED = ("add 512", "delete 10", "refresh", "close", "open", "recover", "snapshot", "compact")


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def items_from(first: int, count: int) -> list[Item]:
    return [Item(f"{n}", "image", f"/x/{n}.jpg", {"n": n}) for n in range(first, first + count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--chart", type=Path, help="draw it, as an SVG picture")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts = machine_facts()
    print(*(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    print(f"{'items':>10}  " + "  ".join(f"{name:>9}" for name in MEASURED) + "   (ms)")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURED}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        tag = ModelTag("generated", "0" * 16, DIMENSION)
        Store.create(folder, model=tag, kind="exact", precision=arguments.precision).close()
        for part in range(1, 11):
            items, seconds = one_part(folder, arguments.rows * part // 10)
            for name, value in zip(MEASURED, seconds, strict=True):
                found[name].append((items, 1000 * value))
            print(f"{items:10,}  " + "  ".join(f"{1000 * value:9.1f}" for value in seconds), flush=True)
    exponents = {name: np.polyfit(*np.log(line).T, 1)[0] for name, line in found.items()}
    print("  exponent  " + "  ".join(f"{exponents[name]:9.2f}" for name in MEASURED))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "milliseconds": found}, indent=1), encoding="utf-8")
    if arguments.chart:
        title = f"A store of {DIMENSION} dimensions ({arguments.precision}) as it grows"
        below = f"{facts['processor']}, {facts['threads']} threads"
        drawn = picture(title, below, ("items", "milliseconds"), found, (True, True))
        arguments.chart.write_text(drawn, encoding="utf-8")


def one_part(folder: Path, rows: int) -> tuple[int, list[float]]:
    """Grow the store to so many rows; return how many it has, and seconds in the order of MEASURED."""
    rng = np.random.default_rng(0)
    vectors_ND = unit_rows(rng.standard_normal((BATCH, DIMENSION), dtype=np.float32), DIMENSION)
    with Store.open(folder, verify=False) as store, Store.open(folder, verify=False) as reader:
        number = len(store.current.vectors)
        with store.writing() as writer:
            adds, refreshes = [], []
            while number < rows or len(adds) < 10:
                some = items_from(number, BATCH)
                adds.append(timed(lambda some=some: writer.add(some, vectors_ND)))
                if len(adds) % 3 == 0:
                    refreshes.append(timed(reader.refresh))
                number += BATCH
            deletes = [
                timed(lambda names=names: writer.delete(names))
                for names in np.arange(number - 400, number - 300).astype(str).reshape(10, 10).tolist()
            ]
            end = time.perf_counter()
        closing = time.perf_counter() - end
    opens = [timed(lambda: Store.open(folder, verify=False).close()) for _ in range(5)]
    recovering = recover(folder, number)
    copy = folder.with_name("copy")
    with Store.open(folder, verify=False) as store:
        copying = timed(lambda: snapshot(store, copy))
    with Store.open(copy, verify=False) as store, store.writing() as writer:
        compacting = timed(writer.compact)
    shutil.rmtree(copy)
    last = (statistics.median(times) for times in (adds[-30:], deletes, refreshes[-10:]))
    return number, [*last, closing, statistics.median(opens), recovering, copying, compacting]


def recover(folder: Path, first: int) -> float:
    """Return how long opening takes after a writer was killed whose last 20 batches are not in the catalog."""
    catalog = next(folder.rglob("catalog.sqlite"))
    aside = folder.with_name("catalog.aside")
    shutil.copyfile(catalog, aside)
    writer = multiprocessing.get_context("spawn").Process(target=write_and_die, args=(folder, first))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    for leftover in catalog.parent.glob("catalog.sqlite-*"):
        leftover.unlink()
    os.replace(aside, catalog)  # as if the disk had none of what the catalog was told last
    return timed(lambda: Store.open(folder, verify=False).close())


def write_and_die(folder: Path, first: int) -> None:
    vectors_ND = unit_rows(np.random.default_rng(1).standard_normal((BATCH, DIMENSION)), DIMENSION)
    store = Store.open(folder, verify=False)
    with store.writing() as writer:
        for start in range(first, first + 20 * BATCH, BATCH):
            writer.add(items_from(start, BATCH), vectors_ND)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
