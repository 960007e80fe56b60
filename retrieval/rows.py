"""A .npy file of float32 rows that grows (NumPy's own writer needs the number of rows beforehand)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]


class RowFile:
    """Writes rows (N, D) to a .npy file, batch by batch; `close` makes it one that `numpy.load` reads."""

    def __init__(self, path: Path, dimension: int) -> None:
        """Open `path` to write to: a new file, or one of this width to go on with."""
        self.dimension = dimension
        self._count = len(load_rows(path)) if path.exists() else 0
        self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 - closed by `close`
        self._write_header()
        self._start = self._file.tell()

    def put(self, rows: Rows, positions: npt.NDArray[np.int64]) -> None:
        """Write each row at its position: over an old row, or at the end, where positions must follow on."""
        fresh = positions >= self._count
        for row, position in zip(rows[~fresh], positions[~fresh], strict=True):
            self._seek(int(position))
            self._file.write(row.astype("<f4").tobytes())
        assert (positions[fresh] == self._count + np.arange(fresh.sum())).all(), "rows would leave a gap"
        self._seek(self._count)
        self._file.write(rows[fresh].astype("<f4").tobytes())
        self._count += int(fresh.sum())

    def close(self) -> None:
        """Finish the file, or what there is of it."""
        if self._file.closed:
            return
        self._write_header()
        assert self._file.tell() == self._start, "the header must keep its length"
        self._file.close()

    def _seek(self, position: int) -> None:
        self._file.seek(self._start + position * self.dimension * 4)

    def _write_header(self) -> None:
        # NumPy pads the header for 21 digits of the first axis, so that it can be rewritten with more rows.
        self._file.seek(0)
        shape = (self._count, self.dimension)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def load_rows(path: Path) -> Rows:
    """Map the rows of a finished file into memory, read only. Raises ValueError naming a file that is none."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a .npy file ({error})") from error
    if rows.ndim != 2 or rows.dtype != np.dtype("<f4"):
        raise ValueError(f"{path} must hold float32 rows, it holds {rows.dtype} of shape {rows.shape}")
    return np.asarray(rows)
