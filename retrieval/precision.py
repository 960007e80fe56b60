"""How vectors lie in files: float32, float16 or int8. Reading always gives float32 rows of length one."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int8": np.dtype("i1")}


def stored_type(precision: Precision) -> np.dtype[np.generic]:
    """Return the type of a number in the file."""
    return _TYPES[precision]


def to_stored(rows_ND: Rows, precision: Precision) -> npt.NDArray[np.generic]:
    """Return unit rows as they are written. int8 spreads each row's largest number to 127: its length says the rest."""
    if precision == "int8":
        largest_N1 = np.abs(rows_ND).max(axis=1, keepdims=True)
        rows_ND = np.rint(rows_ND * (127 / largest_N1))
    return np.ascontiguousarray(rows_ND, dtype=_TYPES[precision])


def from_stored(stored_ND: npt.NDArray[np.generic]) -> Rows:
    """Return float32 rows of length one; float32 rows come as they are, without a copy."""
    if stored_ND.dtype == np.float32:
        return stored_ND  # type: ignore[return-value]
    rows_ND = stored_ND.astype(np.float32)
    rows_ND /= np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))[:, None]
    return rows_ND


def as_precision(name: str) -> Precision:
    """Return a precision by its name. Raises ValueError for another."""
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
