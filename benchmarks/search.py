"""A large store: how long it takes to build, what it finds, how fast, beside FAISS and hnswlib on the same vectors.

    python benchmarks/search.py [--rows 100000] [--kind auto] [--precision float32] [--store FOLDER] [--json FILE]
    python benchmarks/search.py --rows 100000 --kinds all --chart docs/recall-speed.svg
    python benchmarks/search.py --rows 1000000    # 4 GiB of memory, another 2.2 GB on the disk, some minutes

Vectors are generated: clusters of 500, spread as embeddings are. Queries are new points of the clusters. `exact` is
FAISS's IndexFlatIP over all vectors; `raw` is the store's own FAISS structure with the same parameters, whose
candidates FAISS's own IndexRefine ranks by their true vectors. Batches of 100, in turns, medians. `--kinds` builds each
kind and follows it from hasty to thorough: recall against queries a second.
hnswlib joins where it is installed (`pip install hnswlib`, which needs a C++ compiler).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from lines import picture

from onepeace.bench.measure import PeakMemory, interleaved, machine_facts
from onepeace.progress import progress_bar
from retrieval import Item, ModelTag, Store
from retrieval.build import in_percent
from retrieval.exact import nearest
from retrieval.index import KINDS, Search, VectorIndex
from retrieval.segments import Segment, VectorRows
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
        with progress_bar(100, "indexing") as advance:
            writer.merge(progress=in_percent(advance))
    print(f"added in {added:.0f} s, all in {time.perf_counter() - start:.0f} s, peak {memory.bytes / 2**30:.2f} GiB")
    return {"adding": added, "building": time.perf_counter() - start, "peak_bytes": memory.bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kind", default="auto", help="of the store (default: auto)")
    parser.add_argument("--kinds", help="follow these from hasty to thorough: names with commas, or all")
    parser.add_argument("--chart", type=Path, help="draw what --kinds found, as an SVG picture")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--store", type=Path, help="keep the store there, or use the one that is there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts: dict[str, Any] = {"machine": machine_facts(), "rows": arguments.rows}
    print(*(f"{name}: {value}" for name, value in facts["machine"].items()), sep="\n")
    if arguments.kinds:
        facts["curves"] = curves(arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return
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
    print(f"ratio seconds, ours / raw: {facts['search']['ours'] / facts['search']['raw']:.3f}")


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


def curves(arguments: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Return recall and queries a second of each kind, from hasty to thorough."""
    chosen = [kind for kind in KINDS if kind != "auto"] if arguments.kinds == "all" else arguments.kinds.split(",")
    middle_CD = centres(arguments.rows)
    rows_ND = np.concatenate(
        [
            points(middle_CD, min(AT_ONCE, arguments.rows - first), 1 + first)
            for first in range(0, arguments.rows, AT_ONCE)
        ]
    )
    vectors, queries_QD = VectorRows([Segment(0, rows_ND)], DIMENSION), points(middle_CD, BATCH, 0)
    true_QK = nearest(queries_QD, vectors.blocks(), K)[1]
    found: dict[str, list[tuple[float, float]]] = {}

    def measure(name: str, settings: Iterable[tuple[str, Callable[[], np.ndarray]]]) -> None:
        found[name] = []
        for setting, run in settings:
            seconds = interleaved({"": run}, arguments.rounds)[""]
            hits = [len(np.intersect1d(a, b)) for a, b in zip(true_QK, run(), strict=True)]
            found[name].append((float(np.mean(hits)) / K, BATCH / seconds))
            print(f"{name:10}  {setting:24}  recall@{K} {found[name][-1][0]:.4f}  {BATCH / seconds:8.0f} queries/s")

    def turned(index: VectorIndex, how: Search) -> np.ndarray:
        index.how = how
        return index.search(queries_QD, K, vectors)[1]

    for kind in chosen:
        start = time.perf_counter()
        if kind == "exact":
            measure(kind, [("", lambda: nearest(queries_QD, vectors.blocks(), K)[1])])
            continue
        index = VectorIndex.build(vectors, None, kind, 0.98)
        print(f"{kind} built in {time.perf_counter() - start:.0f} s, {index.how}, recall {index.recall:.4f}")
        ways = [Search(index.how.effort * times // 4, index.how.candidates) for times in (1, 2, 4, 8, 16)]
        measure(kind, [(f"effort {how.effort}", partial(turned, index, how)) for how in ways if how.effort])
    measure_hnswlib(rows_ND, queries_QD, measure)
    if arguments.chart:
        facts = machine_facts()
        title = f"{arguments.rows:,} generated vectors of {DIMENSION} dimensions: recall against speed"
        below = f"{facts['processor']}, {facts['threads']} threads, batches of {BATCH}"
        drawn = picture(title, below, (f"recall@{K}", "queries a second"), found)
        arguments.chart.write_text(drawn, encoding="utf-8")
    return found


def measure_hnswlib(rows_ND: np.ndarray, queries_QD: np.ndarray, measure: Callable[..., None]) -> None:
    try:
        import hnswlib
    except ImportError:
        print("hnswlib is not installed and left out: pip install hnswlib (needs a C++ compiler)")
        return
    start = time.perf_counter()
    peer = hnswlib.Index("ip", DIMENSION)
    peer.init_index(len(rows_ND), M=32, ef_construction=80)
    peer.set_num_threads(faiss.omp_get_max_threads())
    peer.add_items(rows_ND)
    print(f"hnswlib built in {time.perf_counter() - start:.0f} s")

    def run(effort: int) -> np.ndarray:
        peer.set_ef(effort)
        return peer.knn_query(queries_QD, K)[0]

    measure("hnswlib", [(f"ef {effort}", partial(run, effort)) for effort in (10, 20, 40, 80, 160, 320)])


if __name__ == "__main__":
    main()
