from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval import CatalogError, Item, ModelTag, QueryModel, Store, StoreError, unit_rows

TextItems = Callable[..., list[Item]]


def contents(store: Store) -> list[tuple[Item, list[float]]]:
    """Every item with its vector, in order."""
    return list(zip(store.catalog, store.current.vectors.tolist(), strict=True))


def only_file(store: Store, name: str) -> Path:
    return next(store.folder.rglob(name))


FILES = ["manifest.json", "vectors.npy", "catalog.sqlite", "index.faiss"]


def test_what_was_stored_is_there_when_opened_again(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    opened = Store.open(store.folder)
    assert list(opened.catalog) == text_items(sentences)
    np.testing.assert_allclose(opened.current.vectors, model.encode(sentences), atol=1e-7)
    np.testing.assert_array_equal(opened.vectors(["text/4", "text/1"]), opened.current.vectors[[4, 1]])
    assert opened.model == ModelTag.of(model)
    assert len(opened) == len(sentences)


def test_vectors_are_brought_to_length_one(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, text_items: TextItems, sentences: list[str]
) -> None:
    vectors = 100 * rng.normal(size=(len(sentences), 16))
    store = Store.create(tmp_path / "s", text_items(sentences), vectors, model=tag)
    np.testing.assert_array_equal(store.current.vectors, unit_rows(vectors, 16))


def test_adding_equals_creating_with_everything(
    tmp_path: Path, store: Store, tag: ModelTag, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    more = text_items(sentences[::-1], prefix="more")
    store.add(more, model.encode(sentences[::-1]))
    together = Store.create(
        tmp_path / "together", text_items(sentences) + more, model.encode(sentences + sentences[::-1]), model=tag
    )
    assert contents(store) == contents(Store.open(store.folder)) == contents(together)
    queries = model.encode(sentences)
    for ours, theirs in zip(
        store.current.index.search(queries, 5), together.current.index.search(queries, 5), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_store_of_nothing_opens_and_grows(
    tmp_path: Path, tag: ModelTag, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    store = Store.create(tmp_path / "s", [], [], model=tag)
    assert len(Store.open(store.folder)) == 0
    store.add(text_items(sentences), model.encode(sentences))
    assert list(Store.open(store.folder).catalog) == text_items(sentences)


@pytest.mark.parametrize("replace", [False, True])
def test_a_taken_id_is_refused_unless_it_may_be_replaced(store: Store, model: QueryModel, replace: bool) -> None:
    before = contents(store)
    items = [Item("new", "text", "x"), Item("text/2", "text", "elsewhere")]
    vectors = unit_rows(model.encode(["something new", "something else"]), 16)
    if not replace:
        with pytest.raises(CatalogError, match="already in the store: 'text/2'"):
            store.add(items, vectors)
        assert contents(store) == contents(Store.open(store.folder)) == before
    else:
        store.add(items, vectors, replace=True)
        expected = [*before[:2], (items[1], vectors[1].tolist()), *before[3:], (items[0], vectors[0].tolist())]
        assert contents(store) == contents(Store.open(store.folder)) == expected
        assert store.current.index.search(vectors[1:], 1)[1].tolist() == [[2]]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, 16)), "got 2 items and 1 vectors"),
        (np.ones((2, 8)), "dimension 16, got shape"),
        (np.zeros((2, 16)), "zero or not finite"),
        (np.full((2, 16), np.nan), "zero or not finite"),
    ],
)
def test_vectors_that_do_not_fit_change_nothing(
    store: Store, vectors: np.ndarray, message: str, text_items: TextItems, sentences: list[str]
) -> None:
    before = contents(store)
    with pytest.raises(ValueError, match=message):
        store.add(text_items(sentences[:2], prefix="more"), vectors)
    assert contents(store) == contents(Store.open(store.folder)) == before


