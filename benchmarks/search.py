"""A large store: how long it takes to build, what it finds, how fast, beside plain FAISS on the same vectors.

    python benchmarks/search.py [--rows 1000000] [--kind auto] [--precision float32] [--store FOLDER] [--json FILE]

Vectors are generated: clusters of 500, spread as embeddings are. Queries are new points of the clusters. `exact` is
FAISS's IndexFlatIP over all vectors; `raw` is the store's own FAISS structure with the same parameters, whose
candidates FAISS's own IndexRefine ranks by their true vectors. Batches of 100, in turns, medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from onepeace.bench.measure import PeakMemory, interleaved, machine_facts
from retrieval import Item, ModelTag, Store
from retrieval.vectors import unit_rows

DIMENSION, CLUSTER, SPREAD = 512, 500, 0.9
BATCH, K = 100, 10
AT_ONCE = 20_000


def centres(rows: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(0).normal(size=(max(1, rows // CLUSTER), DIMENSION)), DIMENSION)


def points(middle_CD: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return unit rows around random centres; the spread has length SPREAD."""
    rng = np.random.default_rng(seed)
    noise_ND = rng.standard_normal((count, DIMENSION), dtype=np.float32) * np.float32(SPREAD / DIMENSION**0.5)
    return unit_rows(middle_CD[rng.integers(len(middle_CD), size=count)] + noise_ND, DIMENSION)


def build(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Make the store; return seconds and peak bytes."""
    middle_CD = centres(arguments.rows)
    tag = ModelTag("generated", "0" * 16, DIMENSION)
    start = time.perf_counter()
    with (
        Store.create(folder, model=tag, kind=arguments.kind, precision=arguments.precision) as store,
        store.writing(merging=False) as writer,
        PeakMemory() as memory,
    ):
        for first in range(0, arguments.rows, AT_ONCE):
            count = min(AT_ONCE, arguments.rows - first)
            items = [Item(f"{n}", "image", f"/x/{n}.jpg", {"year": n % 30}) for n in range(first, first + count)]
            writer.add(items, points(middle_CD, count, 1 + first))
        added = time.perf_counter() - start
        writer.merge(progress=lambda what, done, total: print(f"\r{what} {done:,} of {total:,}", end="", flush=True))
    print(f"\radded in {added:.0f} s, all in {time.perf_counter() - start:.0f} s, peak {memory.bytes / 2**30:.2f} GiB")
    return {"adding": added, "building": time.perf_counter() - start, "peak_bytes": memory.bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--store", type=Path, help="keep the store there, or use the one that is there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts: dict[str, Any] = {"machine": machine_facts(), "rows": arguments.rows}
    print(*(f"{name}: {value}" for name, value in facts["machine"].items()), sep="\n")
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.store or Path(name) / "store"
        if not folder.exists():
            facts["build"] = build(folder, arguments)
        start = time.perf_counter()
        store = Store.open(folder, verify=False)
        facts["open"] = time.perf_counter() - start
        record = store.current.manifest.index
        assert record is not None, "this store is searched exactly"
        print(
            f"opened in {facts['open']:.2f} s; {record.kind}, {record.parameters}, recall {record.recall:.4f} at build"
        )
        queries_QD = points(centres(arguments.rows), BATCH, 0)
        facts["search"] = search(store, queries_QD, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    print(f"ratio queries/s, ours / exact: {facts['search']['exact'] / facts['search']['ours']:.1f}")
    print(f"ratio ours / raw: {facts['search']['ours'] / facts['search']['raw']:.3f}")


def search(store: Store, queries_QD: np.ndarray, rounds: int) -> dict[str, float]:
    """Return the median seconds of a batch."""
    state, index = store.current, store.current.index
    assert index is not None
    everything_ND = np.concatenate([rows_ND for _, rows_ND in state.vectors.blocks()])
    exact = faiss.IndexFlatIP(DIMENSION)
    exact.add(everything_ND)
    del everything_ND
    raw: Any = faiss.IndexRefine(index.structure, exact)
    raw.k_factor = index.how.candidates
    parameters = index.parameters(K * index.how.candidates)
    refined: Any = faiss.IndexRefineSearchParameters(k_factor=index.how.candidates, base_index_params=parameters)
    candidates = {
        "exact": lambda: exact.search(queries_QD, K),
        "raw": lambda: raw.search(queries_QD, K, params=refined),
        "ours": lambda: state.search(queries_QD, K),
    }
    found = {name: run()[1] for name, run in candidates.items()}
    seconds = interleaved(candidates, rounds)
    for name, value in seconds.items():
        hits = [len(np.intersect1d(a, b)) for a, b in zip(found["exact"], found[name], strict=True)]
        print(f"{name:6} {1000 * value:8.1f} ms  {BATCH / value:8.0f} queries/s  recall@{K} {np.mean(hits) / K:.4f}")
    return seconds


if __name__ == "__main__":
    main()
