from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from retrieval import IndexConfig, VectorIndex, unit_rows


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    return unit_rows(rng.normal(size=(200, 16)), 16)


def test_search_agrees_with_brute_force(rows: np.ndarray) -> None:
    scores, ids = VectorIndex.build(rows).search(rows[:5], k=10)
    exact = rows[:5] @ rows.T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, ids, axis=1), atol=1e-6)  # scores are cosines
    np.testing.assert_array_equal(ids, np.argsort(-exact, axis=1)[:, :10])


def test_a_restricted_search_agrees_with_brute_force_over_the_subset(
    rows: np.ndarray, rng: np.random.Generator
) -> None:
    ids = rng.permutation(10_000)[:200]
    subset = rng.choice(ids, 30, replace=False)
    _, found = VectorIndex.build(rows, ids=ids).search(rows[:5], k=10, within=subset)
    inside = np.flatnonzero(np.isin(ids, subset))
    order = np.argsort(-(rows[:5] @ rows[inside].T), axis=1)[:, :10]
    np.testing.assert_array_equal(found, ids[inside][order])


@pytest.mark.parametrize(("within", "width"), [(None, 200), (np.arange(7), 7), (np.array([999]), 0)])
def test_no_more_hits_than_rows(rows: np.ndarray, within: np.ndarray | None, width: int) -> None:
    scores, ids = VectorIndex.build(rows).search(rows[:3], k=1_000, within=within)
    assert scores.shape == ids.shape == (3, width)
    assert (ids >= 0).all()


def test_an_empty_index_finds_nothing(rows: np.ndarray) -> None:
    scores, ids = VectorIndex(16).search(rows[:2], k=5)
    assert scores.shape == ids.shape == (2, 0)


def test_added_rows_are_found_as_if_built_together(rows: np.ndarray) -> None:
    grown = VectorIndex.build(rows[:150])
    grown.add(rows[150:], np.arange(150, 200))
    for ours, theirs in zip(grown.search(rows, 9), VectorIndex.build(rows).search(rows, 9), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ids", [[3, 500], [500, 500], [-1, 500]])
def test_an_id_is_taken_once_and_never_negative(rows: np.ndarray, ids: list[int]) -> None:
    index = VectorIndex.build(rows)
    with pytest.raises(ValueError, match="unique and not negative"):
        index.add(rows[:2], np.array(ids))
    assert len(index) == 200


def test_vectors_that_are_not_unit_rows_are_refused(rows: np.ndarray) -> None:
    index = VectorIndex.build(rows)
    broken = np.full((1, 16), np.nan, dtype=np.float32)
    for call in (lambda: index.search(broken, 1), lambda: index.add(broken, np.array([500]))):
        with pytest.raises(ValueError, match=r"rows \[0\] do not have length one"):
            call()


def test_what_is_saved_is_loaded_and_plain_faiss_reads_it_too(rows: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    index = VectorIndex.build(rows, ids=np.arange(200) * 3)
    index.save(path)
    loaded = VectorIndex.load(path)
    for ours, theirs in zip(loaded.search(rows[:4], 9), index.search(rows[:4], 9), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert faiss.read_index(str(path)).ntotal == 200
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.faiss"]


@pytest.mark.parametrize("keep", [0, 10, 300, -20, -1])
def test_a_cut_file_is_named(rows: np.ndarray, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "index.faiss"
    VectorIndex.build(rows).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"index\.faiss"):
        VectorIndex.load(path)


def test_a_header_that_claims_more_than_the_file_holds_allocates_nothing(rows: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    VectorIndex.build(rows).save(path)
    content = path.read_bytes()
    size = (200 * 16).to_bytes(8, "little")
    assert content.count(size) == 1
    path.write_bytes(content.replace(size, (2**40).to_bytes(8, "little")))
    with pytest.raises(ValueError, match="not a complete FAISS index"):
        VectorIndex.load(path)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"index\.kind must be one of \['flat'\], got 'tree'"):
        IndexConfig(kind="tree")


def test_indexes_of_any_size_are_read_by_threads_at_once(rows: np.ndarray, tmp_path: Path) -> None:
    VectorIndex.build(rows[:1]).save(tmp_path / "small")
    VectorIndex.build(np.tile(rows, (100, 1))).save(tmp_path / "large")
    before = faiss.get_deserialization_vector_byte_limit()
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda name: len(VectorIndex.load(tmp_path / name)), ["small", "large"] * 100))
    assert sizes == [1, 20_000] * 100
    assert faiss.get_deserialization_vector_byte_limit() == before  # a process-wide setting, left as it was
