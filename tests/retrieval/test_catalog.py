from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Catalog, CatalogError, Item
from retrieval.catalog import CatalogWriter, State, check_items

ITEMS = [
    Item("a/1.jpg", "image", "/x/a/1.jpg", {"label": "dog", "year": 2020, "score": 0.5, "good": True}),
    Item("a/2.jpg", "image", "/x/a/2.jpg", {"label": "cat", "year": "2020", "good": False}),
    Item("b.wav", "audio", "/x/b.wav", {"label": "dog", "year": 2021, "good": 1, "tags": ["dog"]}),
    Item("c.txt#3", "text", "/x/c.txt#3", {"text": "a dog", 'odd "key"': "x", "étiquette": "猫", "good": None}),
]

# everything but half characters and NUL
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def written(path: Path, *writes: list[Item]) -> Catalog:
    """A catalog with these items, in writes 1, 2, ..."""
    writer, rows = CatalogWriter(path), 0
    for number, items in enumerate(writes, 1):
        numbered = list(enumerate(items, rows))
        rows += len(items)
        writer.apply(State(number, 1, 0, rows, rows), numbered, (), None)
    writer.close()
    return Catalog.open(path)


OnlyThese = Callable[[list[Item]], Catalog]


@pytest.fixture(scope="module")
def only_these(tmp_path_factory: pytest.TempPathFactory) -> OnlyThese:
    """A catalog that each call adds items to, after it took those before away."""
    writer = CatalogWriter(tmp_path_factory.mktemp("catalog") / "c.sqlite")
    view, state = Catalog.open(writer.path), State(0, 1, 0, 0, 0)

    def move_on(items: list[Item]) -> Catalog:
        nonlocal state
        before, rows = [row for row, _ in view.at(state.number).numbered()], state.rows + len(items)
        state = State(state.number + 1, 1, 0, rows, len(items))
        writer.apply(state, list(enumerate(items, rows - len(items))), before)
        return view.at(state.number)

    return move_on


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return written(tmp_path / "catalog.sqlite", ITEMS)


def test_items_come_back_in_the_order_asked(catalog: Catalog) -> None:
    order = [2, 0, 3, 0]
    assert catalog.get([ITEMS[n].id for n in order]) == [ITEMS[n] for n in order]
    assert catalog.items(np.array(order)) == [ITEMS[n] for n in order]
    assert list(catalog) == ITEMS
    assert catalog.counts() == {"image": 2, "audio": 1, "text": 1}


def test_an_unknown_id_is_named(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="not in the store: 'nowhere'"):
        catalog.get(["b.wav", "nowhere"])


@given(
    st.lists(st.tuples(words, st.dictionaries(words, values, max_size=2)), unique_by=lambda pair: pair[0], max_size=5)
)
def test_any_id_and_metadata_come_back_as_they_were(
    only_these: OnlyThese, pairs: list[tuple[str, dict[str, Any]]]
) -> None:
    items = [Item(name, "text", name, metadata) for name, metadata in pairs]
    catalog = only_these(items)
    assert catalog.get([item.id for item in reversed(items)]) == items[::-1]


@given(words.filter(lambda name: name not in ("id", "modality", "uri")), words)
def test_any_field_and_value_can_be_filtered_by(only_these: OnlyThese, name: str, value: str) -> None:
    metadata: list[dict[str, Any]] = [{name: value}, {name: value + "x"}, {"y": value}, {}]
    catalog = only_these([Item(str(n), "text", "x", entry) for n, entry in enumerate(metadata)])
    expected = [str(n) for n, entry in enumerate(metadata) if entry.get(name) == value]
    assert [item.id for item in catalog.items(catalog.select({name: value}))] == expected


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("modality=image", [0, 1]),
        ("id=b.wav", [2]),
        ("label=dog", [0, 2]),
        ("label=dog and modality=audio", [2]),
        ("label=dog, modality=text", []),
        ("year=2020", [0, 1]),  # a number and a string that are written alike
        ("year=2020.0", [0]),
        ("score=0.50", [0]),
        ("good=true", [0]),
        ("good=false", [1]),
        ("good=1", [2]),
        ("good=null", [3]),
        ("tags=dog", []),
        ("étiquette=猫", [3]),
        ("text=a dog", [3]),
        ({'odd "key"': "x"}, [3]),
    ],
)
def test_a_filter_keeps_equal_values(catalog: Catalog, where: Any, rows: list[int]) -> None:
    assert catalog.select(where).tolist() == rows


