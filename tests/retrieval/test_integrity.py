"""Every flipped byte is found and named; what is derived is made again; what is lost is said, never served."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Catalog, Item, ModelTag, Store, StoreError, integrity, unit_rows
from retrieval.integrity import problems, verify_store
from retrieval.migrate import migrate
from retrieval.repair import repair
from retrieval.snapshot import restore, snapshot
from retrieval.state import StoreState

COUNT = 960


def vectors() -> np.ndarray:
    return unit_rows(np.random.default_rng(4).normal(size=(COUNT, 16)), 16)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with sealed segments, deleted items and an index."""
    folder = tmp_path_factory.mktemp("integrity") / "base"
    tag = ModelTag("characters", "c0ffee" * 4, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.writer.SEGMENT_BYTES", 250 * 16 * 4)
        with Store.create(folder, model=tag, kind="ivf-sq", recall=0.9) as store, store.writing() as writer:
            for start in range(0, COUNT, 60):
                items = [Item(f"{n}", "text", f"x#{n}", {"n": n}) for n in range(start, start + 60)]
                writer.add(items, vectors()[start : start + 60])
            writer.delete([f"{n}" for n in range(0, COUNT, 9)])
            writer.merge()
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "store"))


def contents(folder: Path) -> dict[str, list[float]]:
    with Store.open(folder, verify=True) as store:
        rows, items = zip(*store.catalog.numbered(), strict=True)
        return dict(zip([item.id for item in items], store.current.vectors.take(np.array(rows)).tolist(), strict=True))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_a_store_at_rest_has_no_other_files(base: Path) -> None:
    names = {path.name for path in files(base)}
    segments = {f"segment-{n:06d}.{kind}" for n in range(1, 5) for kind in ("vectors", "journal")}
    assert {name for name in names if not name.startswith("index-")} == segments | {
        "manifest.json",
        "catalog.sqlite",
        "catalog.check",
    }
    assert problems(base) == []


