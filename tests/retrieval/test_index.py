from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from retrieval import StoreError, VectorIndex, gpu, unit_rows
from retrieval.exact import NOTHING, nearest, nearest_of, ordered, rescored
from retrieval.index import KINDS, choose
from retrieval.manifest import FileRecord, IndexRecord
from retrieval.precision import from_stored, to_stored
from retrieval.segments import Segment, VectorRows

APPROXIMATE = [kind for kind in KINDS if kind not in ("auto", "exact")]


def vectors(rows: np.ndarray, precision: str = "float32") -> VectorRows:
    """In three segments, of which one is empty."""
    stored = to_stored(rows, precision)  # type: ignore[arg-type]
    cut = len(rows) // 3
    parts = [Segment(0, stored[:cut]), Segment(cut, stored[cut:cut]), Segment(cut, stored[cut:])]
    return VectorRows(parts, rows.shape[1])


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Clusters, as embeddings have them."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(40, 32))
    return unit_rows(centres[rng.integers(40, size=4_000)] + 0.6 * rng.normal(size=(4_000, 32)), 32)


@pytest.fixture(scope="module", params=APPROXIMATE)
def index(request: pytest.FixtureRequest, rows: np.ndarray) -> VectorIndex:
    return VectorIndex.build(vectors(rows), None, request.param, 0.95)


def brute(queries: np.ndarray, rows: np.ndarray, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    scores = queries @ rows.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("share", [None, 0.01, 0.5, 0.99])
def test_comparing_all_is_brute_force(rows: np.ndarray, share: float | None) -> None:
    allowed = None if share is None else np.random.default_rng(1).random(len(rows)) < share
    scores, found = nearest(rows[:20], vectors(rows).blocks(), 12, allowed)
    np.testing.assert_array_equal(found, brute(rows[:20], rows, 12, allowed))
    np.testing.assert_allclose(scores, np.take_along_axis(rows[:20] @ rows.T, found, 1), atol=1e-6)
    if allowed is not None:
        same = nearest_of(rows[:20], vectors(rows), np.flatnonzero(allowed), 12)
        np.testing.assert_array_equal(same[1], found)


def test_where_few_are_allowed_places_stay_empty(rows: np.ndarray) -> None:
    allowed = np.zeros(len(rows), dtype=bool)
    allowed[[7, 3_999]] = True
    scores, found = nearest(rows[:3], vectors(rows).blocks(), 5, allowed)
    assert (found[:, 2:] == NOTHING).all()
    assert np.isneginf(scores[:, 2:]).all()
    assert set(found[:, :2].ravel()) == {7, 3_999}


@pytest.mark.parametrize(("precision", "error"), [("float32", 0.0), ("float16", 5e-4), ("int8", 6e-3)])
def test_rows_come_back_at_length_one_whatever_they_are_stored_in(
    rows: np.ndarray, precision: str, error: float
) -> None:
    back = from_stored(to_stored(rows, precision))  # type: ignore[arg-type]
    assert np.abs(back - rows).max() <= error
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    if precision != "float16":  # its rows are not quite of length one before they are read
        np.testing.assert_array_equal(to_stored(back, precision), to_stored(rows, precision))  # type: ignore[arg-type]


def test_the_recall_that_is_told_is_reached_by_other_queries(index: VectorIndex, rows: np.ndarray) -> None:
    assert index.recall >= 0.95
    queries = unit_rows(rows[::20] + 0.1 * np.random.default_rng(9).normal(size=(200, 32)), 32)
    scores, found = index.search(queries, 10, vectors(rows))
    true = brute(queries, rows, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, true, strict=True)])
    assert recall > 0.9
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ rows.T, found, 1), atol=1e-6)  # true ones
    assert (np.diff(scores, axis=1) <= 0).all()


def test_what_is_not_allowed_is_never_found(index: VectorIndex, rows: np.ndarray) -> None:
    allowed = np.random.default_rng(2).random(len(rows)) < 0.5
    _, found = index.search(rows[:100], 10, vectors(rows), allowed)
    assert allowed[found[found != NOTHING]].all()
    true = brute(rows[:100], rows, 10, allowed)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, true, strict=True)])
    assert recall > 0.85