@pytest.mark.parametrize("attack", ["x' OR '1'='1", "x'; DROP TABLE items; --", '") OR 1=1 --', "%", ":text0", "?"])
def test_a_value_that_looks_like_sql_is_a_value(catalog: Catalog, attack: str) -> None:
    assert catalog.select({"label": attack}).tolist() == []
    assert catalog.select({"id": attack}).tolist() == []
    with pytest.raises(CatalogError, match="unknown field"):
        catalog.select({attack: "x"})
    assert len(catalog) == 4


def test_an_unknown_field_is_named_and_the_known_ones_are_listed(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"unknown field 'colour'; the fields here are id, modality, uri, .*label"):
        catalog.select("modality=image, colour=red")


def test_a_view_sees_what_was_there_after_its_write(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    old = written(path, ITEMS[:2])
    writer = CatalogWriter(path)
    other = Item("a/2.jpg", "image", "/elsewhere", {"label": "lion"})
    writer.apply(State(2, 1, 0, 4, 3), [(2, ITEMS[2]), (3, other)], [1], None)
    writer.apply(State(3, 1, 0, 4, 2), [], [0], None)
    new = old.at(3)
    assert list(old) == ITEMS[:2]
    assert list(old.at(2)) == [ITEMS[0], ITEMS[2], other]
    assert list(new) == [ITEMS[2], other]
    assert [old.find(["a/2.jpg"])[0], new.find(["a/2.jpg"])[0], new.find(["a/1.jpg"])[0]] == [1, 3, -1]
    assert [view.select("label=dog").tolist() for view in (old, old.at(2), new)] == [[0], [0, 2], [2]]
    assert sorted(new.deleted()) == [0, 1]
    assert (old.deleted().tolist(), new.state()) == ([], State(3, 1, 0, 4, 2))
    assert new.counts() == {"audio": 1, "image": 1}


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    catalog = written(tmp_path / "c.sqlite", ITEMS[:2])
    writer = CatalogWriter(tmp_path / "c.sqlite")
    with pytest.raises(OSError, match="UNIQUE"):
        writer.apply(State(2, 1, 0, 4, 4), [(2, ITEMS[2]), (3, ITEMS[1])], [], None)
    assert (list(catalog.at(2)), catalog.state().number) == (ITEMS[:2], 1)


def test_an_id_given_twice_is_refused() -> None:
    with pytest.raises(CatalogError, match=r"given twice: 'a/1.jpg'"):
        check_items([ITEMS[0], ITEMS[0]])


@pytest.mark.parametrize("broken", ["", "a\0b", "\udcff.jpg", None, 3])
def test_an_id_that_cannot_be_kept_is_refused(broken: Any) -> None:
    with pytest.raises(CatalogError, match="an item's id must be a string"):
        Item(broken, "text", "x")


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": b"bytes"}, {"x": {1, 2}}])
def test_metadata_that_json_cannot_hold_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(CatalogError, match="metadata of item 'a' cannot be written as JSON"):
        check_items([Item("a", "text", "x", metadata)])


def test_a_file_that_is_no_catalog_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd #?% name.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(CatalogError, match=r"odd #\?% name.sqlite is not a catalog"):
        Catalog.open(path)


def test_thousands_of_ids_are_one_question(tmp_path: Path) -> None:
    items = [Item(f"{n}", "text", "x") for n in range(50_000)]
    catalog = written(tmp_path / "c.sqlite", items)
    assert catalog.find([item.id for item in items[::-1]]).tolist() == list(range(50_000))[::-1]
