"""Nearest rows by inner product (FAISS). Rows have length one, so scores are cosine similarities."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from .durable import replacing
from .vectors import check_unit_rows

Rows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_KINDS: dict[str, type[Any]] = {"flat": faiss.IndexFlatIP}
_reading = threading.Lock()
_ENDING = b"row ids\n"  # closes the ids that follow FAISS's own bytes in a saved index


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How rows are searched."""

    kind: str = "flat"  # "flat": every row is compared, results are exact

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"index.kind must be one of {sorted(_KINDS)}, got {self.kind!r}")


class VectorIndex:
    """Unit rows, each under an id of the caller's choosing, searched by inner product.

    Ids live in our own array beside FAISS's positions: FAISS's own id map accepts an id twice.
    Any number of threads may search; nothing may search while `add` runs (FAISS does not allow it).
    """

    def __init__(self, dimension: int, config: IndexConfig | None = None) -> None:
        self.config = config or IndexConfig()
        self._faiss = _KINDS[self.config.kind](dimension)
        self._ids: Ids = np.empty(0, dtype=np.int64)

    @classmethod
    def build(cls, rows: Rows, config: IndexConfig | None = None, ids: Ids | None = None) -> VectorIndex:
        """Index unit rows (N, D) under `ids` (N,), or under 0..N-1."""
        index = cls(np.shape(rows)[-1], config)
        index.add(rows, np.arange(len(rows)) if ids is None else ids)
        return index

    @property
    def dimension(self) -> int:
        """The width D of a row."""
        return int(self._faiss.d)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, rows: Rows, ids: Ids) -> None:
        """Append unit rows (N, D) under new ids (N,). Nothing is added when one of them is refused."""
        check_unit_rows(rows, self.dimension)
        ids = np.asarray(ids, dtype=np.int64)
        if ids.shape != (len(rows),):
            raise ValueError(f"expected one id a row, shape ({len(rows)},), got {ids.shape}")
        together = np.concatenate([self._ids, ids])
        if (ids < 0).any() or len(np.unique(together)) != len(together):
            raise ValueError("ids must be unique and not negative")
        self._faiss.add(np.ascontiguousarray(rows))
        self._ids = together

    def search(self, queries: Rows, k: int, within: Ids | None = None) -> tuple[Rows, Ids]:
        """Return the scores and the ids of the k best rows for each unit query (Q, D), best first.

        Both have shape (Q, min(k, number of rows)). `within` restricts the search to these ids.
        """
        check_unit_rows(queries, self.dimension)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        available, parameters = len(self), None
        if within is not None:
            allowed = np.isin(self._ids, within)
            available = int(allowed.sum())
            bits = np.packbits(allowed, bitorder="little")  # FAISS reads it in place: keep it alive
            # FAISS's stubs describe the C++ constructors, not the Python ones around them.
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        k = min(k, available)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        scores, positions = self._faiss.search(np.ascontiguousarray(queries), k, params=parameters)
        return scores, self._ids[positions]

    def save(self, path: Path) -> None:
        """Write one file: what `faiss.write_index` writes, then the ids. An old file is replaced in one step."""
        with replacing(path) as aside:
            try:
                faiss.write_index(self._faiss, str(aside))
            except RuntimeError as error:
                raise OSError(f"{path} could not be written: {error}") from error
            with open(aside, "ab") as file:
                file.write(self._ids.astype("<i8").tobytes() + _ENDING)

    @classmethod
    def load(cls, path: Path) -> VectorIndex:
        """Read what `save` wrote. Raises ValueError naming a file that is anything else."""
        try:
            with _vectors_no_larger_than(path.stat().st_size):
                stored = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path} is not a complete FAISS index ({_last_words(error)})") from error
        kinds = [kind for kind, made_by in _KINDS.items() if isinstance(stored, made_by)]
        if not kinds:
            raise ValueError(f"{path} holds a {type(stored).__name__}; this version reads {sorted(_KINDS)}")
        tail = stored.ntotal * 8 + len(_ENDING)
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - tail))
            content = file.read()
        if len(content) != tail or not content.endswith(_ENDING):
            raise ValueError(f"{path} does not end in the ids of its rows: it was cut, or not written by onepeace")
        index = cls(stored.d, IndexConfig(kind=kinds[0]))
        index._faiss = stored
        index._ids = np.frombuffer(content[: -len(_ENDING)], dtype="<i8").astype(np.int64)
        return index


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