def test_an_error_halfway_leaves_no_store_and_no_files(
    tmp_path: Path, tag: ModelTag, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    def write() -> None:
        with Store.creating(tmp_path / "s", model=tag) as writer:
            writer.append(text_items(sentences), model.encode(sentences))
            raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused_by_name(
    store: Store, tag: ModelTag, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    other = replace(tag, name="words", fingerprint="beef" * 8)
    with pytest.raises(
        StoreError, match=r"built with characters \(fingerprint c0ffeec0ffee.*you gave words \(fingerprint beefbeef"
    ):
        store.add(text_items(sentences, "more"), model.encode(sentences), model=other)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_byte_is_detected_and_its_file_named(store: Store, name: str, place: float) -> None:
    path = only_file(store, name)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{name} is damaged"):
        Store.open(store.folder)


def test_any_flipped_byte_of_the_manifest_is_detected(store: Store) -> None:
    path = only_file(store, "manifest.json")
    whole = path.read_bytes()
    for place in range(len(whole.rstrip())):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
            Store.open(store.folder)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("verify", [False, True])
def test_a_cut_or_missing_file_is_named_whether_or_not_checksums_are_compared(
    store: Store, name: str, verify: bool
) -> None:
    path = only_file(store, name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"{name} is damaged"):
        Store.open(store.folder, verify=verify)
    path.unlink()
    with pytest.raises(StoreError, match=f"{name} is missing"):
        Store.open(store.folder, verify=verify)


def test_damage_is_not_copied_under_a_fresh_checksum(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    path = only_file(store, "vectors.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"vectors\.npy is damaged"):
        store.add(text_items(sentences, "more"), model.encode(sentences))


def test_a_newer_format_asks_for_an_upgrade(store: Store) -> None:
    replace(store.current.manifest, format=99).write(store.folder)
    with pytest.raises(StoreError, match="store format 99, this version reads 1: upgrade"):
        Store.open(store.folder)


def test_a_manifest_cannot_name_files_outside_its_store(store: Store) -> None:
    manifest = store.folder / "manifest.json"
    outside = replace(store.current.manifest)
    object.__setattr__(outside.catalog, "path", "../catalog.sqlite")
    outside.write(store.folder)
    assert "../catalog" in manifest.read_text()
    with pytest.raises(StoreError, match=r"a store's files lie inside it"):
        Store.open(store.folder)


@pytest.mark.parametrize("content", [None, "a file"])
def test_a_place_that_is_taken_is_refused(tmp_path: Path, tag: ModelTag, content: str | None) -> None:
    place = tmp_path / "place"
    if content is None:
        place.mkdir()
        (place / "letters.txt").write_text("mine")
    else:
        place.write_text(content)
    with pytest.raises(StoreError, match="already exists and is not an empty folder"):
        Store.create(place, [], [], model=tag)


def test_an_empty_folder_can_become_a_store_even_deep_down(tmp_path: Path, tag: ModelTag) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "not" / "yet" / "there [1]*"):
        Store.create(place, [], [], model=tag)
        assert len(Store.open(place)) == 0


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"is not a store \(it has no manifest\.json\): make one with `onepeace index build`"
    ):
        Store.open(tmp_path)


def test_one_writer_at_a_time_and_the_other_learns_who_writes(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    with store.adding() as writer:
        writer.append(text_items(sentences, "more"), model.encode(sentences))
        with pytest.raises(StoreError, match=r"is being written by process \d+ on .* since 20"):
            Store.open(store.folder).add(text_items(sentences, "other"), model.encode(sentences))
    assert len(Store.open(store.folder)) == 2 * len(sentences)


def test_nothing_is_seen_of_a_write_before_it_is_done(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    before = contents(store)
    with store.adding() as writer:
        writer.append(text_items(sentences, "more"), model.encode(sentences))
        assert contents(Store.open(store.folder)) == contents(store) == before


def test_an_open_store_stays_whole_while_another_writes_and_can_go_on_to_the_new_state(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    reader = Store.open(store.folder)
    before = contents(reader)
    store.add(text_items(sentences, "more"), model.encode(sentences))
    store.add(text_items(sentences, "most"), model.encode(sentences))
    assert contents(reader) == before
    assert reader.refresh()
    assert contents(reader) == contents(store)
    assert not reader.refresh()


def test_a_writer_goes_on_from_what_others_wrote(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    stale = Store.open(store.folder)
    store.add(text_items(sentences, "first"), model.encode(sentences))
    stale.add(text_items(sentences, "second"), model.encode(sentences))
    assert len(stale) == len(Store.open(store.folder)) == 3 * len(sentences)


def test_readers_that_open_while_a_writer_publishes_always_get_a_whole_state(store: Store, model: QueryModel) -> None:
    vector = model.encode(["x y"])
    lengths: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with Store.open(store.folder) as reader:
                lengths.append(len(list(reader.catalog)))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for n in range(20):
            store.add([Item(f"new {n}", "text", "x")], vector)
    finally:
        done.set()
        thread.join()
    assert lengths == sorted(lengths)
    assert set(lengths) <= set(range(6, 27))


def test_a_store_can_be_moved(store: Store, tmp_path: Path) -> None:
    before = contents(store)
    store.close()
    shutil.move(store.folder, tmp_path / "elsewhere")
    assert contents(Store.open(tmp_path / "elsewhere")) == before