def test_two_hundred_flipped_bytes_are_each_found_and_named(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    every = files(folder)
    sizes = np.array([path.stat().st_size for path in every], dtype=float)
    chosen = [*range(len(every)), *rng.choice(len(every), 200 - len(every), p=sizes / sizes.sum())]
    for number in chosen:
        path = every[number]
        whole = path.read_bytes()
        flip(path, int(rng.integers(len(whole))), int(rng.integers(8)))
        found = verify_store(folder)
        assert path.name in {problem.path.name for problem in found} or "manifest" in path.name
        assert any(path.name in problem.what for problem in found), (path, found)
        with pytest.raises(StoreError, match="is damaged"):
            Store.open(folder, verify=False)  # flagged: not opened, whatever is asked
        path.write_bytes(whole)
        assert verify_store(folder) == []
    Store.open(folder, verify=False).close()


@pytest.mark.parametrize("name", ["manifest.json", "catalog.sqlite", "catalog.check", "index"])
@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_what_is_derived_is_made_again(base: Path, folder: Path, name: str, how: str) -> None:
    path = next(path for path in files(folder) if path.name.startswith(name))
    if how == "flipped":
        for place in range(0, path.stat().st_size, 997):
            flip(path, place)
    else:
        path.unlink()
    if (name, how) == ("catalog.check", "gone"):
        assert verify_store(folder) == []  # as after a crash: compared item by item instead
    else:
        assert [problem.derived for problem in verify_store(folder)] == [True]
        assert path.name in " ".join(repair(folder).problems)
    assert contents(folder) == contents(base)
    with Store.open(folder) as store:
        assert store.current.manifest.model == ModelTag("characters", "c0ffee" * 4, 16)
        assert store.current.index is not None


def test_lost_vectors_are_named_and_dropped_only_when_told(base: Path, folder: Path) -> None:
    whole = contents(base)
    flip(folder / "generation-000001" / "segment-000002.vectors", 5 * 64)
    (found,) = verify_store(folder)
    assert (found.derived, found.rows) == (False, ((300, 360),))
    with pytest.raises(StoreError, match="vectors of 54 items are damaged, the first of them '300'"):
        repair(folder)
    report = repair(folder, drop=True)
    gone = {f"{n}" for n in range(300, 360) if n % 9}
    assert set(report.lost) == gone
    assert contents(folder) == {name: row for name, row in whole.items() if name not in gone}


def test_lost_vectors_come_back_from_a_snapshot(base: Path, folder: Path, tmp_path: Path) -> None:
    with Store.open(folder) as store:
        snapshot(store, tmp_path / "copy")
    with Store.open(folder) as store:
        store.add([Item("later", "text", "x")], np.ones((1, 16)))
    for segment in (1, 4):
        flip(next(folder.rglob(f"segment-{segment:06d}.vectors")), 3)
    report = repair(folder, snapshot=tmp_path / "copy")
    assert (report.lost, report.restored) == ([], 53 + 53)
    after = contents(folder)
    assert set(after) == {*contents(base), "later"}
    assert {name: row for name, row in after.items() if name != "later"} == contents(base)


def test_a_damaged_journal_is_written_again_from_the_catalog(base: Path, folder: Path) -> None:
    for segment in (2, 4):
        flip(next(folder.rglob(f"segment-{segment:06d}.journal")), 777)
    assert {problem.derived for problem in verify_store(folder)} == {False}
    assert repair(folder).lost == []
    assert contents(folder) == contents(base)


def test_a_block_of_the_same_vectors_comes_back_but_not_an_older_vector_of_a_replaced_item(
    folder: Path, tmp_path: Path
) -> None:
    with Store.open(folder) as store:
        store.add([Item("same", "text", "x", {}, "hash 1")], np.ones((1, 16)))
        snapshot(store, tmp_path / "copy")
        store.add([Item("1", "text", "x#1", {"n": 1})], -np.ones((1, 16)), replace=True)
        store.add([Item("same", "text", "x", {}, "hash 1")], np.ones((1, 16)), replace=True)
        store.add([Item("2", "text", "x#2", {"n": 2}, "hash 2")], -np.ones((1, 16)), replace=True)
    before = contents(folder)
    path = next(folder.rglob("segment-000004.vectors"))
    for row in (1, 2, 3):
        flip(path, -16 * 4 * row)
    with pytest.raises(StoreError, match="vectors of 2 items are damaged, the first of them '1'"):
        repair(folder, snapshot=tmp_path / "copy")
    report = repair(folder, snapshot=tmp_path / "copy", drop=True)
    assert (set(report.lost), report.restored) == ({"1", "2"}, 1)
    assert contents(folder) == {name: row for name, row in before.items() if name not in ("1", "2")}


def test_a_snapshot_of_another_precision_is_refused(tmp_path: Path) -> None:
    tag, items = ModelTag("characters", "c0ffee" * 4, 16), [Item(f"{n}", "text", "x") for n in range(9)]
    Store.create(tmp_path / "copy", items, vectors()[:9], model=tag).close()
    Store.create(tmp_path / "store", items, vectors()[:9], model=tag, precision="int8").close()
    flip(next((tmp_path / "store").rglob("*.vectors")), 3)
    with pytest.raises(StoreError, match=r"vectors of .*copy are float32, those of the store int8"):
        repair(tmp_path / "store", snapshot=tmp_path / "copy")
    with pytest.raises(StoreError, match=r"segment-000001\.vectors"):
        Store.open(tmp_path / "store", verify=False)
    assert len(repair(tmp_path / "store", drop=True).lost) == 9


def test_damage_beside_a_damaged_manifest_stays_damage(base: Path, folder: Path) -> None:
    whole = contents(base)
    flip(folder / "manifest.json", 40)
    flip(folder / "generation-000001" / "segment-000002.vectors", 5 * 64)
    for _ in range(2):
        with pytest.raises(StoreError, match="vectors of 54 items are damaged"):
            repair(folder)
        assert any("rows 300 to 359" in problem.what for problem in problems(folder))
        with pytest.raises(StoreError, match="is damaged"):
            Store.open(folder, verify=False)
    gone = set(repair(folder, drop=True).lost)
    assert gone == {f"{n}" for n in range(300, 360) if n % 9}
    assert contents(folder) == {name: row for name, row in whole.items() if name not in gone}


@pytest.mark.parametrize("seed", range(12))
def test_of_two_damages_at_once_nothing_wrong_is_served(base: Path, folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    paths = [path for path in files(folder) if path.name != "writer.lock"]
    for path in rng.choice(np.array(paths, dtype=object), 2, replace=False):
        flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
    try:
        lost = repair(folder, drop=True).lost
    except StoreError as error:
        assert "restore a snapshot" in str(error)  # noqa: PT017 - both outcomes are right
        assert problems(folder)
        with pytest.raises(StoreError):
            Store.open(folder, verify=False)
    else:
        assert contents(folder) == {name: row for name, row in contents(base).items() if name not in lost}
        assert problems(folder) == []


def test_what_the_catalog_lacks_after_a_power_loss_is_kept_or_named(folder: Path) -> None:
    path = next(folder.rglob("catalog.sqlite"))
    before = path.read_bytes()
    with Store.open(folder) as store:
        store.add([Item(f"late/{n}", "text", "x") for n in range(10)], np.eye(10, 16))
    path.write_bytes(before)
    path.with_name("catalog.check").unlink()
    flip(next(folder.rglob("segment-000001.vectors")), 3)
    report = repair(folder, drop=True)
    assert set(report.lost) == {f"{n}" for n in range(60) if n % 9}
    with Store.open(folder, verify=True) as store:
        np.testing.assert_array_equal(store.vectors([f"late/{n}" for n in range(10)]), np.eye(10, 16))


def test_writes_that_nobody_can_read_any_more_are_dropped_only_when_told(base: Path, folder: Path) -> None:
    path = next(folder.rglob("catalog.sqlite"))
    before, journal = path.read_bytes(), next(folder.rglob("segment-000004.journal"))
    end = journal.stat().st_size
    with Store.open(folder) as store:
        for n in range(3):
            store.add([Item(f"late/{n}", "text", "x")], np.ones((1, 16)))
    path.write_bytes(before)
    path.with_name("catalog.check").unlink()
    flip(journal, end + 40)
    with pytest.raises(StoreError, match=r"segment-000004\.journal is damaged"):
        Store.open(folder, verify=False)
    with pytest.raises(StoreError, match="the catalog lacks the writes that follow"):
        repair(folder)
    repair(folder, drop=True)
    assert contents(folder) == contents(base)


@pytest.mark.parametrize("change", ["nothing", "compact"])
def test_a_manifest_that_is_written_again_has_the_kind_that_was_wanted_last(folder: Path, change: str) -> None:
    with Store.open(folder) as store, store.writing() as writer:
        writer.merge("hnsw", 0.8)
        if change == "compact":
            writer.compact()
    flip(folder / "manifest.json", 40)
    repair(folder)
    with Store.open(folder) as store:
        manifest = store.current.manifest
        assert (manifest.index_kind, manifest.recall) == ("hnsw", 0.8)
        assert store.current.index is not None
        assert store.current.index.kind == "hnsw"


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_no_store_is_left_alone_by_repair(tmp_path: Path, there: bool) -> None:
    place = tmp_path / "photos"
    if there:
        place.mkdir()
        (place / "a.jpg").write_text("mine")
    with pytest.raises(StoreError, match="photos is not a store"):
        repair(place)
    assert [path.name for path in tmp_path.rglob("*")] == (["photos", "a.jpg"] if there else [])


def test_a_lost_manifest_is_no_reason_to_make_a_store_there(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    for call in (lambda: Store.open(folder), lambda: Store.create(folder, model=ModelTag("a", "b", 16))):
        with pytest.raises(StoreError, match=r"manifest\.json is missing: `onepeace index repair"):
            call()


@pytest.mark.parametrize("segment", [2, 4])
def test_what_cannot_be_told_from_one_another_is_left_to_a_snapshot(folder: Path, segment: int) -> None:
    flip(next(folder.rglob(f"segment-{segment:06d}.journal")), 777)
    flip(next(folder.rglob("catalog.sqlite")), 5_000)
    before = {path: path.read_bytes() for path in (folder / "generation-000001").iterdir()}
    with pytest.raises(StoreError, match="both the catalog and a journal are damaged: restore a snapshot"):
        repair(folder, drop=True)
    assert {path: path.read_bytes() for path in (folder / "generation-000001").iterdir()} == before


def test_a_crashed_catalog_is_compared_item_by_item(folder: Path) -> None:
    next(folder.rglob("catalog.check")).unlink()
    assert problems(folder) == []
    path = next(folder.rglob("catalog.sqlite"))
    content = path.read_bytes()
    place = content.index(b"x#777")
    flip(path, place + 2)
    (found,) = problems(folder)
    assert "item '777' is not what was added" in found.what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE fields SET name = 'm'", "the field 'n' of its items is missing"),
        ("UPDATE blocks SET crc32 = crc32 + 1 WHERE first = 120", "its checksums of vectors"),
        ("DELETE FROM items WHERE row = 9", "its deleted items"),
        ("UPDATE items SET content = 'x' WHERE row = 10", "item '10' is not what was added"),
    ],
)
def test_a_crashed_catalog_is_compared_whole(folder: Path, change: str, message: str) -> None:
    next(folder.rglob("catalog.check")).unlink()
    with contextlib.closing(sqlite3.connect(next(folder.rglob("catalog.sqlite")))) as connection:
        connection.execute(change)
        connection.commit()
    (found,) = problems(folder)
    assert message in found.what


@pytest.mark.parametrize("change", ["compact", "seal", "add"])
@pytest.mark.parametrize("place", ["_sealed_problems", "_active_problems", "_disagreements"])
def test_what_is_written_while_a_store_is_verified_is_no_damage(
    folder: Path, change: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, there, left = getattr(integrity, place), Store.open(folder), [0, 1, 2]
    monkeypatch.setattr("retrieval.writer.SEGMENT_BYTES", 1 if change == "seal" else 2**28)

    def after_a_write(*arguments: Any) -> Any:
        if left:
            new = Item(f"new {left.pop()}", "text", "x")
            with there.writing() as writer:
                writer.add([new], np.ones((1, 16)))
                if change == "compact":
                    writer.compact()
        return step(*arguments)

    next(folder.rglob("catalog.check")).unlink()
    monkeypatch.setattr(integrity, place, after_a_write)
    Store.open(folder, verify=True).close()
    assert problems(folder) == []
    there.close()


COMPACTING = """
import sys
from retrieval import Store

with Store.open(sys.argv[1]) as store, store.writing() as writer:
    while True:
        writer.compact()
        print(flush=True)
"""


def test_a_store_is_verified_and_opened_while_another_process_compacts_it(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", COMPACTING, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            for _ in range(20):
                assert problems(folder) == []
                Store.open(folder).close()
        finally:
            process.kill()
            process.stdout.close()


def test_damage_is_flagged_once_nobody_writes(folder: Path) -> None:
    with Store.open(folder) as store, store.writing() as writer:
        flip(next(folder.rglob("segment-000001.vectors")), 3)
        assert len(verify_store(folder)) == 1
        writer.delete(["10"])
        Store.open(folder, verify=False).close()
    assert len(verify_store(folder)) == 1
    with pytest.raises(StoreError, match=r"segment-000001\.vectors. Put it right"):
        Store.open(folder, verify=False)


def test_a_catalog_is_copied_after_its_store_was_compacted(folder: Path, tmp_path: Path) -> None:
    with Store.open(folder) as reader, Store.open(folder) as store, store.writing() as writer:
        before = list(reader.catalog)
        writer.compact()
        reader.catalog.copy(tmp_path / "copy.sqlite", reader.current.progress)
        with pytest.raises(StoreError, match="was rewritten meanwhile"):
            snapshot(reader, tmp_path / "copy")
    with contextlib.closing(Catalog.open(tmp_path / "copy.sqlite")) as copy:
        assert list(copy) == before


def test_a_snapshot_is_the_state_of_its_moment(base: Path, folder: Path, tmp_path: Path) -> None:
    before = contents(base)
    with Store.open(folder) as reader, Store.open(folder) as store, store.writing() as writer:
        writer.add([Item("new", "text", "x")], np.ones((1, 16)))
        writer.delete(["1"])
        writer.add([Item("2", "text", "y")], np.ones((1, 16)), replace=True)
        snapshot(reader, tmp_path / "old")  # while another writes
        snapshot(store, tmp_path / "new")
    assert contents(tmp_path / "old") == before
    assert contents(tmp_path / "new") == contents(folder) != before
    with Store.open(tmp_path / "old") as copy:
        copy.add([Item("new", "text", "x"), Item("3", "text", "z")], np.ones((2, 16)), replace=True)
        assert len(copy) == len(before) + 1
    restore(tmp_path / "new", tmp_path / "restored")
    assert contents(tmp_path / "restored") == contents(folder)
    with pytest.raises(StoreError, match="already exists"):
        restore(tmp_path / "new", tmp_path / "restored")


def test_a_store_opened_while_a_segment_is_sealed_can_be_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.writer.SEGMENT_BYTES", 1)
    real, writers = StoreState.open, [Store.open(folder)]

    def after_a_write(*arguments: Any) -> StoreState:
        if writers:  # the manifest is read already
            with writers.pop() as store, store.writing() as writer:
                writer.add([Item("new", "text", "x")], np.ones((1, 16)))
        return real(*arguments)

    monkeypatch.setattr(StoreState, "open", after_a_write)
    with Store.open(folder, verify=False) as reader:
        assert not writers
        snapshot(reader, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)
    assert "new" in contents(folder)


def test_a_damaged_snapshot_is_not_restored(base: Path, tmp_path: Path) -> None:
    with Store.open(base) as store:
        snapshot(store, tmp_path / "copy")
    flip(next((tmp_path / "copy").rglob("segment-000003.vectors")), 9)
    with pytest.raises(StoreError, match=r"segment-000003\.vectors is damaged"):
        restore(tmp_path / "copy", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


FORMAT_1 = Path(__file__).parent / "format_1"  # a store as version 1 of the format wrote it


def test_a_store_of_the_first_format_is_brought_to_todays(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FORMAT_1, tmp_path / "store"))
    with pytest.raises(StoreError, match="older store format 1: bring it to format 2 with `onepeace index migrate"):
        Store.open(folder)
    assert migrate(folder)
    assert not migrate(folder)
    with Store.open(folder, verify=True) as store:
        assert list(store.catalog) == [
            Item("a", "image", "/x/a.jpg", {"label": "dog", "year": 2020}),
            Item("b", "text", "x#2", {"text": "zwei"}),
            Item("c", "audio", "/x/c.wav"),
        ]
        np.testing.assert_allclose(store.vectors(["a", "b", "c"]), np.eye(3, 8), atol=1e-7)
        assert store.current.manifest.created == "2026-11-21T00:00:00+00:00"
    assert sorted(path.name for path in folder.iterdir()) == ["generation-000003", "manifest.json", "writer.lock"]


def test_a_damaged_store_of_the_first_format_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FORMAT_1, tmp_path / "store"))
    flip(next(folder.rglob("vectors.npy")), -1)
    with pytest.raises(StoreError, match=r"vectors\.npy is damaged"):
        migrate(folder)
