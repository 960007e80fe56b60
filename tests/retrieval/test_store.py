from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import CatalogError, Item, ModelTag, QueryModel, Store, StoreError, VectorIndex, unit_rows
from retrieval.integrity import problems
from retrieval.manifest import FileRecord, sealed_json
from retrieval.precision import Precision

TextItems = Callable[..., list[Item]]


def contents(store: Store) -> list[tuple[Item, list[float]]]:
    """Every item with its vector, in order."""
    rows, items = zip(*store.catalog.numbered(), strict=True)
    return list(zip(items, store.current.vectors.take(np.array(rows)).tolist(), strict=True))


def all_vectors(store: Store) -> np.ndarray:
    return store.current.vectors.take(np.arange(len(store.current.vectors)))


def only_file(store: Store, name: str) -> Path:
    return next(store.folder.rglob(name))


FILES = ["manifest.json", "segment-000001.vectors", "segment-000001.journal", "catalog.sqlite", "catalog.check"]


def test_what_was_stored_is_there_when_opened_again(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    opened = Store.open(store.folder)
    assert list(opened.catalog) == text_items(sentences)
    np.testing.assert_allclose(all_vectors(opened), model.encode(sentences), atol=1e-7)
    np.testing.assert_array_equal(opened.vectors(["text/4", "text/1"]), all_vectors(opened)[[4, 1]])
    assert opened.model == ModelTag.of(model)
    assert len(opened) == len(sentences)


def test_vectors_are_brought_to_length_one(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, text_items: TextItems, sentences: list[str]
) -> None:
    vectors = 100 * rng.normal(size=(len(sentences), 16))
    store = Store.create(tmp_path / "s", text_items(sentences), vectors, model=tag)
    np.testing.assert_array_equal(all_vectors(store), unit_rows(vectors, 16))


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
    for ours, theirs in zip(store.current.search(queries, 5), together.current.search(queries, 5), strict=True):
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
        expected = [*before[:2], *before[3:], *zip(items, vectors.tolist(), strict=True)]
        assert contents(store) == contents(Store.open(store.folder)) == expected
        assert len(store) == len(Store.open(store.folder)) == len(before) + 1
        assert store.current.search(vectors[1:], 1)[1].tolist() == [[len(before) + 1]]


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


def test_what_cannot_be_made_leaves_no_store_and_no_files(
    tmp_path: Path, tag: ModelTag, text_items: TextItems, sentences: list[str]
) -> None:
    with pytest.raises(ValueError, match="zero or not finite"):
        Store.create(tmp_path / "s", text_items(sentences), np.zeros((len(sentences), 16)), model=tag)
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
    if name == "catalog.check":  # as after a crash: the catalog is compared item by item instead
        assert len(Store.open(store.folder, verify=verify)) == 6
    else:
        with pytest.raises(StoreError, match=f"{name} is missing"):
            Store.open(store.folder, verify=verify)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def write_and_compact(store: Store, model: QueryModel) -> None:
    with store.writing() as writer:
        writer.add([Item("new", "text", "x")], model.encode(["new"]))
        writer.compact()


@pytest.mark.parametrize("name", FILES[1:])
def test_damage_is_not_written_under_a_fresh_checksum(store: Store, name: str, model: QueryModel) -> None:
    opened = Store.open(store.folder)
    flip(only_file(store, name), -1)
    with pytest.raises(StoreError, match="is damaged"):
        write_and_compact(opened, model)
    with pytest.raises(StoreError, match="is damaged"):
        Store.open(store.folder, verify=True)


def test_a_newer_format_asks_for_an_upgrade(store: Store) -> None:
    replace(store.current.manifest, format=99).write(store.folder)
    with pytest.raises(StoreError, match="store format 99, this version reads 2: upgrade"):
        Store.open(store.folder)


def test_a_manifest_cannot_name_files_outside_its_store(store: Store) -> None:
    with pytest.raises(ValueError, match="a store's files lie inside it"):
        FileRecord("../index.faiss", 1, "")
    path = only_file(store, "manifest.json")
    content = json.loads(path.read_bytes())
    content.pop("checksum")
    record = {"path": "../../index.faiss", "bytes": 1, "sha256": ""}
    content["index"] = {"file": record, "kind": "hnsw", "rows": 1, "parameters": {}, "recall": 1.0, "bytes": 1}
    path.write_bytes(sealed_json(content))
    with pytest.raises(StoreError, match="a store's files lie inside it"):
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
    with store.writing() as writer:
        writer.add(text_items(sentences, "more"), model.encode(sentences))
        with pytest.raises(StoreError, match=r"is being written by process \d+ on .* since 20.*\(\d+ s\): try again"):
            Store.open(store.folder).add(text_items(sentences, "other"), model.encode(sentences))
    assert len(Store.open(store.folder)) == 2 * len(sentences)


def test_each_write_is_seen_as_soon_as_it_returns(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    before = contents(store)
    with store.writing() as writer:
        writer.add(text_items(sentences, "more"), model.encode(sentences))
        assert contents(Store.open(store.folder)) == contents(store)
        assert len(store) == 2 * len(before)
        assert writer.delete(["text/0", "more/5"]) == 2
        left = [item.id for item in store.catalog]
        assert left == [item.id for item in Store.open(store.folder).catalog]
        assert not {"text/0", "more/5"} & set(left)


def test_a_deleted_item_is_not_found_and_its_id_is_free(
    store: Store, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    items = text_items(sentences)
    assert store.delete(["text/2", "text/2"]) == 1
    assert [item.id for item in store.catalog] == [item.id for item in items if item.id != "text/2"]
    rows = store.current.search(model.encode(sentences), 6)[1]
    assert rows.shape == (6, 5)
    assert 2 not in rows
    with pytest.raises(CatalogError, match="not in the store: 'text/2'"):
        store.delete(["text/2"])
    assert store.delete(["text/2", "nobody"], missing_ok=True) == 0
    store.add([items[2]], model.encode([sentences[2]]))
    assert store.catalog.get(["text/2"]) == [items[2]]
    assert store.catalog.counts() == {"text": 6}


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_compacting_keeps_what_is_there_bit_by_bit(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, precision: Precision
) -> None:
    vectors = unit_rows(rng.normal(size=(300, 16)), 16)
    items = [Item(f"{n}", "text", "x", {"n": n}, f"hash {n}") for n in range(300)]
    store = Store.create(tmp_path / "s", items, vectors, model=tag, precision=precision)
    gone = [f"{n}" for n in range(0, 300, 3)]
    store.delete(gone)
    before = contents(store)
    size = sum(path.stat().st_size for path in store.folder.rglob("*.vectors"))
    with store.writing() as writer:
        writer.compact()
    assert contents(store) == contents(Store.open(store.folder, verify=True)) == before
    assert [item.content for item in store.catalog] == [f"hash {n}" for n in range(300) if n % 3]
    assert sum(path.stat().st_size for path in store.folder.rglob("*.vectors")) == size * 2 // 3
    assert len(list(store.folder.glob("generation-*"))) == 1
    error = {"float32": 1e-7, "float16": 1e-3, "int8": 1e-2}[precision]
    np.testing.assert_allclose(all_vectors(store), vectors[np.arange(300) % 3 > 0], atol=error)
    np.testing.assert_allclose(np.linalg.norm(all_vectors(store), axis=1), 1, atol=1e-6)


def test_full_segments_are_sealed_and_searched_like_one(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.writer.SEGMENT_BYTES", 40 * 16 * 4)
    vectors = unit_rows(rng.normal(size=(300, 16)), 16)
    store = Store.create(tmp_path / "s", model=tag)
    with store.writing() as writer:
        for n in range(0, 300, 30):
            writer.add([Item(f"{m}", "text", "x") for m in range(n, n + 30)], vectors[n : n + 30])
    assert len(store.current.manifest.sealed) == 5
    opened = Store.open(store.folder, verify=True)
    np.testing.assert_allclose(all_vectors(opened), vectors, atol=1e-7)
    some = rng.permutation(300)
    np.testing.assert_array_equal(opened.current.vectors.take(some), all_vectors(opened)[some])
    _, rows = opened.current.search(vectors[:9], 12)
    np.testing.assert_array_equal(rows, np.argsort(-(vectors[:9] @ vectors.T), axis=1)[:, :12])
    for number in range(1, 7):
        path = only_file(opened, f"segment-{number:06d}.vectors")
        whole = path.read_bytes()
        if whole:
            flip(path, 17)
            (found,) = problems(opened.folder)
            assert f"{path.name} is damaged" in found.what
            assert f"rows {(number - 1) * 60} to" in found.what
            path.write_bytes(whole)


def test_a_merge_and_a_compaction_at_once_leave_an_index_of_the_new_rows(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, compactions = VectorIndex.build, []

    def build_beside_a_compaction(*arguments: Any, **options: Any) -> VectorIndex:
        index = build(*arguments, **options)
        if not compactions:
            compactions.append(threading.Thread(target=writer.compact))
            compactions[0].start()
            compactions[0].join(0.5)  # it comes between, unless it waits for the merge
        return index

    vectors = unit_rows(rng.normal(size=(1_000, 16)), 16)
    items = [Item(f"{n}", "text", "x") for n in range(1_000)]
    store = Store.create(tmp_path / "s", items, vectors, model=tag, kind="ivf-sq", recall=0.9)
    store.delete([f"{n}" for n in range(0, 1_000, 2)])
    monkeypatch.setattr(VectorIndex, "build", build_beside_a_compaction)
    with store.writing() as writer:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(writer.merge) for _ in range(2)]:
                done.result()
        compactions[0].join()
    for opened in (store, Store.open(store.folder, verify=True)):
        assert opened.current.index is not None
        rows = opened.current.search(vectors[1::2], 1)[1][:, 0]
        assert [item.id for item in opened.catalog.items(rows)] == [f"{n}" for n in range(1, 1_000, 2)]


@pytest.mark.parametrize("kind", ["hnsw", "ivf-rabitq", "ivf-sq", "ivf-pq"])
@pytest.mark.parametrize("count", [0, 1, 15, 60, 630])
def test_any_kind_can_be_wanted_of_a_few_items_and_faiss_warns_of_none(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, kind: str, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    vectors = unit_rows(rng.normal(size=(count, 16)), 16) if count else np.empty((0, 16), np.float32)
    items = [Item(f"{n}", "text", "x") for n in range(count)]
    store = Store.create(tmp_path / "s", items, vectors, model=tag, kind=kind)
    with store.writing() as writer:
        writer.merge()
    rows = store.current.search(vectors, 1)[1]
    np.testing.assert_array_equal(rows, np.arange(count).reshape(count, min(1, count)))
    assert store.current.manifest.index_kind == kind
    assert capfd.readouterr() == ("", "")


def test_a_kind_that_is_none_and_a_recall_that_cannot_be_are_refused(store: Store) -> None:
    with store.writing() as writer:
        with pytest.raises(ValueError, match=r"kind must be one of auto, exact, .*, got 'tree'"):
            writer.merge("tree")
        with pytest.raises(ValueError, match=r"recall must be from 0.5 to 1, got 2"):
            writer.merge(recall=2)
    assert Store.open(store.folder).current.manifest == store.current.manifest


def test_a_segment_that_cannot_be_sealed_grows_on_and_the_next_write_is_told(
    store: Store, model: QueryModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.writer.SEGMENT_BYTES", 1)
    obstacle = only_file(store, "segment-000001.vectors").with_name("segment-000002.vectors")

    def items(name: str) -> list[Item]:
        return [Item(name, "text", "x")]

    with store.writing() as writer:
        obstacle.mkdir()
        writer.add(items("a"), model.encode(["first"]))
        assert len(store) == 7
        with pytest.raises(StoreError, match=r"could not be sealed \(.*; what was written is there"):
            writer.add(items("b"), model.encode(["second"]))
        assert len(store) == 7
        obstacle.rmdir()
        writer.add(items("b"), model.encode(["second"]))
        writer.add(items("c"), model.encode(["third"]))
    opened = Store.open(store.folder, verify=True)
    assert [item.id for item in opened.catalog] == [*(f"text/{n}" for n in range(6)), "a", "b", "c"]
    assert len(opened.current.manifest.sealed) == 2
    np.testing.assert_allclose(opened.vectors(["b"]), model.encode(["second"]), atol=1e-7)


def test_a_compaction_that_cannot_be_finished_leaves_a_writer_that_goes_on(store: Store, model: QueryModel) -> None:
    store.delete(["text/3"])
    obstacle = store.folder / f".manifest.json.{os.getpid()}.part"
    with store.writing() as writer:
        obstacle.mkdir()
        with pytest.raises(OSError, match="Is a directory"):
            writer.compact()
        obstacle.rmdir()
        assert len(list(store.folder.glob("generation-*"))) == 1
        writer.add([Item("a", "text", "x")], model.encode(["first"]))
        before = contents(store)
        writer.compact()
        assert contents(store) == before
    assert contents(Store.open(store.folder, verify=True)) == before


def test_a_merge_that_cannot_be_finished_leaves_the_index_that_was_there(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator
) -> None:
    vectors = unit_rows(rng.normal(size=(300, 16)), 16)
    items = [Item(f"{n}", "text", "x") for n in range(300)]
    store = Store.create(tmp_path / "s", items, vectors, model=tag, kind="ivf-sq")
    obstacle = store.folder / f".manifest.json.{os.getpid()}.part"
    with store.writing() as writer:
        writer.merge()
        obstacle.mkdir()
        with pytest.raises(OSError, match="Is a directory"):
            writer.merge("hnsw")
        obstacle.rmdir()
        assert problems(store.folder) == []
        assert len(list(store.folder.rglob("index-*"))) == 1
        writer.merge("hnsw")
    opened = Store.open(store.folder, verify=True)
    assert opened.current.index is not None
    assert opened.current.index.kind == "hnsw"
    assert len(list(store.folder.rglob("index-*"))) == 1


@pytest.mark.parametrize("runs", [False, True])
def test_an_interrupt_while_a_merge_is_begun_leaves_a_writer_that_closes_and_loses_nothing(
    runs: bool, tmp_path: Path, tag: ModelTag, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.writer.TAIL_ROWS", 100)
    vectors = unit_rows(rng.normal(size=(400, 16)), 16)
    items = [Item(f"{n}", "text", "x") for n in range(400)]
    store = Store.create(tmp_path / "s", model=tag, kind="ivf-sq")
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name != "onepeace-merge":
            start(thread)
            return
        monkeypatch.setattr(threading.Thread, "start", start)
        if runs:
            thread.start()
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with store.writing() as writer:
        with pytest.raises(KeyboardInterrupt):
            writer.add(items[:200], vectors[:200])
        writer.add(items[200:], vectors[200:])
    opened = Store.open(store.folder, verify=True)
    assert [item.id for item in opened.catalog] == [f"{n}" for n in range(400)]
    np.testing.assert_allclose(opened.vectors(["399"]), vectors[399:], atol=1e-7)
    assert opened.current.index is not None


def test_a_writer_that_was_closed_says_so(store: Store, model: QueryModel) -> None:
    with store.writing() as writer:
        pass
    with pytest.raises(StoreError, match="was closed: open another one"):
        writer.add([Item("a", "text", "x")], model.encode(["first"]))


def test_deleted_rows_are_known_after_any_writes(store: Store, rng: np.random.Generator) -> None:
    reader = Store.open(store.folder)
    for number in range(30):
        store.add([Item(f"{number}/{n}", "text", "x") for n in range(3)], rng.normal(size=(3, 16)))
        there = [item.id for item in store.catalog]
        store.delete(rng.choice(there, rng.integers(0, 4), replace=False).tolist())
        if number % 7 == 0:
            reader.refresh()
    reader.refresh()
    for current in (store.current, reader.current, Store.open(store.folder).current):
        expected = np.ones(len(current.vectors), dtype=bool)
        expected[current.catalog.deleted()] = False
        np.testing.assert_array_equal(current.live, expected)
    assert not expected.all()


def test_single_writes_leave_the_checksum_of_the_catalog_to_the_end(store: Store, model: QueryModel) -> None:
    check = only_file(store, "catalog.check")
    for n in range(3):
        store.add([Item(f"{n}", "text", "x")], model.encode(["first"]))
        assert not check.exists()
        assert problems(store.folder) == []
    store.close()
    assert check.exists()
    assert problems(store.folder) == []


def test_a_store_of_nothing_finds_nothing(tmp_path: Path, tag: ModelTag, model: QueryModel) -> None:
    scores, rows = Store.create(tmp_path / "s", model=tag).current.search(model.encode(["a dog", "a cat"]), 5)
    assert scores.shape == rows.shape == (2, 0)


@pytest.mark.parametrize(("within", "width"), [(None, 6), (np.arange(4), 4), (np.empty(0, np.int64), 0)])
def test_no_more_hits_than_items(store: Store, model: QueryModel, within: np.ndarray | None, width: int) -> None:
    scores, rows = store.current.search(model.encode(["a dog", "a cat"]), 1_000, within)
    assert scores.shape == rows.shape == (2, width)
    assert (rows >= 0).all()


def test_queries_that_are_not_unit_rows_are_refused(store: Store) -> None:
    for query in (np.full((1, 16), np.nan, np.float32), np.full((1, 16), 0.5, np.float32) * 3):
        with pytest.raises(ValueError, match=r"rows \[0\] do not have length one"):
            store.current.search(query, 1)


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
