"""Relative position bias: what an adapter adds to the attention logits for each pair of its tokens.

Shapes: T tokens with the class token, H heads, R table rows, k the grid a 2-D table was made for.
The bucket rules are those of the official ONE-PEACE model (Wang et al., 2023, arXiv:2305.11172).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

MAX_TOKENS_1D = 1024  # the official tables are built for sequences of at most this many tokens, class token included
GROWTH = 64  # tokens; biases that are kept are gathered for so many more at a time
SHAPES = 16  # of pictures whose biases are kept
ALIGNMENT = 8  # numbers
CLASS_ROWS = 3  # table rows for: the class token as query, as key, and with itself


def table_rows_1d(bucket_size: int) -> int:
    """Rows of a table for sequences: 2b - 1 distances and the class token's three."""
    return 2 * bucket_size - 1 + CLASS_ROWS


def table_rows_2d(grid: int) -> int:
    """Rows of a table for a k x k grid: (2k - 1)^2 offsets and the class token's three."""
    return (2 * grid - 1) ** 2 + CLASS_ROWS


def grid_of_table(rows: int) -> int:
    """Return k for a table with the rows of a k x k grid: `table_rows_2d` the other way.

    Raises:
        ValueError: no grid's table has so many rows.
    """
    grid = (math.isqrt(max(0, rows - CLASS_ROWS)) + 1) // 2
    if grid < 1 or table_rows_2d(grid) != rows:
        raise ValueError(f"a position table of {rows} rows belongs to no square grid")
    return grid


