"""Milvus Lite, for real: the same answers as the local store's."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from character_model import Interrupted, InterruptedModel
from hypothesis import given, settings
from hypothesis import strategies as st
from test_filters import as_text, fulfils, random_condition
from typer.testing import Result

from onepeace import Compose
from retrieval import (
    BuildConfig,
    CatalogError,
    EmbeddingModel,
    Item,
    MilvusStore,
    ModelTag,
    QueryModel,
    Searcher,
    SearchHit,
    Store,
    Stored,
    StoreError,
    add_to_store,
    build_in_milvus,
    unit_rows,
)
from retrieval.filters import Compare, parse_where
from retrieval.milvus_filters import divided

Run = Callable[..., Result]
ITEMS = 300
ODD = ['a "quoted" \\ name', "two\nlines", "猫/8", "100%_sure", "*", "it's", " spaces "]


def made_items(rng: np.random.Generator) -> list[Item]:
    mixed = [1, 10, 1.5, True, False, None, "x", "1", "true", ["x"], {"a": 1}, 2**53 + 1, 2**70]
    items = []
    for n in range(ITEMS):
        metadata: dict[str, Any] = {"fold": n % 23}
        if rng.random() < 0.8:
            metadata["label"] = str(rng.choice(["dog", "cat", "Dog", "a dog", "2020", "", *ODD]))
        if rng.random() < 0.8:
            metadata["year"] = [2019, 2020, 2021, 2020.5, "2020", -1][rng.integers(6)]
        if rng.random() < 0.8:
            metadata["mixed"] = mixed[rng.integers(len(mixed))]
        if n == 0:
            metadata |= {"never": 2, 'étiquette/~ [0]"': "odd"}
        name = ODD[n] if n < len(ODD) else f"item/{n}"
        modality = ["image", "audio", "text"][rng.integers(3)]
        items.append(
            Item(name, modality, f"/x/{n % 7}{['.jpg', '.wav'][n % 2]}", metadata, content=f"hash {n - (n % 10 == 9)}")
        )
    return items


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, MilvusStore, list[Item], np.ndarray]]:
    """The same items and vectors in both kinds of store."""
    rng = np.random.default_rng(7)
    items, rows = made_items(rng), unit_rows(rng.normal(size=(ITEMS, 16)), 16)
    tag = ModelTag("characters", "c0ffee" * 4, 16)
    folder = tmp_path_factory.mktemp("both")
    with (
        Store.create(folder / "local", items, rows, model=tag) as local,
        MilvusStore.create(folder / "lite.db", items, rows, model=tag) as there,
    ):
        yield local, there, items, rows


def same(one: list[SearchHit], other: list[SearchHit]) -> None:
    assert [(hit.item, hit.item.content, hit.rank) for hit in one] == [
        (hit.item, hit.item.content, hit.rank) for hit in other
    ]
    np.testing.assert_allclose([hit.score for hit in one], [hit.score for hit in other], atol=1e-5)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"where": "modality=image and year>=2020"},
        {"where": "label ~ ?og or not uri ~ *.jpg"},
        {"where": "mixed=null", "top_k": 400},
        {"where": "year=1999"},
        {"offset": 7, "top_k": 5},
        {"offset": 298},
        {"min_score": 0.2, "top_k": 300},
        {"group_by": "fold"},
        {"group_by": "fold", "top_k": 100},
        {"group_by": "uri", "where": "modality=text"},
        {"diversity": 0.4},  # at a half, all that is left ties where the query is an item itself
        {"diversity": 0.3, "group_by": "label", "offset": 2},
        {"copies": False, "top_k": 100},
        {"rerank": True, "top_k": 300},
        {"rerank": True, "group_by": "fold", "where": "modality=image"},
    ],
    ids=str,
)
def test_hits_are_those_of_a_local_store(
    filled: tuple[Store, MilvusStore, list[Item], np.ndarray], wanted: dict[str, Any]
) -> None:
    local, there, _, rows = filled
    queries = [rows[3], Stored("猫/8"), Compose(Stored("item/30"), rows[8], Stored(ODD[0]), weights=[1.0, 0.5, -0.4])]
    here, far = (Searcher(store, bank=rows[100:150]) for store in (local, there))
    for ours, theirs in zip(here.search_many(queries, **wanted), far.search_many(queries, **wanted), strict=True):
        same(ours, theirs)
    for name in ("item/40", ODD[1]):
        same(here.search_like(name, **wanted), far.search_like(name, **wanted))


def test_texts_are_searched_with_as_in_a_local_store(
    filled: tuple[Store, MilvusStore, list[Item], np.ndarray], model: QueryModel, sentences: list[str]
) -> None:
    local, there, _, _ = filled
    for ours, theirs in zip(
        Searcher(local, model).search_many(sentences), Searcher(there, model).search_many(sentences), strict=True
    ):
        same(ours, theirs)
    assert Searcher(there).search_many([]) == []


def test_random_filters_keep_what_brute_force_keeps(
    filled: tuple[Store, MilvusStore, list[Item], np.ndarray],
) -> None:
    local, there, items, _ = filled
    rng = np.random.default_rng(8)
    for _ in range(200):
        condition = random_condition(rng)
        written = as_text(condition)
        expected = {item.id for item in items if fulfils(item, condition)}
        assert set(there.ids(written)) == expected == set(local.ids(written)), written


@pytest.mark.parametrize("name", ODD)
def test_odd_texts_are_found_as_they_are(filled: tuple[Store, MilvusStore, list[Item], np.ndarray], name: str) -> None:
    local, there, _, _ = filled
    assert there.ids({"id": name}) == [name]
    assert set(there.ids({"label": name})) == set(local.ids({"label": name})) != set()
    for pattern in (f"*{name[1:]}", f"{name[:-1]}?", f"[{name[:1]}]*"):
        quoted = pattern.replace("\\", "\\\\").replace('"', '\\"')
        assert set(there.ids(f'label ~ "{quoted}"')) == set(local.ids(f'label ~ "{quoted}"'))


MARKS = "abo dg*?[]%_\\\"'{}()$\n\r\t\x01\x85\u2028猫🐶"


def test_any_text_can_be_asked_for(filled: tuple[Store, MilvusStore, list[Item], np.ndarray]) -> None:
    local, there, _, _ = filled

    @settings(max_examples=25, derandomize=True)
    @given(st.text(st.sampled_from(MARKS), min_size=1) | st.text(min_size=1).filter(lambda text: "\0" not in text))
    def asked(text: str) -> None:
        quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for where in (f"label={quoted}", f"label~{quoted}", f"uri<{quoted} or not id={quoted}"):
            assert set(there.ids(where)) == set(local.ids(where))

    asked()


def test_any_text_can_be_kept(tmp_path: Path, tag: ModelTag) -> None:
    item = Item(MARKS, "text", MARKS, {"label": MARKS, MARKS: MARKS})
    with MilvusStore.create(tmp_path / "a.db", [item], np.eye(1, 16), model=tag) as store:
        for field in ("id", "label", "uri", MARKS):
            assert store.ids({field: MARKS}) == [MARKS]
        assert list(store) == [item]


@pytest.mark.parametrize(
    "where",
    [
        *(f"mixed {operator} {2**53 + 1}" for operator in ("=", "<", ">=")),
        f"mixed > {2**53}",
        "mixed < 1e15",
        "mixed = 1.5",
        "mixed > -1e-3",
        'mixed = "" or label=""',
        "label ~ *",
        "label ~ **og",
        'label ~ ""',
        "not label ~ *o*",
        'label < "a"',
        '"étiquette/~ [0]\\"" = odd',
        'not "étiquette/~ [0]\\"" = odd',
        "not (mixed=1 or mixed=true) and label ~ ?og",
        "id > item/200 and id in (item/250, item/3)",
    ],
)
def test_filters_at_the_edge_keep_what_a_local_store_keeps(
    filled: tuple[Store, MilvusStore, list[Item], np.ndarray], where: str
) -> None:
    local, there, _, _ = filled
    assert set(there.ids(where)) == set(local.ids(where))


def test_what_milvus_can_decide_is_left_to_it() -> None:
    expression, left = divided(parse_where("modality=image and year>=2020 and label ~ ?og and not uri ~ *.jpg"))
    assert left == Compare("label", "?og", "~")
    assert expression.count("exists") == 1
    assert expression.endswith('(not (uri like "%.jpg"))')


def test_an_unknown_field_is_named(filled: tuple[Store, MilvusStore, list[Item], np.ndarray]) -> None:
    local, there, _, rows = filled
    told = []
    for store in (local, there):
        with pytest.raises(
            CatalogError, match="unknown field 'colour'; the fields here are id, modality, uri,"
        ) as error:
            Searcher(store).search(rows[0], where="colour=red")
        told.append(str(error.value))
    assert told[0] == told[1]
    with pytest.raises(CatalogError, match="not in the store: 'nobody'"):
        Searcher(there).search(Stored("nobody"))


def test_items_and_vectors_are_kept_as_they_were(filled: tuple[Store, MilvusStore, list[Item], np.ndarray]) -> None:
    local, there, items, rows = filled
    assert {item.id: (item, item.content) for item in there} == {item.id: (item, item.content) for item in items}
    assert (len(there), there.counts(), there.fields()) == (ITEMS, local.catalog.counts(), local.catalog.fields())
    ids = [items[n].id for n in (5, 2, 5, 299)]
    np.testing.assert_allclose(there.vectors_of(ids), rows[[5, 2, 5, 299]], atol=1e-7)


def test_threads_may_search_together(filled: tuple[Store, MilvusStore, list[Item], np.ndarray]) -> None:
    _, there, _, rows = filled
    alone = [Searcher(there).search(row, 5, "modality=image") for row in rows[:12]]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda row: Searcher(there).search(row, 5, "modality=image"), rows[:12])) == alone


def test_adding_replacing_and_deleting_show_at_once_and_after_opening_again(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator
) -> None:
    rows = unit_rows(rng.normal(size=(2_500, 16)), 16)
    items = [Item(f"{n}", "image", f"/x/{n}", {"n": n}) for n in range(2_500)]
    with MilvusStore.create(tmp_path / "a.db", items[:2_400], rows[:2_400], model=tag) as store:
        with pytest.raises(CatalogError, match="already in the store: '7'"):
            store.add([items[2_450], items[7]], rows[[2_450, 7]])
        with pytest.raises(CatalogError, match="given twice: '2450'"):
            store.add([items[2_450]] * 2, rows[:2])
        with pytest.raises(ValueError, match="zero or not finite"):
            store.add([items[2_450]], np.zeros((1, 16)))
        assert len(store) == 2_400
        store.add([replace(items[7], metadata={"n": "seven"}), items[2_450]], 3 * rows[[8, 2_450]], replace=True)
        assert Searcher(store).search(rows[8], 2)[1].item.metadata in ({"n": "seven"}, {"n": 8})
        assert store.delete(["3", "4", "4"]) == 2
        with pytest.raises(CatalogError, match="not in the store: '3'"):
            store.delete(["5", "3"])
        assert store.delete(["5", "3"], missing_ok=True) == 1
        store.merge_what_waits()
        assert store.delete(["6"]) == 1  # one that is sealed
    with MilvusStore.open(tmp_path / "a.db") as store, MilvusStore.open(tmp_path / "a.db") as other:
        assert len(store) == len(other) == 2_397
        assert store.known(["3", "5", "6", "7", "2450"]).tolist() == [False, False, False, True, True]
        np.testing.assert_allclose(store.vectors_of(["7", "2450"]), rows[[8, 2_450]], atol=1e-6)
        kept = [n for n in (*range(2_400), 2_450) if n not in (3, 4, 5, 6, 7)]
        best = sorted(kept, key=lambda n: -float(rows[100] @ rows[n]))[:10]
        assert [hit.item.id for hit in Searcher(store).search(rows[100], 10, "n >= 0")] == [f"{n}" for n in best]


def test_what_was_written_survives_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, numpy as np\n"
        "from retrieval import Item, ModelTag\n"
        "from retrieval.milvus import MilvusStore\n"
        "store = MilvusStore.create(sys.argv[1], model=ModelTag('m', 'ab' * 16, 4))\n"
        "store.add([Item(f'{n}', 'text', 'x', {'n': n}) for n in range(1_500)], np.eye(4)[np.arange(1_500) % 4])\n"
        "store.delete(['0'])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    place = tmp_path / "a.db"
    assert subprocess.run([sys.executable, "-c", script, place], check=False).returncode == -9
    with MilvusStore.open(place) as store:
        assert (len(store), store.fields()[-1], len(store.ids("n < 10"))) == (1_499, "n", 9)


def test_what_cannot_be_added_makes_no_store(tmp_path: Path, tag: ModelTag) -> None:
    for items, vectors in (([Item("a", "text", "x")], np.eye(2, 16)), ([Item("a", "text", "x")] * 2, np.eye(2, 16))):
        with pytest.raises(ValueError, match=r"one vector an item|given twice"):
            MilvusStore.create(tmp_path / "a.db", items, vectors, model=tag)
        with pytest.raises(StoreError, match="has no collection 'onepeace'"):
            MilvusStore.open(tmp_path / "a.db")


def test_stores_share_a_file_by_their_collections(tmp_path: Path, tag: ModelTag) -> None:
    for name in ("one", "other"):
        MilvusStore.create(
            tmp_path / "a.db", [Item(name, "text", "x")], np.eye(1, 16), model=tag, collection=name
        ).close()
    with MilvusStore.open(tmp_path / "a.db", "other") as store:
        assert [item.id for item in store] == ["other"]
    for wrong, told in (("third", "has no collection 'third'"), ("one_about", "was not made by onepeace")):
        with pytest.raises(StoreError, match=told):
            MilvusStore.open(tmp_path / "a.db", wrong)
    with pytest.raises(StoreError, match="has a collection 'one' already"):
        MilvusStore.create(tmp_path / "a.db", model=tag, collection="one")
    with pytest.raises(ValueError, match="a collection's name holds letters"):
        MilvusStore.open(tmp_path / "a.db", "no name")


@pytest.mark.parametrize("kind", ["hnsw", "exact"])
def test_either_kind_of_index_finds_the_nearest(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, kind: str
) -> None:
    rows = unit_rows(rng.normal(size=(1_000, 16)), 16)
    items = [Item(f"{n}", "image", "x", {"n": n}) for n in range(1_000)]
    with MilvusStore.create(tmp_path / "a.db", items, rows, model=tag, kind=kind) as store:
        store.merge_what_waits()
        found = np.array([[int(hit.item.id) for hit in hits] for hits in Searcher(store).search_many(rows[:50], 10)])
        for hits, query in zip(Searcher(store).search_many(rows[50:60], 40, "n < 35"), rows[50:60], strict=True):
            assert [hit.item.id for hit in hits] == [f"{n}" for n in np.argsort(-(rows[:35] @ query))]
    true = np.argsort(-(rows[:50] @ rows.T), axis=1)[:, :10]
    shared = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, true, strict=True)])
    assert shared == 1 if kind == "exact" else shared > 0.95


def test_another_model_is_refused_by_name(tmp_path: Path, model: EmbeddingModel, tag: ModelTag) -> None:
    other = replace(tag, name="words", fingerprint="beef" * 8)
    with MilvusStore.create(tmp_path / "a.db", model=other) as store:
        with pytest.raises(
            StoreError, match=r"collection onepeace of .*a.db was built with words .*you gave characters"
        ):
            Searcher(store, model)  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="built with words"):
            add_to_store(store, [], model)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (Item("x" * 70_000, "text", "x"), "the id of item 'xxx"),
        (Item("a", "text", "x", {"text": "猫" * 22_000}), "the metadata of item 'a' takes 132,"),
        (Item("a", "text", "x", {"text": "\ud800"}), "the metadata of item 'a' holds half characters"),
    ],
)
def test_what_milvus_cannot_hold_is_refused_by_name(tmp_path: Path, tag: ModelTag, item: Item, told: str) -> None:
    with MilvusStore.create(tmp_path / "a.db", model=tag) as store:
        with pytest.raises(CatalogError, match=told):
            store.add([item], np.eye(1, 16))
        assert (len(store), store.fields()) == (0, ["id", "modality", "uri"])


def test_more_hits_than_milvus_gives_are_refused(
    filled: tuple[Store, MilvusStore, list[Item], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, there, _, rows = filled
    monkeypatch.setattr("retrieval.milvus.MOST_HITS", 299)
    with pytest.raises(StoreError, match="at most 299 hits"):
        Searcher(there).search(rows[0], 300)
    assert len(Searcher(there).search(rows[0], 299)) == 299


def test_a_build_that_is_interrupted_goes_on_and_embeds_equal_content_once(tmp_path: Path) -> None:
    model, folder = InterruptedModel(), tmp_path / "files"
    folder.mkdir()
    for n in range(200):
        (folder / f"{n:04}.jpg").write_bytes(f"picture number {n % 150}".encode())
    config = BuildConfig(batch_size=10, batches_at_once=4)
    for allowed in (50, 90):
        model.left = allowed
        with pytest.raises(Interrupted):
            build_in_milvus([folder], tmp_path / "a.db", model, config)
    model.left = 10_000
    report = build_in_milvus([folder], tmp_path / "a.db", model, config)
    again = build_in_milvus([folder], tmp_path / "a.db", model, config)
    assert (again.added, again.present) == (0, 200)
    assert report.added + report.present == 200
    assert len(model.embedded) == 150
    assert model.embedded.total() - 150 <= 2 * 40
    with MilvusStore.open(tmp_path / "a.db") as store:
        assert len(store) == 200
        np.testing.assert_allclose(*(store.vectors_of([f"files/{n:04}.jpg"]) for n in (3, 153)), atol=1e-6)


def test_nothing_readable_makes_no_collection(tmp_path: Path, model: EmbeddingModel) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert build_in_milvus([tmp_path / "a.jpg"], tmp_path / "a.db", model).added == 0
    with pytest.raises(StoreError, match="has no collection 'onepeace'"):
        MilvusStore.open(tmp_path / "a.db")


def test_milvus_lite_ends_with_its_last_user_and_only_this_machine_reaches_it(tmp_path: Path, tag: ModelTag) -> None:
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text() if children.exists() else ""
    store = MilvusStore.create(tmp_path / "a.db", model=tag)
    other = MilvusStore.open(tmp_path / "a.db")
    lite = store._connection.lite
    assert lite is not None
    port = int(lite.address.rpartition(":")[2])
    lines = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    bound = [line.split()[1] for line in lines[1:] if line.split()[1].endswith(f":{port:04X}")]
    assert bound
    assert all(address.startswith(("0100007F:", "0000000000000000FFFF00000100007F:")) for address in bound)
    store.close()
    store.close()
    assert len(other) == 0
    other.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not children.exists() or children.read_text() == before


def test_a_server_is_reached_by_its_address(
    tmp_path: Path, tag: ModelTag, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Milvus Lite as a server: the nearest to a cluster that a test can have."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    monkeypatch.setenv("ONEPEACE_MILVUS_TOKEN", "name:secret")
    rows = unit_rows(rng.normal(size=(50, 16)), 16)
    server, database, port = start_server_in_thread(str(tmp_path / "data"), host="127.0.0.1", port=0)
    try:
        address = f"http://127.0.0.1:{port}"
        items = [Item(f"{n}", "image", "x") for n in range(50)]
        MilvusStore.create(address, items, rows, model=tag, collection="pictures").close()
        with MilvusStore.open(address, "pictures") as store:
            assert store.about.kind == "auto"
            assert [hit.item.id for hit in Searcher(store).search(rows[3], 1)] == ["3"]
        with pytest.raises(StoreError, match="put them into ONEPEACE_MILVUS_TOKEN"):
            MilvusStore.open(f"http://name:secret@127.0.0.1:{port}", "pictures")
    finally:
        server.stop(grace=2).wait()
        database.close()


def test_a_place_that_is_no_milvus_is_told_of(tmp_path: Path, tag: ModelTag) -> None:
    (tmp_path / "file.db").write_bytes(b"SQLite format 3\0")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "folder.db" / "mine").write_text("mine")
    for place, told in (
        ("http://127.0.0.1:1", "no Milvus answers at http://127.0.0.1:1"),
        (tmp_path / "absent.db", "is not a store of Milvus Lite"),
        (tmp_path / "file.db", "is not a store of Milvus Lite"),
    ):
        with pytest.raises(StoreError, match=told):
            MilvusStore.open(place)
    for place in ("file.db", "folder.db"):
        with pytest.raises(StoreError, match="already exists and is not Milvus Lite's"):
            MilvusStore.create(tmp_path / place, model=tag)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file.db", "folder.db", "mine"]
    MilvusStore.create(tmp_path / "a.db", model=tag).close()
    with open(tmp_path / "a.db" / "LOCK", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process would hold it
        with pytest.raises(StoreError, match="is open in another process; Milvus Lite serves one at a time"):
            MilvusStore.open(tmp_path / "a.db")
    with MilvusStore.open(tmp_path / "a.db") as store:
        assert len(store) == 0


def test_what_a_store_says_of_itself_is_checked(tmp_path: Path, tag: ModelTag) -> None:
    with MilvusStore.create(tmp_path / "a.db", model=tag) as store:
        about = {"name": "about", "vector": [0.0, 1.0]}
        for value, told in (
            (json.dumps({"format": 99}), "has format 99, this version reads 1"),
            ("{", "cannot be read"),
        ):
            store._client.upsert("onepeace_about", [about | {"value": value}])
            with pytest.raises(StoreError, match=told):
                MilvusStore.open(tmp_path / "a.db")


def test_a_store_in_milvus_is_built_grown_shown_searched_and_cut(
    run: Run, pack: Path, tmp_path: Path, sentences: list[str]
) -> None:
    there, local = tmp_path / "my.db", tmp_path / "local"
    built = run("index", "build", pack, "--backend", "milvus", "--store", there)
    assert (built.exit_code, built.stdout) == (0, f"added 7 items to {there}\n")
    run("index", "build", pack, "--store", local)
    (pack / "b.wav").write_bytes(b"some sound")
    for store in (there, local):
        grown = run("index", "add", store, pack)
        assert grown.stdout.startswith(f"added 1 item to {store}\n7 were in the store already")
    words = ["--text", sentences[3], "--where", "uri ~ *lines* or modality=audio"]
    away = ["--like", "pack/a.jpg", "--without-text", sentences[0], *words]
    for arguments in (words, ["--like", "pack/lines.txt#2", "--offset", 1], away):
        ours, theirs = (json.loads(run("search", store, *arguments, "--json").stdout) for store in (local, there))
        assert [hit | {"score": 0} for hit in ours] == [hit | {"score": 0} for hit in theirs]
        np.testing.assert_allclose([hit["score"] for hit in ours], [hit["score"] for hit in theirs], atol=1e-5)
    shown = json.loads(run("index", "info", there, "--json").stdout)
    assert (shown["count"], shown["modalities"], shown["kind"]) == (8, {"text": 6, "audio": 1, "image": 1}, "exact")
    assert "8, 6 text" in run("index", "info", there).stdout
    assert run("index", "remove", there, "pack/a.jpg").stdout == f"removed 1 item from {there}\n"
    assert json.loads(run("index", "remove", there, "--where", "uri ~ *#?", "--json").stdout) == {"removed": 6}
    assert json.loads(run("index", "info", there, "--json").stdout)["count"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "verify", "my.db"], "error: this command is for local stores"),
        (["index", "repair", "http://host:19530"], "error: this command is for local stores"),
        (["index", "compact", "my.db"], "error: this command is for local stores"),
        (["index", "merge", "my.db"], "error: this command is for local stores"),
        (["index", "snapshot", "my.db", "copy"], "error: this command is for local stores"),
        (["index", "info", "my.db", "--verify"], "--verify is for local stores"),
        (["index", "info", "my.db"], "error: my.db is not a store of Milvus Lite"),
        (["search", "my.db", "--text", "a"], "error: my.db is not a store of Milvus Lite"),
        (["search", "http://127.0.0.1:1", "--text", "a"], "error: no Milvus answers at http://127.0.0.1:1"),
        (["search", "my-store", "--collection", "a", "--text", "a"], "error: --collection is for stores in Milvus"),
        (["index", "build", "pack", "--store", "my.db"], "error: my.db is what a store in Milvus is called: add"),
        (
            ["index", "build", "pack", "--store", "s", "--collection", "a"],
            "error: --collection is for stores in Milvus",
        ),
        (["index", "build", "pack", "--store", "s", "--backend", "milvus"], "a store in Milvus is called file.db or"),
        (
            ["index", "build", "pack", "--store", "a.db", "--backend", "milvus", "--kind", "ivf-pq"],
            "kind must be one of",
        ),
        (
            ["index", "build", "pack", "--store", "a.db", "--backend", "milvus", "--precision", "int8"],
            "--precision and",
        ),
        (
            ["index", "build", "pack", "--store", "a.db", "--backend", "milvus", "--collection", "a b"],
            "name holds letters",
        ),
        (["index", "build", "pack", "--store", "http://127.0.0.1:1", "--backend", "milvus"], "no Milvus answers at"),
        (["index", "build", "pack", "--store", "pack/a.db", "--backend", "milvus"], "already exists and is not Milvus"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(
    run: Run, pack: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    (pack / "a.db").write_bytes(b"a file")
    monkeypatch.chdir(pack.parent)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr.splitlines()[-1]
    assert len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in pack.parent.iterdir()) == ["pack"]


def test_without_pymilvus_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ImportError, match=r"pip install 'onepeace\[scale\]'"):
        MilvusStore.open(tmp_path / "a.db")
