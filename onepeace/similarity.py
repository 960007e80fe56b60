"""Cosines between vectors, in float32 whatever they come in. N, M: vectors, D: numbers in each."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def similarity(a: Any, b: Any) -> Any:
    """Return the cosine of every row of `a` (N, D) with every row of `b` (M, D): (N, M) float32.

    Arrays or tensors, or lists of them; a single vector (D,) counts as one row. Where either is a tensor the result is
    one, on its device. float16 and bfloat16 are computed in float32: half-precision scores tie rankings.

    Raises:
        ValueError: widths differ, a row is zero or not finite, or rows hold whole numbers: those need `dequantize`.

    >>> similarity([[1.0, 0.0]], [[0.0, 2.0], [3.0, 3.0]]).round(3)
    array([[0.   , 0.707]], dtype=float32)
    """
    unit_a, unit_b = _unit_rows(a, b)
    return unit_a @ unit_b.T


def similarity_pairwise(a: Any, b: Any) -> Any:
    """Return the cosine of each row of `a` (N, D) with the same row of `b` (N, D): (N,) float32.

    Takes and refuses what `similarity` does, and ValueError for different numbers of rows.

    >>> similarity_pairwise([[1.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [3.0, 3.0]]).round(3)
    array([0., 1.], dtype=float32)
    """
    unit_a, unit_b = _unit_rows(a, b)
    if len(unit_a) != len(unit_b):
        raise ValueError(f"pairs need as many rows on both sides, got {len(unit_a)} and {len(unit_b)}")
    return (unit_a * unit_b).sum(-1)


def _unit_rows(a: Any, b: Any) -> tuple[Any, Any]:
    rows_a, rows_b = _rows(a), _rows(b)
    if rows_a.shape[1] != rows_b.shape[1]:
        raise ValueError(f"rows must have one length, got {rows_a.shape[1]} and {rows_b.shape[1]}")
    if isinstance(rows_a, np.ndarray) != isinstance(rows_b, np.ndarray):
        torch = sys.modules["torch"]
        device = (rows_b if isinstance(rows_a, np.ndarray) else rows_a).device
        rows_a, rows_b = (torch.as_tensor(rows, device=device) for rows in (rows_a, rows_b))
    return _unit(rows_a), _unit(rows_b)


def _rows(values: Any) -> Any:
    """Return float32 rows, an array or a tensor."""
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported it
    if torch is not None:
        if isinstance(values, list | tuple) and values and isinstance(values[0], torch.Tensor):
            values = torch.stack(list(values))
        if isinstance(values, torch.Tensor):
            _refuse_digits(not values.is_floating_point(), values.dtype)
            rows = values.detach().float()
            rows = rows.unsqueeze(0) if rows.ndim == 1 else rows
            return _checked(rows)
    array = np.asarray(values)
    _refuse_digits(array.dtype.kind in "iub" and not isinstance(values, list | tuple), array.dtype)
    return _checked(np.atleast_2d(array.astype(np.float32)))


def _checked(rows: Any) -> Any:
    if rows.ndim != 2:
        raise ValueError(f"vectors must have shape (N, D) or (D,), got {tuple(rows.shape)}")
    return rows


def _refuse_digits(whole: bool, dtype: Any) -> None:
    if whole:
        raise ValueError(
            f"vectors of {dtype} do not say how they were quantised: give onepeace.dequantize(vectors, precision)"
        )


def _unit(rows: Any) -> Any:
    norms = (rows * rows).sum(1) ** 0.5
    if not bool(((norms > 0) & (norms < np.inf)).all()):  # NaN fails both
        raise ValueError("a row is zero or not finite and has no direction")
    return rows / norms[:, None]