def bucket_1d(distance: Tensor, bucket_size: int) -> Tensor:
    """Return the table row, int64, for each signed distance (query minus key).

    Distances up to half the bucket size are exact, longer ones logarithmic up to `MAX_TOKENS_1D`.
    """
    middle = bucket_size // 2
    magnitude = torch.where(distance.abs() < middle, middle - 1, distance.abs())
    logarithmic = middle + torch.ceil(
        torch.log(magnitude.float() / middle) / math.log((MAX_TOKENS_1D - 1) / middle) * (middle - 1)
    )
    bucket = torch.where(magnitude <= middle, distance.float(), logarithmic * distance.sign())
    return bucket.long() + bucket_size - 1


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def index_1d(length: int, bucket_size: int) -> Tensor:
    """Return (T, T) table rows for a sequence of `length` tokens whose first is the class token."""
    if length > MAX_TOKENS_1D:
        raise ValueError(f"at most {MAX_TOKENS_1D} tokens have a relative position, got {length}")
    position = torch.arange(length)
    index_TT = bucket_1d(position[:, None] - position[None, :], bucket_size)
    return _with_class_token(index_TT, table_rows_1d(bucket_size))


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def index_2d(height: int, width: int, grid: int) -> Tensor:
    """Return (T, T) table rows, T = height * width + 1, in a table made for `grid` >= max(height, width)."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, column = row.flatten(), column.flatten()
    rows_PP = row[:, None] - row[None, :] + grid - 1
    columns_PP = column[:, None] - column[None, :] + grid - 1
    index_TT = torch.zeros(height * width + 1, height * width + 1, dtype=torch.long)
    index_TT[1:, 1:] = rows_PP * (2 * grid - 1) + columns_PP
    return _with_class_token(index_TT, table_rows_2d(grid))


def _with_class_token(index_TT: Tensor, rows: int) -> Tensor:
    index_TT[0, :] = rows - 3
    index_TT[:, 0] = rows - 2
    index_TT[0, 0] = rows - 1
    return index_TT


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _spline_matrix(source: int, target: int) -> Tensor:
    """Return the (2 target - 1, 2 source - 1) float64 matrix that interpolates one axis of a 2-D table.

    The source offsets are spread geometrically, denser near zero, by the rate at which they reach the target's
    edge; a cubic spline through them is read at the target's whole offsets. The spline is linear in its values,
    so the whole resize is two products with this matrix, differentiable and exact.
    """
    from scipy.interpolate import make_interp_spline

    half_source, half_target = (2 * source - 1) // 2, (2 * target - 1) // 2
    left, right = 1.01, 1.5
    rate = left
    while right - left > 1e-6:
        rate = (left + right) / 2
        reach = (1.0 - rate**half_source) / (1.0 - rate)
        if reach > half_target:
            right = rate
        else:
            left = rate
    distance = np.cumsum([rate**power for power in range(half_source)])
    grid = np.concatenate([-distance[::-1], [0.0], distance])
    offsets = np.clip(np.arange(-half_target, half_target + 1), grid[0], grid[-1])
    return torch.from_numpy(make_interp_spline(grid, np.eye(len(grid)), k=3)(offsets))


def resize_table_2d(table_RH: Tensor, source: int, target: int) -> Tensor:
    """Return a 2-D table made for grid `source`, (rows, H), interpolated to grid `target`; the class rows stay."""
    if source == target:
        return table_RH
    matrix = _spline_matrix(source, target).to(table_RH.device)
    side = 2 * source - 1
    values_RRH = table_RH[:-CLASS_ROWS].double().view(side, side, -1)
    resized = torch.einsum("ab,bch,dc->adh", matrix, values_RRH, matrix)
    return torch.cat([resized.flatten(0, 1).to(table_RH.dtype), table_RH[-CLASS_ROWS:]])


class PositionBias1d(nn.Module):
    """Bias for sequences (text, sound): `count` tables of (2b + 2, H), one for all layers or one a layer."""

    def __init__(self, bucket_size: int, heads: int, count: int = 1) -> None:
        super().__init__()
        self.gathered: tuple[Tensor, ...] | None = None  # of the longest sequence so far
        self.bucket_size = bucket_size
        self.tables = nn.ParameterList(torch.zeros(table_rows_1d(bucket_size), heads) for _ in range(count))

    def forward(self, length: int) -> tuple[Tensor, ...]:
        """Return one (1, H, T, T) bias a table for `length` tokens."""
        if self.gathered is None:
            return self._gather(length)
        if not self.gathered or self.gathered[0].shape[-1] < length:
            longest = min(-(-length // GROWTH) * GROWTH, max(length, MAX_TOKENS_1D))
            self.gathered = tuple(map(_aligned, self._gather(longest)))
        # Distances do not depend on what follows, so a shorter sequence's bias is the first part of a longer one's.
        return tuple(bias[:, :, :length, :length] for bias in self.gathered)

    def gather_once(self) -> None:
        """Keep biases from now on: for encoding, where tables never change."""
        self.gathered = ()

    def _gather(self, length: int) -> tuple[Tensor, ...]:
        index_TT = index_1d(length, self.bucket_size)
        return tuple(_lookup(table, index_TT) for table in self.tables)


class PositionBias2d(nn.Module):
    """Bias for pictures: `count` tables of ((2k - 1)^2 + 3, H); other grids read an interpolated table."""

    def __init__(self, grid: int, heads: int, count: int = 1) -> None:
        super().__init__()
        self.gathered: dict[tuple[int, int], tuple[Tensor, ...]] | None = None
        self.grid = grid
        self.tables = nn.ParameterList(torch.zeros(table_rows_2d(grid), heads) for _ in range(count))

    def forward(self, height: int, width: int) -> tuple[Tensor, ...]:
        """Return one (1, H, T, T) bias a table for `height` x `width` patches and a class token."""
        if self.gathered is None:
            return self._gather(height, width)
        if (height, width) not in self.gathered:
            if len(self.gathered) >= SHAPES:
                self.gathered.clear()
            self.gathered[height, width] = tuple(map(_aligned, self._gather(height, width)))
        return self.gathered[height, width]

    def gather_once(self) -> None:
        """Keep biases from now on: for encoding, where tables never change."""
        self.gathered = {}

    def _gather(self, height: int, width: int) -> tuple[Tensor, ...]:
        target = max(height, width)
        index_TT = index_2d(height, width, target)
        return tuple(_lookup(resize_table_2d(table, self.grid, target), index_TT) for table in self.tables)


def _lookup(table_RH: Tensor, index_TT: Tensor) -> Tensor:
    return nn.functional.embedding(index_TT.to(table_RH.device), table_RH).permute(2, 0, 1).unsqueeze(0)


def _aligned(bias_1HTT: Tensor) -> Tensor:
    """Return a bias whose rows begin at multiples of `ALIGNMENT`, as kernels of a GPU read them without a copy."""
    length = bias_1HTT.shape[-1]
    return nn.functional.pad(bias_1HTT, (0, -length % ALIGNMENT)).contiguous()[..., :length]
