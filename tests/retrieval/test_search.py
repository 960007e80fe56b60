from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onepeace import Compose, Image
from retrieval import CatalogError, Item, ModelTag, QueryModel, Searcher, Store, Stored, StoreError, unit_rows


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    return unit_rows(rng.normal(size=(300, 16)), 16)


@pytest.fixture
def mixed(tmp_path: Path, tag: ModelTag, rows: np.ndarray) -> Store:
    kinds = ("image", "audio", "text")
    items = [Item(f"猫/{n}", kinds[n % 3], f"/x/{n}", {"fold": n % 5}) for n in range(300)]
    return Store.create(tmp_path / "mixed", items, rows, model=tag)


def test_hits_are_those_of_brute_force_in_its_order(mixed: Store, rows: np.ndarray) -> None:
    for place, hits in enumerate(Searcher(mixed).search_many(rows[:4], top_k=7)):
        exact = rows[place] @ rows.T
        best = np.argsort(-exact)[:7]
        assert [hit.item.id for hit in hits] == [f"猫/{n}" for n in best]
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6, 7]
        np.testing.assert_allclose([hit.score for hit in hits], exact[best], atol=1e-6)


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("modality=image", lambda n: n % 3 == 0),
        ("modality=audio and fold=2", lambda n: n % 3 == 1 and n % 5 == 2),
        ({"fold": 4}, lambda n: n % 5 == 4),
        ("id=猫/17", lambda n: n == 17),
        ("fold=9", lambda n: False),
    ],
)
def test_a_filtered_search_is_brute_force_over_what_is_kept(mixed: Store, rows: np.ndarray, where, keeps) -> None:  # type: ignore[no-untyped-def]
    hits = Searcher(mixed).search(rows[3], top_k=20, where=where)
    kept = [n for n in range(300) if keeps(n)]
    best = sorted(kept, key=lambda n: -float(rows[3] @ rows[n]))[:20]
    assert [hit.item.id for hit in hits] == [f"猫/{n}" for n in best]


def test_an_unknown_field_is_named(mixed: Store, rows: np.ndarray) -> None:
    with pytest.raises(CatalogError, match="unknown field 'colour'"):
        Searcher(mixed).search(rows[0], where="colour=red")


def test_every_text_finds_itself_first(store: Store, model: QueryModel, sentences: list[str]) -> None:
    found = Searcher(store, model).search_many(sentences, top_k=100)
    assert [hits[0].item.metadata["text"] for hits in found] == sentences
    assert [len(hits) for hits in found] == [len(sentences)] * len(sentences)


def test_texts_and_vectors_can_be_searched_with_together(store: Store, model: QueryModel, sentences: list[str]) -> None:
    searcher = Searcher(store, model)
    vector = 5 * model.encode([sentences[4]])[0]  # of any length
    found = searcher.search_many([sentences[1], vector, sentences[2]], top_k=3)
    for hits, sentence in zip(found, (sentences[1], sentences[4], sentences[2]), strict=True):
        alone = searcher.search(sentence, top_k=3)
        assert [hit.item for hit in hits] == [hit.item for hit in alone]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in alone], atol=1e-6)


def test_items_like_one_leave_it_out(mixed: Store, rows: np.ndarray) -> None:
    hits = Searcher(mixed).search_like("猫/8", top_k=4)
    best = [n for n in np.argsort(-(rows[8] @ rows.T)) if n != 8][:4]
    assert [(hit.item.id, hit.rank) for hit in hits] == [(f"猫/{n}", rank) for rank, n in enumerate(best, 1)]


def test_pages_follow_one_another(mixed: Store, rows: np.ndarray) -> None:
    searcher = Searcher(mixed)
    whole = searcher.search(rows[3], 30)
    assert [hit for start in range(0, 30, 7) for hit in searcher.search(rows[3], 7, offset=start)][:30] == whole
    assert searcher.search(rows[3], 7, offset=299)[0].rank == 300
    assert searcher.search(rows[3], 7, offset=300) == []
    assert searcher.search_like("猫/3", 9, offset=4)[:5] == searcher.search_like("猫/3", 9)[4:]


def test_a_least_score_cuts_the_end_off(mixed: Store, rows: np.ndarray) -> None:
    whole = Searcher(mixed).search(rows[3], 300)
    kept = Searcher(mixed).search(rows[3], 300, min_score=0.2)
    assert kept == [hit for hit in whole if hit.score >= 0.2]
    assert 1 < len(kept) < 300


