from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.rows import RowFile, load_rows


def test_a_file_that_grew_in_parts_is_what_numpy_would_have_written(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rng.normal(size=(1_234, 5)).astype(np.float32)
    for start, stop in ((0, 7), (7, 7), (7, 1_000), (1_000, 1_234)):
        file = RowFile(tmp_path / "rows.npy", 5)
        file.put(rows[start:stop], np.arange(start, stop))
        file.close()
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), rows)
    np.testing.assert_array_equal(load_rows(tmp_path / "rows.npy"), rows)


def test_rows_can_be_put_over_old_ones_and_at_the_end_together(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.npy", 2)
    file.put(np.zeros((3, 2), np.float32), np.arange(3))
    file.put(np.array([[3, 3], [1, 1], [4, 4]], np.float32), np.array([3, 1, 4]))
    file.close()
    assert load_rows(tmp_path / "rows.npy").tolist() == [[0, 0], [1, 1], [0, 0], [3, 3], [4, 4]]


@pytest.mark.parametrize("content", [b"", b"not numpy at all", b"\x93NUMPY"])
def test_another_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.npy is not a \.npy file"):
        load_rows(tmp_path / "rows.npy")
