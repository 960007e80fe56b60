"""Relative positions: against loops, and against SciPy's splines on two axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import interpolate  # which loads its parts where they are used first

from encoders.position_bias import (
    PositionBias1d,
    PositionBias2d,
    bucket_1d,
    index_1d,
    index_2d,
    resize_table_2d,
    table_rows_1d,
    table_rows_2d,
)


def spline_resize(table: np.ndarray, source: int, target: int) -> np.ndarray:
    """SPEC 9.2 as it stands: bisect the rate, spread the coordinates, spline over both axes at once."""
    side, out = 2 * source - 1, 2 * target - 1
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2
        if (1 - q ** (side // 2)) / (1 - q) > out // 2:
            right = q
        else:
            left = q
    distances, current = [], 1.0
    for i in range(side // 2):
        distances.append(current)
        current += q ** (i + 1)
    x = np.array([*(-d for d in reversed(distances)), 0.0, *distances])
    where = np.clip(np.arange(-(out // 2), out // 2 + 1), x[0], x[-1])
    heads = []
    for head in range(table.shape[1]):
        z = table[:-3, head].reshape(side, side).astype(np.float64)
        heads.append(interpolate.RectBivariateSpline(x, x, z, kx=3, ky=3, s=0)(where, where).ravel())
    return np.concatenate([np.stack(heads, axis=1), table[-3:]])


@pytest.mark.parametrize(("source", "target"), [(16, 17), (16, 24), (16, 64), (16, 14), (16, 4), (7, 10), (4, 2)])
def test_a_resized_table_equals_a_spline_over_both_axes(source: int, target: int) -> None:
    torch.manual_seed(0)
    table = torch.randn(table_rows_2d(source), 3)
    expected = spline_resize(table.numpy(), source, target)
    np.testing.assert_allclose(resize_table_2d(table, source, target).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_resize_passes_gradients_to_every_row() -> None:
    table = torch.randn(table_rows_2d(4), 2, requires_grad=True)
    resize_table_2d(table, 4, 6).square().sum().backward()
    assert table.grad is not None
    assert (table.grad.abs().sum(1) > 0).all()


def test_close_distances_have_a_row_each_and_far_ones_share() -> None:
    rows = bucket_1d(torch.arange(-1023, 1024), 128)
    assert rows[1023 - 64 : 1023 + 65].tolist() == list(range(127 - 64, 127 + 65))
    assert rows.min() >= 0
    assert rows.max() <= table_rows_1d(128) - 4
    assert (rows[1:] >= rows[:-1]).all()


def test_the_class_token_has_rows_of_its_own() -> None:
    rows = table_rows_1d(16)
    index = index_1d(6, 16)
    assert index[0, 0] == rows - 1
    assert (index[0, 1:] == rows - 3).all()
    assert (index[1:, 0] == rows - 2).all()
    with pytest.raises(ValueError, match="1024"):
        index_1d(1025, 16)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 4), (4, 1)])
def test_a_grid_index_counts_rows_and_columns(height: int, width: int) -> None:
    index = index_2d(height, width, 4)
    cells = [(row, column) for row in range(height) for column in range(width)]
    for i, (row, column) in enumerate(cells):
        for j, (other_row, other_column) in enumerate(cells):
            assert index[i + 1, j + 1] == (row - other_row + 3) * 7 + column - other_column + 3


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 6), (7, 3)])
def test_pictures_of_any_shape_have_a_bias(height: int, width: int) -> None:
    (bias,) = PositionBias2d(4, heads=2)(height, width)
    assert bias.shape == (1, 2, height * width + 1, height * width + 1)


def test_a_table_can_train_after_its_index_was_first_needed_at_inference() -> None:
    lengths = {"sequence": (37,), "grid": (3, 5)}  # sizes that no other test asks for
    for bias, size in ((PositionBias1d(31, 2), lengths["sequence"]), (PositionBias2d(4, 2), lengths["grid"])):
        with torch.inference_mode():
            bias(*size)
        bias(*size)[0].sum().backward()
        assert bias.tables[0].grad is not None
