"""Rows of length one: the only place that normalises vectors, and the check that others rely on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# float32 rows from `unit_rows` are within 1e-6 of length one; half precision on the way would cost 1e-3
TOLERANCE = 1e-3


def unit_rows(vectors: npt.ArrayLike, dim: int) -> npt.NDArray[np.float32]:
    """Return `vectors` as float32 rows of length one, shape (N, dim).

    Raises ValueError for another dimension, and for rows that are zero or not finite.

    >>> unit_rows([[3.0, 4.0], [0.0, 2.0]], dim=2).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    >>> unit_rows([[0.0, 0.0]], dim=2)
    Traceback (most recent call last):
    ValueError: rows [0] are zero or not finite and have no direction
    """
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"expected vectors of dimension {dim}, got shape {rows.shape}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
        raise ValueError(f"rows {bad[:5].tolist()} are zero or not finite and have no direction")
    return np.asarray(rows / norms, dtype=np.float32)


def check_unit_rows(rows: npt.NDArray[np.float32], dim: int) -> None:
    """Refuse anything but float32 rows of length one, shape (N, dim). NaN is refused here too."""
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"expected float32 rows of shape (N, {dim}), got {rows.dtype} of shape {rows.shape}")
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))  # `np.linalg.norm` would write all squares down
    bad = np.flatnonzero(~(np.abs(norms - 1) <= TOLERANCE))  # written so that NaN counts as bad
    if len(bad):
        raise ValueError(f"rows {bad[:5].tolist()} do not have length one: pass vectors through unit_rows first")
