"""The vectors of a store, mapped from files of raw rows that only ever grow at their end.

N: rows, D: width of a vector. Rows are numbered through all segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import StoreError
from .precision import Precision, Rows, from_stored, stored_type

ROWS_AT_ONCE = 16_384  # that are read together: with 512 numbers each, 32 MiB

Places = slice | npt.NDArray[np.int64]


def vectors_path(home: Path, number: int) -> Path:
    """Return where a segment's vectors lie."""
    return home / f"segment-{number:06d}.vectors"


def journal_path(home: Path, number: int) -> Path:
    """Return where the journal of a segment's writes lies."""
    return home / f"segment-{number:06d}.journal"


@dataclass(frozen=True)
class Segment:
    """Neighbouring rows in one file."""

    first: int  # number of its first row
    stored: npt.NDArray[np.generic]  # mapped, read only

    @classmethod
    def map(cls, path: Path, first: int, count: int, dimension: int, precision: Precision) -> Segment:
        """Map `count` rows of a file. Raises StoreError naming a file that has fewer."""
        kind = stored_type(precision)
        if count == 0:
            return cls(first, np.empty((0, dimension), kind))
        wanted = count * dimension * kind.itemsize
        if not path.is_file():
            raise StoreError(f"{path} is missing")
        if path.stat().st_size < wanted:
            raise StoreError(f"{path} is cut: it has {path.stat().st_size:,} bytes, {wanted:,} belong to vectors")
        return cls(first, np.asarray(np.memmap(path, kind, "r", shape=(count, dimension))))

    @property
    def end(self) -> int:
        """The number behind its last row."""
        return self.first + len(self.stored)


class VectorRows:
    """All rows of one state of a store; nothing is read before it is asked for."""

    def __init__(self, segments: Sequence[Segment], dimension: int) -> None:
        self.segments = tuple(segments)
        self.dimension = dimension
        self._firsts = np.array([segment.first for segment in self.segments], np.int64)
        self._lay_out()

    @property
    def kind(self) -> np.dtype[np.generic]:
        """The type of a number in the files."""
        return self.segments[0].stored.dtype if self.segments else np.dtype(np.float32)

    def _lay_out(self) -> None:
        """Find where the files lie in memory, seen from the lowest one.

        They are mapped wherever there is room, but at whole pages. A page holds a whole number of rows, or few
        different remainders of one are left: files with the same remainder count as one array of rows.
        """
        row = self.dimension * self.kind.itemsize
        begins = np.array([segment.stored.ctypes.data for segment in self.segments], np.int64)
        lowest = begins.min(initial=2**63 - 1)
        remainders = (begins - lowest) % row
        self._addresses, of_file = np.unique(lowest + remainders, return_inverse=True)
        away = (begins - self._addresses[of_file]) // row - self._firsts
        self._array_of, self._away_of = np.append(0, of_file), np.append(0, away)  # 0: of row -1, which is none

    def located(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, Places, npt.NDArray[np.int64]]]:
        """Yield an address, which of `rows` lie a whole number of rows from there, and that number for each of them.

        Row -1 stands for none, and stays -1.
        """
        files = np.searchsorted(self._firsts, rows, side="right")
        for number, address in enumerate(self._addresses.tolist()):
            here: Places = slice(None)
            if len(self._addresses) > 1:
                here = np.flatnonzero(self._array_of[files] == number)
            yield address, here, rows[here] + self._away_of[files[here]]

    def __len__(self) -> int:
        return self.segments[-1].end if self.segments else 0

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Rows]]:
        """Yield the rows from `start` to `stop` in parts: the number of the first one, and unit rows (N, D)."""
        stop = len(self) if stop is None else stop
        for segment in self.segments:
            low, high = max(start, segment.first), min(stop, segment.end)
            for part in range(low, high, ROWS_AT_ONCE):
                here = slice(part - segment.first, min(part + ROWS_AT_ONCE, high) - segment.first)
                yield part, from_stored(segment.stored[here])

    def take(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Return unit rows (N, D) in the order asked. Raises IndexError for a row that is not there."""
        return from_stored(self.stored(rows))

    def stored(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        """Return rows (N, D) as they lie in the files."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must be from 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        if len(self.segments) == 1:
            return self.segments[0].stored[rows]
        taken_ND = np.empty((len(rows), self.dimension), self.segments[0].stored.dtype)
        places = np.searchsorted(self._firsts, rows, side="right") - 1
        for place in np.unique(places):
            here = np.flatnonzero(places == place)
            segment = self.segments[place]
            taken_ND[here] = segment.stored[rows[here] - segment.first]
        return taken_ND