@pytest.mark.parametrize("field", ["fold", "uri"])
def test_grouping_keeps_the_best_of_each(tmp_path: Path, tag: ModelTag, rows: np.ndarray, field: str) -> None:
    items = [Item(f"{n}", "audio", f"/x/{n % 23}.wav", {"fold": n % 23, "start": n}) for n in range(300)]
    store = Store.create(tmp_path / "s", items, rows, model=tag)
    hits = Searcher(store).search(rows[3], 10, group_by=field)
    best: dict[int, int] = {}
    for n in np.argsort(-(rows[3] @ rows.T)):
        best.setdefault(int(n) % 23, int(n))
    assert [hit.item.id for hit in hits] == [f"{n}" for n in list(best.values())[:10]]
    assert len(Searcher(store).search(rows[3], 100, group_by=field)) == 23
    assert len(Searcher(store).search(rows[3], 100, group_by="start")) == 100  # each stands alone
    like = [hit.item.id for hit in Searcher(store).search_like("3", 10, group_by=field)]
    best = {}
    for n in np.argsort(-(rows[3] @ rows.T)):
        if n != 3:  # but others of its group are hits
            best.setdefault(int(n) % 23, int(n))
    assert like == [f"{n}" for n in list(best.values())[:10]]
    assert len(Searcher(store).search(rows[3], 10, group_by="modality")) == 1
    with pytest.raises(ValueError, match="group_by: unknown field 'flod'; the fields here are id, modality, uri, fold"):
        Searcher(store).search(rows[3], 10, group_by="flod")


@pytest.mark.parametrize("grouped", [{}, {"group_by": "fold"}, {"diversity": 0.3}])
def test_of_copies_the_best_alone_is_a_hit(
    tmp_path: Path, tag: ModelTag, rows: np.ndarray, grouped: dict[str, Any]
) -> None:
    """30 items of each of 10 contents, of which 5 are not known: the hits are those of a store with the first alone."""

    def items(numbers: Iterable[int]) -> list[Item]:
        return [Item(f"{n}", "text", f"{n}", {"fold": n % 7}, f"{n % 10}" if n % 10 < 5 else None) for n in numbers]

    store = Store.create(tmp_path / "all", items(range(300)), rows[np.arange(300) % 10], model=tag)
    alone = [n for n in range(300) if n < 10 or n % 10 >= 5]
    single = Store.create(tmp_path / "single", items(alone), rows[np.array(alone) % 10], model=tag)
    for top_k, offset in ((3, 0), (8, 2), (200, 0)):
        hits = Searcher(store).search(rows[17], top_k, offset=offset, copies=False, **grouped)
        assert hits == Searcher(single).search(rows[17], top_k, offset=offset, **grouped)
    assert len(Searcher(store).search(rows[17], 300)) == 300


def test_of_copies_the_file_that_is_asked_with_is_the_hit(tmp_path: Path, tag: ModelTag, rows: np.ndarray) -> None:
    class Asked:
        name, fingerprint, dimension = tag.name, tag.fingerprint, tag.dimension

        def encode(self, inputs: Any) -> np.ndarray:
            return rows[:1]

    items = [Item(f"{n}", "image", f"{tmp_path}/{n}.jpg", {}, "same" if n < 3 else f"{n}") for n in range(6)]
    store = Store.create(tmp_path / "s", items, rows[[0, 0, 0, 1, 2, 3]], model=tag)
    searcher = Searcher(store, Asked())
    for n in (0, 1, 2):
        asked = Compose(Image(tmp_path / f"{n}.jpg"), "words") if n == 1 else Image(str(tmp_path / f"{n}.jpg"))
        assert [hit.item.id for hit in searcher.search(asked, 6, copies=False)][:1] == [f"{n}"]
    assert searcher.search(Image(tmp_path / "other.jpg"), 1, copies=False)[0].item.id == "0"


def test_a_diverse_result_is_maximal_marginal_relevance(mixed: Store, rows: np.ndarray) -> None:
    query = unit_rows(rows[3] + rows[4] + rows[5], 16)[0]
    found = [hit.item.id for hit in Searcher(mixed).search(query, 8, diversity=0.5)]
    scores = query @ rows.T
    pool = np.argsort(-scores)[:40].tolist()
    chosen = [pool.pop(0)]
    while len(chosen) < 8:
        best = max(pool, key=lambda n: 0.5 * scores[n] - 0.5 * max(rows[n] @ rows[m] for m in chosen))
        pool.remove(best)
        chosen.append(best)
    assert found == [f"猫/{n}" for n in chosen]
    assert found != [hit.item.id for hit in Searcher(mixed).search(query, 8)]


