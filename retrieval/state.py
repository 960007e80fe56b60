"""One state of a store, opened to read and search; it stays whole while others write.

Q: queries, N: rows, D: width, k: how many are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .catalog import Catalog, Item, State
from .errors import StoreError
from .exact import NOTHING, Ids, Mask, merged, nearest, nearest_of
from .filters import Where
from .index import VectorIndex
from .manifest import Manifest
from .precision import Rows
from .seal import CATALOG_NAME, read_seal
from .segments import Segment, VectorRows, vectors_path
from .vectors import check_unit_rows

FEW = 20_000  # rows that pass a filter: comparing each costs less than an approximate search that skips the others


@dataclass(frozen=True)
class StoreState:
    """Row r is the same item in all parts."""

    manifest: Manifest
    progress: State  # of the catalog
    catalog: Catalog
    vectors: VectorRows
    live: Mask | None  # rows whose items are not deleted; None: all
    index: VectorIndex | None

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, before: StoreState | None = None) -> StoreState:
        """Open the newest state under a manifest. What `before` has open already is used again.

        Raises StoreError or CatalogError naming the file that is not as it should be.
        """
        home = manifest.home(folder)
        path = home / CATALOG_NAME
        same = before is not None and before.manifest.generation == manifest.generation
        if before is not None and same:
            catalog = before.catalog
        else:
            seal = read_seal(home)
            wrong = seal is not None and path.is_file() and path.stat().st_size != seal["bytes"]
            if wrong and seal is not None and read_seal(home) == seal:  # no writer came between
                raise StoreError(f"{path} is damaged: it has {path.stat().st_size:,} bytes, not {seal['bytes']:,}")
            catalog = Catalog.open(path)
        progress = catalog.state()
        if progress.segment > manifest.active:  # one was sealed since the manifest was read
            raise StoreError(f"{path} has writes of a segment that the manifest does not name")
        catalog = catalog.at(progress.number)
        live_N = _live(catalog, progress, before if same else None)
        vectors = map_vectors(home, manifest, progress, before if same else None)
        index = None
        if manifest.index is not None:
            kept = before.index if before is not None and same and before.manifest.index == manifest.index else None
            index = kept or VectorIndex.load(folder / manifest.index.file.path, manifest.index)
        return cls(manifest, progress, catalog, vectors, live_N, index)

    def __len__(self) -> int:
        return self.progress.items

    def select(self, where: Where) -> Ids:
        """Return the rows that pass a filter. Raises ValueError naming an unknown field."""
        return self.catalog.select(where)

    def fields(self) -> list[str]:
        """Return every field that a filter may name."""
        return self.catalog.fields()

    def items(self, rows: Ids) -> list[Item]:
        """Return the items in these rows."""
        return self.catalog.items(rows)

    def vectors_at(self, rows: Ids) -> Rows:
        """Return the unit vectors (N, D) in these rows."""
        return self.vectors.take(rows)

    def vectors_of(self, ids: Sequence[str]) -> Rows:
        """Return the unit vectors (N, D) of these items. Raises CatalogError for an unknown id."""
        return self.vectors.take(self.catalog.rows(ids))

    def search(self, queries_QD: Rows, k: int, within: Ids | None = None) -> tuple[Rows, Ids]:
        """Return the scores and rows of the k nearest items for each unit query, best first.

        Both have shape (Q, min(k, number of items that may be found)). `within` restricts the search to these rows.
        """
        check_unit_rows(queries_QD, self.vectors.dimension)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        k = min(k, len(self) if within is None else len(within))
        if k == 0 or len(queries_QD) == 0:
            return np.empty((len(queries_QD), k), np.float32), np.empty((len(queries_QD), k), np.int64)
        queries_QD = np.ascontiguousarray(queries_QD)
        if within is not None and (self.index is None or len(within) <= FEW):
            return nearest_of(queries_QD, self.vectors, within, k)
        allowed_N = self.live
        if within is not None:
            allowed_N = np.zeros(len(self.vectors), dtype=np.bool_)
            allowed_N[within] = True
        if self.index is None:
            return nearest(queries_QD, self.vectors.blocks(), k, allowed_N)
        best = self.index.search(queries_QD, k, self.vectors, allowed_N)
        if self.index.covered < len(self.vectors):
            best = merged(best, nearest(queries_QD, self.vectors.blocks(self.index.covered), k, allowed_N), k)
        short = np.flatnonzero((best[1] == NOTHING).any(axis=1))  # it met too few that count
        if len(short):
            best[0][short], best[1][short] = nearest(queries_QD[short], self.vectors.blocks(), k, allowed_N)
        return best


def _live(catalog: Catalog, progress: State, before: StoreState | None) -> Mask | None:
    """Return which rows are not deleted, from what was so `before` and what was deleted since."""
    gone = catalog.deleted(since=0 if before is None else before.progress.number)
    known = None if before is None else before.live
    if known is None and len(gone) == 0:
        return None
    live_N = np.ones(progress.rows, dtype=np.bool_)
    if known is not None:
        live_N[: len(known)] = known
    live_N[gone] = False
    return live_N


def map_vectors(home: Path, manifest: Manifest, progress: State, before: StoreState | None = None) -> VectorRows:
    """Map all rows of a state; sealed segments that `before` has mapped are used again."""
    mapped = {segment.first: segment for segment in before.vectors.segments} if before is not None else {}
    segments = []
    for sealed in manifest.sealed:
        kept = mapped.get(sealed.first)
        if kept is None or kept.end != sealed.first + sealed.rows:
            path = vectors_path(home, sealed.number)
            kept = Segment.map(path, sealed.first, sealed.rows, manifest.dimension, manifest.precision)
        segments.append(kept)
    first = manifest.first_of(manifest.active)
    if progress.rows > first or not segments:
        path = vectors_path(home, manifest.active)
        segments.append(Segment.map(path, first, progress.rows - first, manifest.dimension, manifest.precision))
    return VectorRows(segments, manifest.dimension)
