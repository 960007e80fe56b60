from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retrieval.vectors import check_unit_rows, unit_rows


@given(hnp.arrays(np.float32, (5, 3), elements=st.floats(0.125, 1024, width=32)))
def test_rows_have_length_one_and_keep_their_direction(vectors: np.ndarray) -> None:
    rows = unit_rows(vectors, 3)
    exact = vectors.astype(np.float64) / np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(rows, exact, atol=1e-6)
    check_unit_rows(rows, 3)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_row_without_direction_is_named(bad: float) -> None:
    vectors = np.ones((4, 3))
    vectors[2] = bad
    with pytest.raises(ValueError, match=r"rows \[2\] are zero or not finite"):
        unit_rows(vectors, 3)


def test_another_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dimension 4, got shape \(2, 3\)"):
        unit_rows(np.ones((2, 3)), 4)


@pytest.mark.parametrize("length", [0.9, 1.1, 0.0, np.nan])
def test_the_check_names_rows_that_are_not_of_length_one(length: float) -> None:
    rows = np.eye(3, dtype=np.float32)
    rows[1] *= length
    with pytest.raises(ValueError, match=r"rows \[1\] do not have length one"):
        check_unit_rows(rows, 3)