def test_the_recall_that_is_told_holds_for_queries_that_are_no_rows(index: VectorIndex, rows: np.ndarray) -> None:
    rng = np.random.default_rng(3)  # the clusters of `rows`, and other points of them
    centres = rng.normal(size=(40, 32))
    queries = unit_rows(centres[rng.integers(40, size=600)] + 0.6 * np.random.default_rng(8).normal(size=(600, 32)), 32)
    _, found = index.search(queries, 10, vectors(rows))
    hits = [len(np.intersect1d(a, b)) / 10 for a, b in zip(found, brute(queries, rows, 10), strict=True)]
    assert np.mean(hits) > 0.94


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("width", [16, 24, 50])
def test_candidates_in_any_mapped_file_are_ranked_by_their_true_scores(
    width: int, precision: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(width)
    stored = to_stored(unit_rows(rng.normal(size=(3_000, width)), width), precision)  # type: ignore[arg-type]
    edges, segments = [0, 700, 701, 701, 1_999, 3_000], []
    for number, (first, end) in enumerate(itertools.pairwise(edges)):
        (tmp_path / f"{number}").write_bytes(stored[first:end].tobytes())
        segments.append(Segment.map(tmp_path / f"{number}", first, end - first, width, precision))  # type: ignore[arg-type]
    queries = unit_rows(rng.normal(size=(40, width)), width)
    candidates = np.stack([rng.permutation(3_000)[:90] for _ in queries])
    candidates[:, ::7] = NOTHING
    candidates[3, 2:] = NOTHING
    scores, found = rescored(queries, VectorRows(segments, width), candidates, 8)
    true = queries @ from_stored(stored).T
    for line, (one, some) in enumerate(zip(candidates, found, strict=True)):
        allowed = one[one != NOTHING]
        expected = allowed[np.argsort(-true[line, allowed])][:8]
        np.testing.assert_array_equal(some, np.pad(expected, (0, 8 - len(expected)), constant_values=NOTHING))
    np.testing.assert_allclose(
        scores[found != NOTHING], np.take_along_axis(true, found, 1)[found != NOTHING], atol=1e-6
    )
    assert np.isneginf(scores[found == NOTHING]).all()


@pytest.mark.parametrize("k", [1, 3, 7, 12])
def test_the_best_come_first_and_what_is_lacking_is_filled(k: int) -> None:
    scores = np.random.default_rng(0).permuted(np.tile(np.linspace(-1, 1, 7, dtype=np.float32), (9, 1)), axis=1)
    best, rows = ordered(scores, np.tile(np.arange(7), (9, 1)), k)
    np.testing.assert_array_equal(rows[:, :7], np.argsort(-scores, axis=1)[:, :k])
    np.testing.assert_array_equal(best[:, :7], -np.sort(-scores, axis=1)[:, :k])
    assert best.shape == rows.shape == (9, k)
    assert (rows[:, 7:] == NOTHING).all()


def test_deleted_rows_are_left_out(rows: np.ndarray) -> None:
    live = np.random.default_rng(2).random(len(rows)) < 0.7
    index = VectorIndex.build(vectors(rows), live, "ivf-sq", 0.95)
    _, found = index.search(rows[:50], 10, vectors(rows))
    assert live[found].all()
    assert index.covered == len(rows)


def test_what_is_saved_is_loaded(index: VectorIndex, rows: np.ndarray, tmp_path: Path) -> None:
    record = index.save(tmp_path, tmp_path / "index.faiss")
    assert (record.kind, record.rows, record.recall) == (index.kind, len(rows), index.recall)
    loaded = VectorIndex.load(tmp_path / "index.faiss", record)
    for ours, theirs in zip(
        loaded.search(rows[:4], 9, vectors(rows)), index.search(rows[:4], 9, vectors(rows)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert faiss.read_index(str(tmp_path / "index.faiss")).ntotal == len(rows)
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.faiss"]


@pytest.mark.parametrize("keep", [0, 10, 300, -20, -1])
def test_a_cut_file_is_named(rows: np.ndarray, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "index.faiss"
    record = VectorIndex.build(vectors(rows), None, "ivf-sq", 0.9).save(tmp_path, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"index\.faiss is damaged: it has"):
        VectorIndex.load(path, record)
    told = FileRecord("index.faiss", path.stat().st_size, "")
    with pytest.raises(StoreError, match=r"index\.faiss"):
        VectorIndex.load(path, IndexRecord(file=told, kind="ivf-sq", rows=1, recall=1.0, bytes=1))


def test_a_header_that_claims_more_than_the_file_holds_allocates_nothing(rows: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    faiss.write_index(faiss.IndexFlatIP(32), str(path))
    structure = faiss.IndexFlatIP(32)
    structure.add(rows[:200])
    faiss.write_index(structure, str(path))
    content = path.read_bytes()
    size = (200 * 32).to_bytes(8, "little")
    assert content.count(size) == 1
    path.write_bytes(content.replace(size, (2**40).to_bytes(8, "little")))
    record = IndexRecord(file=FileRecord.of(tmp_path, path), kind="hnsw", rows=200, recall=1.0, bytes=1)
    with pytest.raises(StoreError, match="not a complete FAISS index"):
        VectorIndex.load(path, record)


def test_an_unknown_kind_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"kind must be one of auto, exact, hnsw, .*got 'tree'"):
        VectorIndex.build(vectors(rows), None, "tree", 0.9)


def test_small_stores_are_searched_exactly() -> None:
    assert [choose("auto", items) for items in (0, 49_999, 50_000)] == ["exact", "exact", "ivf-rabitq"]
    assert choose("hnsw", 3) == "hnsw"


def test_indexes_of_any_size_are_read_by_threads_at_once(rows: np.ndarray, tmp_path: Path) -> None:
    records = {}
    for name, some in (("small", rows[:200]), ("large", np.tile(rows, (5, 1)))):
        records[name] = VectorIndex.build(vectors(some), None, "ivf-sq", 0.5).save(tmp_path, tmp_path / name)
    before = faiss.get_deserialization_vector_byte_limit()
    with ThreadPoolExecutor(4) as pool:
        sizes = list(
            pool.map(lambda name: VectorIndex.load(tmp_path / name, records[name]).covered, ["small", "large"] * 100)
        )
    assert sizes == [200, 20_000] * 100
    assert faiss.get_deserialization_vector_byte_limit() == before  # a process-wide setting, left as it was


@pytest.mark.skipif(gpu.available(), reason="FAISS sees a GPU")
def test_without_a_gpu_nothing_is_copied(index: VectorIndex, rows: np.ndarray) -> None:
    assert gpu.copied(index.structure) is index.structure
    for ours, theirs in zip(
        gpu.knn(rows[:30], rows, 7), faiss.knn(rows[:30], rows, 7, faiss.METRIC_INNER_PRODUCT), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