@pytest.mark.parametrize("wanted", [{"diversity": 0.5}, {"diversity": 0.7}, {"diversity": 0.3, "group_by": "fold"}])
def test_pages_of_diverse_hits_follow_one_another(mixed: Store, rows: np.ndarray, wanted: dict[str, Any]) -> None:
    searcher, count = Searcher(mixed), 5 if "group_by" in wanted else 300
    pages = [hit.item.id for start in range(0, 300, 10) for hit in searcher.search(rows[3], 10, offset=start, **wanted)]
    assert len(pages) == len(set(pages)) == count


@pytest.mark.parametrize("wanted", [{"diversity": 0.5}, {"copies": False}, {"group_by": "fold"}])
def test_low_scores_are_left_out_before_pages_are_cut(mixed: Store, rows: np.ndarray, wanted: dict[str, Any]) -> None:
    searcher, enough = Searcher(mixed), np.flatnonzero(rows @ rows[3] >= 0.4)
    expected = {n % 5 for n in enough} if "group_by" in wanted else set(enough.tolist())
    found: list[int] = []
    for start in range(0, 300, 4):
        page = searcher.search(rows[3], 4, offset=start, min_score=0.4, **wanted)
        assert len(page) == min(4, max(0, len(expected) - start))
        found += [int(hit.item.id.partition("/")[2]) for hit in page]
    assert {n % 5 if "group_by" in wanted else n for n in found} == expected


def test_diverse_items_like_one_begin_with_the_nearest(mixed: Store, rows: np.ndarray) -> None:
    nearest = Searcher(mixed).search_like("猫/8", 1)[0]
    assert Searcher(mixed).search_like("猫/8", 5, diversity=0.6)[0] == nearest


def test_stored_items_are_parts_of_a_mix(mixed: Store, rows: np.ndarray) -> None:
    mix = Compose(Stored("猫/3"), rows[8], Stored("猫/9"), weights=[1.0, 0.5, -0.3])
    hits = Searcher(mixed).search(mix, 9)
    query = unit_rows(rows[3] + 0.5 * rows[8] - 0.3 * rows[9], 16)[0]
    assert [hit.item.id for hit in hits] == [f"猫/{n}" for n in np.argsort(-(rows @ query))[:9]]
    with pytest.raises(CatalogError, match="not in the store: 'nobody'"):
        Searcher(mixed).search(Stored("nobody"))


@pytest.mark.parametrize("wrong", [{"offset": -1}, {"diversity": 1.0}, {"top_k": 0}])
def test_what_cannot_be_wanted_is_refused(mixed: Store, rows: np.ndarray, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        Searcher(mixed).search(rows[0], **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ivf-rabitq", "hnsw"])
def test_an_approximate_store_finds_newer_items_and_no_deleted_ones(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, kind: str
) -> None:
    vectors = unit_rows(rng.normal(size=(3_000, 16)), 16)
    items = [Item(f"{n}", "image", f"{n}", {"fold": n % 10}) for n in range(3_000)]
    store = Store.create(tmp_path / "s", items[:2_500], vectors[:2_500], model=tag, kind=kind, recall=0.98)
    with store.writing() as writer:
        writer.merge()
        writer.add(items[2_500:], vectors[2_500:])
        writer.delete([f"{n}" for n in range(0, 3_000, 7)])
    assert store.current.index is not None
    assert store.current.index.covered == 2_500
    assert store.current.index.recall >= 0.98
    live = np.arange(3_000) % 7 > 0
    queries = unit_rows(vectors[::30] + 0.03 * rng.normal(size=(100, 16)), 16)
    searcher = Searcher(Store.open(store.folder))
    for where, kept in ((None, live), ("fold in (1, 2)", live & np.isin(np.arange(3_000) % 10, [1, 2]))):
        true = np.argsort(-np.where(kept, queries @ vectors.T, -2), axis=1)[:, :10]
        found = np.array([[int(hit.item.id) for hit in hits] for hits in searcher.search_many(queries, 10, where)])
        assert kept[found].all()
        assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, true, strict=True)]) > 0.9
    newest = [hits[0].item.id for hits in searcher.search_many(vectors[2_501:2_505], 1)]
    assert newest == ["2501", "2502", "2503", "2504"]


