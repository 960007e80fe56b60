"""Approximate search over a store's rows (FAISS): structures that can always be built again.

Q: queries, N: rows, D: width, k: how many are wanted, C: candidates of a query.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from . import gpu
from .durable import replacing
from .errors import StoreError
from .exact import NOTHING, Ids, Mask, nearest, rescored
from .manifest import FileRecord, IndexRecord
from .precision import Rows
from .segments import VectorRows

KINDS = ("auto", "exact", "hnsw", "ivf-rabitq", "ivf-sq", "ivf-pq")
EXACT_BELOW = 50_000  # items that are compared one by one with `auto`: it takes milliseconds, and misses nothing
SAMPLE = 256  # queries that recall is measured with
TRAINING = 40  # rows a cell is trained with
LINKED = 250  # and as many times that, where only the range of numbers is learnt
# Rows that FAISS wants at least: 39 for each centre that it looks for.
TRAINABLE = {"ivf-rabitq": 39, "ivf-sq": 39, "ivf-pq": 16 * 39}
CANDIDATES = (2, 5, 10, 20, 50, 100)  # a hit wanted, that are tried,
LEAST = (4, 16)  # from so many cells, or neighbours, on,
HARDLY = 0.001  # as long as recall gains more than this
K = 10  # recall is counted among the 10 nearest
SEED = 1
_ENDING = b"row ids\n"  # closes the rows that follow FAISS's own bytes in a saved index
_reading = threading.Lock()

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


def choose(kind: str, items: int) -> str:
    """Return the kind that `auto` stands for with so many items; another stands for itself."""
    if kind != "auto":
        return kind
    return "exact" if items < EXACT_BELOW else "ivf-rabitq"


def structure_for(kind: str, items: int) -> str:
    """Return the kind of search that so many items get where `kind` is wanted: too few are compared one by one."""
    chosen = choose(kind, items)
    return chosen if items >= TRAINABLE.get(chosen, 1) else "exact"


@dataclass(frozen=True)
class Search:
    """How thoroughly to look: more finds more, and takes longer."""

    effort: int  # cells that are looked into (ivf), or neighbours that are kept in mind (hnsw)
    candidates: int  # a hit wanted, that are compared by their true vectors


class VectorIndex:
    """Rows of a store, by a structure that finds most of the nearest; their true vectors then decide.

    Row numbers lie in our own array beside FAISS's positions. Any number of threads may search.

    >>> rows = unit_rows(np.random.default_rng(0).normal(size=(300, 16)), dim=16)
    >>> items = [Item(f"{n}", "text", f"rows#{n}") for n in range(300)]
    >>> with Store.create("rows", items, rows, model=ModelTag("none", "00", 16)) as store:
    ...     vectors = store.current.vectors
    ...     index = VectorIndex.build(vectors, None, "ivf-sq", recall=0.9)
    ...     scores, found = index.search(rows[:2], 3, vectors)
    ...     record = index.save(Path("rows"), Path("rows/mine.faiss"))
    ...     again = VectorIndex.load(Path("rows/mine.faiss"), record)
    >>> found[:, 0].tolist(), index.recall >= 0.9, again.covered
    ([0, 1], True, 300)
    >>> index.parameters(10).nprobe == index.how.effort
    True
    """

    def __init__(self, structure: Any, rows_N: Ids, covered: int, kind: str, search: Search, recall: float) -> None:
        self.structure, self._rows_N = structure, rows_N
        self._quick = gpu.copied(structure)  # for searches without a filter, which a GPU has no way to tell
        self._in_order = len(rows_N) == covered and bool((np.diff(rows_N) == 1).all())  # none was left out
        self.covered = covered  # rows of the store, from the first on; deleted ones were left out
        self.kind, self.how, self.recall = kind, search, recall

    @classmethod
    def build(
        cls,
        vectors: VectorRows,
        live_N: Mask | None,
        kind: str,
        recall: float,
        *,
        progress: Progress | None = None,
    ) -> VectorIndex:
        """Index all live rows, then look no more thoroughly than the wanted recall needs; both are measured.

        Raises ValueError for an unknown kind.
        """
        told = progress or (lambda what, done, total: None)
        covered = len(vectors)
        live_N = np.ones(covered, dtype=np.bool_) if live_N is None else live_N[:covered].copy()
        rows_N = np.flatnonzero(live_N)
        structure = _made(kind, vectors.dimension, len(rows_N))
        rng = np.random.default_rng(SEED)
        if not structure.is_trained:
            wanted = max(TRAINABLE.get(kind, 0), TRAINING * (LINKED if kind == "hnsw" else structure.nlist))
            told("training", 0, 1)
            structure.train(vectors.take(np.sort(rng.choice(rows_N, min(wanted, len(rows_N)), replace=False))))
        sample = np.sort(rng.choice(rows_N, min(SAMPLE, len(rows_N)), replace=False))
        new = kind == "hnsw" and len(rows_N) > 10 * SAMPLE
        if new:  # a row of the graph is linked with its neighbours: as a query it would find them too easily
            live_N[sample] = False
            rows_N = np.concatenate([np.flatnonzero(live_N), sample])
        for first, rows_ND in vectors.blocks():
            here = rows_ND[live_N[first : first + len(rows_ND)]]
            if len(here):
                structure.add(np.ascontiguousarray(here))
            told("adding", first + len(rows_ND), covered)
        index = cls(structure, rows_N, covered, kind, Search(1, 1), 0.0)
        index._tune(vectors, live_N, recall, vectors.take(sample), told, itself=not new)
        if new:
            structure.add(vectors.take(sample))
        return index

    def _tune(
        self, vectors: VectorRows, live_N: Mask, wanted: float, queries_QD: Rows, told: Progress, *, itself: bool
    ) -> None:
        """Choose the quickest way that finds the wanted share of the 10 nearest rows, a query not counting `itself`."""
        k = min(K + itself, self.structure.ntotal)
        told("measuring", 0, 1)
        _, true_QK = nearest(queries_QD, vectors.blocks(), k, live_N)
        limit = len(self._rows_N) if self.kind == "hnsw" else self.structure.nlist
        tried: list[tuple[float, float, Search]] = []  # recall, seconds
        enough: list[tuple[float, float, Search]] = []
        for candidates in CANDIDATES:
            effort, before = LEAST[self.kind == "hnsw"], -1.0
            while True:
                self.how = Search(min(effort, limit), candidates)
                begun = time.perf_counter()
                _, found_QK = self.search(queries_QD, k, vectors)
                seconds = time.perf_counter() - begun
                hits = [len(np.intersect1d(a, b)) - itself for a, b in zip(true_QK, found_QK, strict=True)]
                recall = float(np.mean(hits)) / max(1, k - itself)
                tried.append((recall, seconds, self.how))
                if recall >= wanted:
                    enough.append(tried[-1])
                slower = any(seconds > other for _, other, _ in enough)
                if recall >= wanted or slower or effort >= limit or recall - before < HARDLY:
                    break
                effort, before = math.ceil(effort * 1.5), recall
            told("measuring", CANDIDATES.index(candidates) + 1, len(CANDIDATES))
        best = min(enough, key=lambda one: one[1]) if enough else max(tried, key=lambda one: one[0])
        self.recall, _, self.how = best

    def search(self, queries_QD: Rows, k: int, vectors: VectorRows, allowed_N: Mask | None = None) -> tuple[Rows, Ids]:
        """Return scores and rows of the k best found for each query (Q, k); places that none fills hold `NOTHING`."""
        wanted = min(k * self.how.candidates, len(self._rows_N))
        parameters = self.parameters(wanted)
        if allowed_N is not None:
            library: Any = faiss  # its stubs describe the C++ constructors, not the Python ones around them
            bits = np.packbits(allowed_N[self._rows_N], bitorder="little")  # FAISS reads it in place: keep it alive
            parameters.sel = library.IDSelectorBitmap(bits)
        structure = self._quick if allowed_N is None and wanted <= gpu.MOST else self.structure
        _, places_QC = structure.search(queries_QD, wanted, params=parameters)
        return rescored(queries_QD, vectors, self._rows(places_QC), k)

    def _rows(self, places: Ids) -> Ids:
        """Return the rows in these places of the structure, `NOTHING` where there is none."""
        if self._in_order:
            return places
        return np.where(places == NOTHING, NOTHING, self._rows_N[places])

    def parameters(self, wanted: int) -> Any:
        """Return what tells FAISS how far to look for so many candidates."""
        library: Any = faiss
        kinds = {"hnsw": library.SearchParametersHNSW, "ivf-rabitq": library.IVFRaBitQSearchParameters}
        parameters = kinds.get(self.kind, library.SearchParametersIVF)()
        if self.kind == "hnsw":
            parameters.efSearch = max(self.how.effort, wanted)
        else:
            parameters.nprobe = self.how.effort
        return parameters

    def save(self, folder: Path, path: Path) -> IndexRecord:
        """Write one file: what `faiss.write_index` writes, then the rows; return its record."""
        with replacing(path) as aside:
            try:
                faiss.write_index(self.structure, str(aside))
            except RuntimeError as error:
                raise OSError(f"{path} could not be written: {error}") from error
            with open(aside, "ab") as file:
                file.write(self._rows_N.astype("<i8").tobytes() + _ENDING)
        return IndexRecord(
            file=FileRecord.of(folder, path),
            kind=self.kind,
            rows=self.covered,
            parameters={"effort": self.how.effort, "candidates": self.how.candidates},
            recall=self.recall,
            bytes=path.stat().st_size,
        )

    @classmethod
    def load(cls, path: Path, record: IndexRecord) -> VectorIndex:
        """Read what `save` wrote. Raises StoreError naming a file that is anything else."""
        wrong = record.file.problem(path.parents[len(Path(record.file.path).parts) - 1], checksum=False)
        if wrong:
            raise StoreError(wrong)
        try:
            with _vectors_no_larger_than(path.stat().st_size):
                structure = faiss.read_index(str(path))
        except RuntimeError as error:
            raise StoreError(f"{path} is not a complete FAISS index ({_last_words(error)})") from error
        tail = structure.ntotal * 8 + len(_ENDING)
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - tail))
            content = file.read()
        if len(content) != tail or not content.endswith(_ENDING):
            raise StoreError(f"{path} does not end in the numbers of its rows: it was cut, or not written by onepeace")
        rows_N = np.frombuffer(content[: -len(_ENDING)], dtype="<i8").astype(np.int64)
        if len(rows_N) and not 0 <= rows_N.min() <= rows_N.max() < record.rows:  # FAISS would read behind the vectors
            raise StoreError(f"{path} is damaged: it names rows that are not there")
        how = Search(int(record.parameters["effort"]), int(record.parameters["candidates"]))
        return cls(structure, rows_N, record.rows, record.kind, how, record.recall)


def _made(kind: str, dimension: int, rows: int) -> Any:
    """Return an empty structure for so many rows."""
    library: Any = faiss  # its stubs describe the C++ constructors
    metric = library.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        structure = library.IndexHNSWSQ(dimension, library.ScalarQuantizer.QT_8bit, 32, metric)
        structure.hnsw.efConstruction = 80
        return structure
    cells = max(1, min(round(4 * math.sqrt(rows)), rows // TRAINING))
    coarse = library.IndexFlatIP(dimension)
    if kind == "ivf-rabitq":
        structure = library.IndexIVFRaBitQFastScan(coarse, dimension, cells, metric)
    elif kind == "ivf-sq":
        structure = library.IndexIVFScalarQuantizer(coarse, dimension, cells, library.ScalarQuantizer.QT_8bit, metric)
    elif kind == "ivf-pq":
        structure = library.IndexIVFPQFastScan(coarse, dimension, cells, dimension // 4, 4, metric)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    structure.own_fields = True
    coarse.this.disown()
    structure.cp.niter = 10
    return structure


@contextmanager
def _vectors_no_larger_than(limit: int) -> Iterator[None]:
    """Keep a hostile header from allocating more than the file could hold.

    FAISS has one limit for the whole process, so threads that read at the same time take turns.
    """
    with _reading:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(limit)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


def _last_words(error: RuntimeError) -> str:
    """FAISS puts file, line and function before the reason; keep the reason."""
    return str(error).rsplit("Error: ", 1)[-1].strip()
