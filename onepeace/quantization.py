"""Vectors with fewer digits: float16, int8, uint8 and single bits. N: vectors, D: numbers in each.

Types, shapes and meaning are those of sentence-transformers' `quantize_embeddings`, with one difference: the range that
int8 and uint8 spread over 256 steps is a constant, never taken from the vectors at hand. So a vector's digits depend on
nothing but the vector.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SPREAD = 5.0  # half the range of int8 and uint8, in root mean squares of a unit vector's numbers
STEPS = 255  # between the ends of the range


def default_ranges(dimension: int) -> npt.NDArray[np.float32]:
    """Return the range of every number of a unit vector, (2, D): lowest and highest.

    It is ±5/√D, five times the root mean square of a unit vector's numbers. The few numbers beyond it are cut.

    >>> default_ranges(100)[:, 0].tolist()
    [-0.5, 0.5]
    """
    half = SPREAD / np.sqrt(dimension)
    return np.repeat(np.array([[-half], [half]], np.float32), dimension, axis=1)


def quantize(
    vectors: npt.NDArray[np.floating[Any]], precision: str, ranges: npt.ArrayLike | None = None
) -> npt.NDArray[Any]:
    """Return unit vectors (D,) or (N, D) in another precision.

    float32, float16: (N, D). int8, uint8: (N, D), the range in 256 steps. binary, ubinary: (N, ⌈D / 8⌉) int8 or uint8,
    a bit for the sign of each number, packed as `np.packbits` does; binary has 128 subtracted. `ranges` (2, D), lowest
    and highest of each number, replaces `default_ranges` for int8 and uint8.

    Raises:
        ValueError: an unknown precision; ranges for another precision, of another shape, or empty.

    >>> quantize(np.array([0.6, -0.8, 0.0, 0.0]), "int8").tolist()
    [30, -42, -1, -1]
    >>> quantize(np.array([0.6, -0.8, 0.0, 0.0]), "ubinary").tolist()
    [128]
    """
    check_precision(precision, ranges)
    if precision in ("float32", "float16"):
        return vectors.astype(precision)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits ^ 128).view(np.int8)
    starts_D, steps_D = _starts_and_steps(ranges, vectors.shape[-1])
    places = np.clip(np.floor((vectors - starts_D) / steps_D), 0, STEPS)
    return places.astype(np.uint8) if precision == "uint8" else (places - 128).astype(np.int8)


def dequantize(
    vectors: npt.ArrayLike, precision: str, dimension: int | None = None, ranges: npt.ArrayLike | None = None
) -> npt.NDArray[np.float32]:
    """Return float32 vectors (D,) or (N, D) for what `quantize` returned, as near as the digits say.

    int8 and uint8 give the middle of each step, binary and ubinary give 1 and -1. Lengths are not one: `similarity`
    does not mind. `dimension` is D, needed for packed bits only where it is no multiple of 8; `ranges` are those that
    were quantised with.

    >>> dequantize([30, -42, -1, -1], "int8").round(1) + 0.0
    array([ 0.6, -0.8,  0. ,  0. ], dtype=float32)
    """
    check_precision(precision, ranges)
    digits = np.asarray(vectors)
    if precision in ("float32", "float16"):
        return digits.astype(np.float32)
    if precision in ("binary", "ubinary"):
        packed = digits.astype(np.int8 if precision == "binary" else np.uint8).view(np.uint8)
        packed ^= 128 if precision == "binary" else 0
        return np.unpackbits(packed, axis=-1, count=dimension).astype(np.float32) * 2 - 1
    starts_D, steps_D = _starts_and_steps(ranges, digits.shape[-1])
    places = digits.astype(np.float32) + (128 if precision == "int8" else 0)
    return ((places + 0.5) * steps_D + starts_D).astype(np.float32)


def check_precision(precision: str, ranges: npt.ArrayLike | None = None) -> None:
    """Raise ValueError for an unknown precision, or ranges where none are read."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if ranges is not None and precision not in ("int8", "uint8"):
        raise ValueError(f"ranges belong to precision int8 and uint8, not to {precision}: leave them out")


def _starts_and_steps(ranges: npt.ArrayLike | None, dimension: int) -> npt.NDArray[np.float32]:
    """Return the lowest number and the width of a step, (2, D)."""
    bounds_2D = default_ranges(dimension) if ranges is None else np.asarray(ranges, np.float32)
    if bounds_2D.shape != (2, dimension):
        raise ValueError(f"ranges must have shape (2, {dimension}), lowest and highest, got {bounds_2D.shape}")
    if not (np.isfinite(bounds_2D).all() and (bounds_2D[0] <= bounds_2D[1]).all()):
        raise ValueError("ranges must be finite, and no lowest number above its highest")
    steps_D = (bounds_2D[1] - bounds_2D[0]) / STEPS
    return np.stack([bounds_2D[0], np.where(steps_D == 0, 1, steps_D)]).astype(np.float32)
