"""The nearest items, ordered anew by a bank of texts, beside the plain formula and what it is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onepeace
from onepeace.manifest import Shards, read_manifest
from retrieval import Item, ModelTag, Searcher, Store, Stored, unit_rows
from retrieval.rerank import AGREEMENT, CANDIDATES, HUBS, SHARPNESS, bank_scores

SIZE = 24


@pytest.fixture
def bank(rng: np.random.Generator) -> np.ndarray:
    return unit_rows(rng.normal(size=(40, SIZE)), SIZE)


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    return unit_rows(rng.normal(size=(300, SIZE)), SIZE)


@pytest.fixture
def store(tmp_path: Path, rows: np.ndarray) -> Store:
    items = [Item(f"{n}", ("image", "audio")[n % 2], f"/x/{n % 90}", {"fold": n % 7}, f"{n % 250}") for n in range(300)]
    return Store.create(tmp_path / "s", items, rows, model=ModelTag("random", "0" * 16, SIZE))


def one_by_one(query: np.ndarray, row: np.ndarray, bank: np.ndarray) -> float:
    """Return the score of one row, written out in plain numbers."""

    def logits(vector: np.ndarray) -> list[float]:
        width = bank.shape[1]
        length = math.sqrt(sum(float(v) ** 2 for v in vector[:width]))
        lengths = [math.sqrt(sum(float(v) ** 2 for v in text)) for text in bank]
        return [
            SHARPNESS * sum(float(a) * float(b) for a, b in zip(vector, text, strict=False)) / length / size
            for text, size in zip(bank, lengths, strict=True)
        ]

    ours, theirs = logits(query), logits(row)
    near = math.log(sum(math.exp(value) for value in theirs) / len(bank)) / SHARPNESS
    sums = [sum(math.exp(value) for value in some) for some in (ours, theirs)]
    both = sum(math.sqrt(math.exp(a) / sums[0] * math.exp(b) / sums[1]) for a, b in zip(ours, theirs, strict=True))
    cosine = sum(float(a) * float(b) for a, b in zip(query, row, strict=True))
    return cosine - HUBS * near + AGREEMENT * both


@pytest.mark.parametrize("width", [SIZE, 9])
def test_scores_are_those_of_the_formula_one_by_one(rows: np.ndarray, bank: np.ndarray, width: int) -> None:
    short = unit_rows(bank[:, :width], width)
    expected = [one_by_one(rows[0], row, short) for row in rows[:20]]
    np.testing.assert_allclose(bank_scores(rows[0], rows[:20], short), expected, atol=1e-5)


def test_vectors_that_were_cut_are_compared_by_what_they_and_the_bank_have(rows: np.ndarray, bank: np.ndarray) -> None:
    cut = unit_rows(rows[:20, :9], 9)
    by_whole = bank_scores(cut[0], cut, bank)
    np.testing.assert_allclose(by_whole, bank_scores(cut[0], cut, unit_rows(bank[:, :9], 9)), atol=1e-6)
    nothing = np.zeros((1, SIZE), np.float32)
    nothing[0, -1] = 1.0  # all that it has is behind the bank's numbers
    assert np.isfinite(bank_scores(rows[0], nothing, unit_rows(bank[:, :9], 9))).all()


def test_a_space_that_is_turned_gives_the_same_scores(
    rows: np.ndarray, bank: np.ndarray, rng: np.random.Generator
) -> None:
    turn = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0].astype(np.float32)
    plain = bank_scores(rows[0], rows[:20], bank)
    np.testing.assert_allclose(bank_scores(rows[0] @ turn, rows[:20] @ turn, bank @ turn), plain, atol=1e-5)


def test_what_is_near_to_every_text_is_first_less_often(rng: np.random.Generator) -> None:
    """Texts of 30 things, and an item of each; three items lie near to where all texts do."""
    middle = rng.normal(size=SIZE)
    things = 0.8 * rng.normal(size=(30, SIZE))
    texts = unit_rows(np.repeat(things, 20, axis=0) + middle + 0.5 * rng.normal(size=(600, SIZE)), SIZE)
    items = unit_rows(np.concatenate([things + 0.2 * rng.normal(size=(30, SIZE)), middle + things[:3] / 3]), SIZE)
    asked, bank = texts[::2], texts[1::2]
    own = np.repeat(np.arange(30), 10)
    plain = (asked @ items.T).argmax(axis=1)
    anew = np.array([bank_scores(query, items, bank).argmax() for query in asked])
    assert (anew >= 30).sum() < 0.6 * (plain >= 30).sum()
    assert (anew == own).sum() > (plain == own).sum() + 30


def brute_force(query: np.ndarray, rows: np.ndarray, bank: np.ndarray, kept: list[int]) -> list[int]:
    """Return the numbers of rows as reranking orders them: the 100 nearest by their scores, then by cosine."""
    near = sorted(kept, key=lambda n: -float(query @ rows[n]))
    first = near[:CANDIDATES]
    scores = dict(zip(first, bank_scores(query, rows[first], bank).tolist(), strict=True))
    return sorted(first, key=lambda n: -scores[n]) + near[CANDIDATES:]


@pytest.mark.parametrize(
    ("wanted", "keeps", "group"),
    [
        ({}, lambda n: True, lambda n: n),
        ({"where": "modality=audio"}, lambda n: n % 2 == 1, lambda n: n),
        ({"where": "fold=3"}, lambda n: n % 7 == 3, lambda n: n),
        ({"group_by": "uri"}, lambda n: True, lambda n: n % 90),
        ({"copies": False}, lambda n: True, lambda n: n % 250),
    ],
    ids=("all", "one modality", "a field", "grouped", "without copies"),
)
def test_hits_are_those_of_brute_force_on_every_page(
    store: Store,
    rows: np.ndarray,
    bank: np.ndarray,
    wanted: dict[str, Any],
    keeps: Callable[[int], bool],
    group: Callable[[int], int],
) -> None:
    searcher = Searcher(store, bank=bank)
    query = unit_rows(rows[3] + rows[4], SIZE)[0]
    best: dict[int, int] = {}
    for n in brute_force(query, rows, bank, [n for n in range(300) if keeps(n)]):
        best.setdefault(group(n), n)
    hits = [hit for at in range(0, 300, 30) for hit in searcher.search(query, 30, offset=at, rerank=True, **wanted)]
    assert [hit.item.id for hit in hits] == [f"{n}" for n in best.values()]
    assert [hit.rank for hit in hits] == list(range(1, len(best) + 1))
    np.testing.assert_allclose([hit.score for hit in hits], rows[list(best.values())] @ query, atol=1e-6)
    plain = [hit.item.id for hit in searcher.search(query, 30, **wanted)]
    assert plain != [hit.item.id for hit in hits[:30]]


def test_items_like_one_are_ordered_anew_too(store: Store, rows: np.ndarray, bank: np.ndarray) -> None:
    searcher = Searcher(store, bank=bank)
    expected = [n for n in brute_force(rows[8], rows, bank, list(range(300))) if n != 8][:20]
    assert [hit.item.id for hit in searcher.search_like("8", 20, rerank=True)] == [f"{n}" for n in expected]
    assert searcher.search(Stored("8"), 1, rerank=True)[0].item.id == "8"  # nothing agrees with it as it does itself


def test_several_queries_are_ordered_each_as_alone(store: Store, rows: np.ndarray, bank: np.ndarray) -> None:
    searcher = Searcher(store, bank=bank)
    together = searcher.search_many(rows[:4], 12, rerank=True)
    assert together == [searcher.search(row, 12, rerank=True) for row in rows[:4]]


@pytest.mark.parametrize("least", [-0.2, 0.1, 0.4, 0.99])
def test_low_scores_are_left_out_and_pages_are_full(
    store: Store, rows: np.ndarray, bank: np.ndarray, least: float
) -> None:
    searcher, query = Searcher(store, bank=bank), unit_rows(rows[3] + rows[4], SIZE)[0]
    kept = np.flatnonzero(rows @ query >= least).tolist()
    expected = brute_force(query, rows, bank, kept)
    for start in range(0, 300, 7):
        page = searcher.search(query, 7, offset=start, rerank=True, min_score=least)
        assert [hit.item.id for hit in page] == [f"{n}" for n in expected[start : start + 7]]
    grouped = searcher.search(query, 300, rerank=True, min_score=least, group_by="uri")
    assert {int(hit.item.id) % 90 for hit in grouped} == {n % 90 for n in kept}


def test_what_cannot_be_is_refused(store: Store, rows: np.ndarray, bank: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"rerank needs a query bank: give Searcher\(store, model\)"):
        Searcher(store).search(rows[0], rerank=True)
    with pytest.raises(ValueError, match="at least one vector, got none"):
        Searcher(store, bank=bank[:0])
    with pytest.raises(ValueError, match=r"rows \[0\] are zero"):
        Searcher(store, bank=0 * bank[:1])
    with pytest.raises(ValueError, match="diversity and rerank both order the nearest: give one of them"):
        Searcher(store, bank=bank).search(rows[0], rerank=True, diversity=0.2)


def test_vectors_of_a_bank_may_have_any_length(store: Store, rows: np.ndarray, bank: np.ndarray) -> None:
    longer = Searcher(store, bank=bank * np.arange(1, 41, dtype=np.float32)[:, None])
    assert longer.search(rows[0], 300, rerank=True) == Searcher(store, bank=bank).search(rows[0], 300, rerank=True)


def test_an_empty_store_has_no_hits(tmp_path: Path, bank: np.ndarray, rows: np.ndarray) -> None:
    empty = Store.create(tmp_path / "e", [], rows[:0], model=ModelTag("random", "0" * 16, SIZE))
    assert Searcher(empty, bank=bank).search(rows[0], rerank=True) == []


def test_names_find_a_picture_of_their_class_more_often(data_pack: Path, tmp_path: Path) -> None:
    """One test picture of each class of Caltech-101, searched by the names."""
    of_class: dict[str, dict[str, Any]] = {}
    for row in read_manifest(data_pack / "manifest-test.parquet"):
        if row["source"] == "caltech101":
            of_class.setdefault(row["label"], row)
    shards, shipped = Shards(data_pack), onepeace.load_embedder("onepeace-tiny")
    names = [name.replace("_", " ") for name in of_class]
    items = [Item(name, "image", name) for name in names]
    rows = shipped.encode([onepeace.Image(shards.read(row["image"])) for row in of_class.values()])
    with Store.create(tmp_path / "c", items, rows, model=ModelTag.of(shipped)) as store:
        plain, anew = (Searcher(store, shipped).search_many(names, 1, rerank=rerank) for rerank in (False, True))
    right = [sum(hits[0].item.id == name for hits, name in zip(found, names, strict=True)) for found in (plain, anew)]
    assert right[1] >= right[0] + 5, right
