"""What a store's adds, deletes, openings and recoveries cost as it grows.

    python benchmarks/store.py [--rows 200000] [--precision float32] [--chart FILE.svg]

Items come in batches of 512. Every tenth of the way it measures, in medians of several: adding a batch and deleting ten
items (each on the disk when it returns, lock held), opening (checksums not compared), opening after a crash with 20
batches in the journal only, and closing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from onepeace.bench.measure import machine_facts
from retrieval import Item, ModelTag, Store
from retrieval.vectors import unit_rows

DIMENSION, BATCH = 512, 512


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    print(*(f"{name}: {value}" for name, value in machine_facts().items()), sep="\n")
    rng = np.random.default_rng(0)
    vectors_ND = unit_rows(rng.standard_normal((BATCH, DIMENSION), dtype=np.float32), DIMENSION)
    number, first, last = 0, 0.0, 0.0
    print(f"{'items':>10}  {'add 512':>9}  {'delete 10':>9}  {'open':>9}  {'recover':>9}  {'close':>9}   (ms)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        tag = ModelTag("generated", "0" * 16, DIMENSION)
        Store.create(folder, model=tag, kind="exact", precision=arguments.precision).close()
        for part in range(1, 11):
            with Store.open(folder, verify=False) as store:
                with store.writing() as writer:
                    adds = []
                    while number < arguments.rows * part // 10 or len(adds) < 10:
                        items = [Item(f"{n}", "image", f"/x/{n}.jpg", {"n": n}) for n in range(number, number + BATCH)]
                        adds.append(timed(lambda items=items: writer.add(items, vectors_ND)))
                        number += BATCH
                    deletes = [
                        timed(lambda names=names: writer.delete(names))
                        for names in np.arange(number - 1_000, number - 900).astype(str).reshape(10, 10).tolist()
                    ]
                    end = time.perf_counter()
                closing = time.perf_counter() - end
            opens = [timed(lambda: Store.open(folder, verify=False).close()) for _ in range(5)]
            recovering = recover(folder, number, vectors_ND)
            number += 20 * BATCH
            values = [statistics.median(adds[-30:]), statistics.median(deletes), statistics.median(opens)]
            first, last = first or values[0], values[0]
            line = "  ".join(f"{1000 * value:9.1f}" for value in (*values, recovering, closing))
            print(f"{number:10,}  {line}", flush=True)
    print(f"ratio of an add, last / first tenth: {last / first:.2f}")


def recover(folder: Path, number: int, vectors_ND: np.ndarray) -> float:
    """Return how long opening takes when 20 batches are in the journal and not in the catalog."""
    catalog = next(folder.rglob("catalog.sqlite"))
    with Store.open(folder, verify=False) as store, store.writing() as writer:
        writer.add([Item(f"{number}", "image", "x")], vectors_ND[:1])
    before = catalog.read_bytes()
    with Store.open(folder, verify=False) as store, store.writing() as writer:
        writer.delete([f"{number}"])
        for batch in range(20):
            start = number + batch * BATCH
            writer.add([Item(f"{n}", "image", "x", {"n": n}) for n in range(start, start + BATCH)], vectors_ND)
    catalog.write_bytes(before)  # as if none of it had reached the catalog
    next(folder.rglob("catalog.check")).unlink()
    return timed(lambda: Store.open(folder, verify=False).close())


if __name__ == "__main__":
    main()
