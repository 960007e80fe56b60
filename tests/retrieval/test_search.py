from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval import CatalogError, Item, ModelTag, QueryModel, Searcher, Store, StoreError, unit_rows


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


def test_a_text_without_a_model_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="has no model"):
        Searcher(store).search("a dog")


def test_another_model_is_refused_by_name(tmp_path: Path, model: QueryModel, tag: ModelTag) -> None:
    other = Store.create(tmp_path / "s", [], [], model=replace(tag, name="words", fingerprint="beef" * 8))
    with pytest.raises(StoreError, match=r"built with words .*you gave characters"):
        Searcher(other, model)