def test_searching_while_others_add_and_delete_is_right_for_some_moment(tmp_path: Path, tag: ModelTag) -> None:
    """Item n lies on axis n % 16, so a search says which items were there."""
    store = Store.create(tmp_path / "s", model=tag, kind="ivf-sq")
    done = threading.Event()
    wrong: list[str] = []

    def look(axis: int) -> None:
        searcher, last = Searcher(store), 0
        while not done.is_set():
            hits = searcher.search(np.eye(16)[axis], 100, where=f"axis={axis}" if last else None)
            here = sorted(int(hit.item.id) for hit in hits if hit.score > 0.99)
            if here and (len(here) > 21 or here != list(range(here[0], here[-1] + 1, 16))):
                wrong.append(f"{axis}: {here}")
            if here and here[-1] < last:
                wrong.append(f"{axis}: {here[-1]} after {last}")
            last = here[-1] if here else last

    threads = [threading.Thread(target=look, args=(axis,)) for axis in range(4)]
    for thread in threads:
        thread.start()
    try:
        with store.writing() as writer:
            for start in range(0, 1_600, 16):
                items = [Item(f"{n}", "text", "x", {"axis": n % 16}) for n in range(start, start + 16)]
                writer.add(items, np.eye(16))
                if start == 800:
                    writer.merge()
                if start >= 320:
                    writer.delete([f"{n}" for n in range(start - 320, start - 304)])
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    assert len(store) == 320


def test_threads_may_search_together(mixed: Store, rows: np.ndarray) -> None:
    searcher = Searcher(mixed)
    alone = [searcher.search(row, 5, "modality=image") for row in rows[:40]]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda row: searcher.search(row, 5, "modality=image"), rows[:40]))
    assert together == alone


def test_nothing_is_found_in_an_empty_store(tmp_path: Path, tag: ModelTag, model: QueryModel) -> None:
    assert Searcher(Store.create(tmp_path / "s", [], [], model=tag), model).search("a dog") == []


def test_no_queries_give_no_lists(store: Store, model: QueryModel) -> None:
    assert Searcher(store, model).search_many([]) == []


@pytest.mark.parametrize("vector", [np.full(16, np.nan), np.zeros(16), np.ones(8)])
def test_a_vector_that_cannot_be_a_query_is_refused(store: Store, vector: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"zero or not finite|dimension 16"):
        Searcher(store).search(vector)


def test_top_k_is_at_least_one(store: Store, model: QueryModel) -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        Searcher(store, model).search("a dog", top_k=0)


@pytest.mark.parametrize("queries", ["a dog", np.ones(16), np.ones((1, 1, 16))])
def test_one_query_where_several_belong_is_refused(store: Store, model: QueryModel, queries: object) -> None:
    with pytest.raises(ValueError, match="search_many takes a list of queries"):
        Searcher(store, model).search_many(queries)  # type: ignore[arg-type]


def test_several_vectors_where_one_query_belongs_are_refused(store: Store) -> None:
    vectors = store.vectors(["text/2", "text/4"])
    assert Searcher(store).search(vectors[:1], 1)[0].item.id == "text/2"
    with pytest.raises(ValueError, match="a query is one vector, got 2: `search_many` takes several"):
        Searcher(store).search(vectors)


def test_a_text_without_a_model_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="has no model"):
        Searcher(store).search("a dog")


def test_another_model_is_refused_by_name(tmp_path: Path, model: QueryModel, tag: ModelTag) -> None:
    other = Store.create(tmp_path / "s", [], [], model=replace(tag, name="words", fingerprint="beef" * 8))
    with pytest.raises(StoreError, match=r"built with words .*you gave characters"):
        Searcher(other, model)


def test_pages_of_equal_hits_follow_one_another_in_the_order_of_their_rows(tmp_path: Path, tag: ModelTag) -> None:
    rows = unit_rows(np.random.default_rng(0).normal(size=(3, 16)), 16)
    items = [Item(f"{n:03}", "text", "x", {"kind": n % 3}) for n in range(300)]  # a hundred copies of each
    store = Store.create(tmp_path / "s", items, rows[np.arange(300) % 3], model=tag)
    scores = rows @ rows[0]
    expected = [f"{n:03}" for kind in np.argsort(-scores) for n in range(int(kind), 300, 3)]
    for size in (7, 50, 299):
        pages = [Searcher(store).search(rows[0], size, offset=start) for start in range(0, 300, size)]
        assert [hit.item.id for page in pages for hit in page] == expected
    # For many queries FAISS multiplies matrices, and equal rows differ in the last digit.
    for hits in Searcher(store).search_many(np.repeat(rows[:1], 30, 0), 150):
        assert [int(hit.item.id) % 3 for hit in hits] == [int(name) % 3 for name in expected[:150]]
