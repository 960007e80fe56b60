"""Files that another takes the place of, that change, or that go, after they were put into a store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from onepeace import Image
from retrieval import (
    BuildConfig,
    EmbeddingModel,
    Item,
    MilvusStore,
    ModelTag,
    Store,
    add_to_store,
    build_store,
    changes,
)
from retrieval.build import build_in_milvus

Run = Callable[..., Result]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures and two lines."""
    photos = tmp_path / "2023" / "photos"
    photos.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (photos / name).write_bytes(f"the picture {name}".encode())
    (photos / "notes.txt").write_text("a dog\na cat")
    return photos


def other_photos(photos: Path) -> Path:
    """A folder of the same name with another picture under a name that the first has, and one of a new name."""
    others = photos.parents[1] / "2024" / "photos"
    others.mkdir(parents=True)
    (others / "a.jpg").write_bytes(b"quite another picture")
    (others / "new.jpg").write_bytes(b"a new picture")
    return others


@pytest.mark.parametrize("replace", [False, True])
def test_another_file_under_an_id_that_is_taken_is_told_and_harms_nothing(
    photos: Path, tmp_path: Path, model: EmbeddingModel, replace: bool
) -> None:
    build_store([photos], tmp_path / "store", model)
    others = other_photos(photos)
    with Store.open(tmp_path / "store") as store:
        report = add_to_store(store, [others], model, replace=replace)
        assert (report.added, report.present, report.changed) == (1, 0, [])
        [(uri, reason)] = report.conflicts
        assert uri == str(others / "a.jpg")
        assert f"another file as photos/a.jpg, {photos / 'a.jpg'}: give a folder that holds both" in reason
        assert store.catalog.get(["photos/a.jpg"])[0].uri == str(photos / "a.jpg")


def test_another_file_under_a_taken_id_ends_with_the_code_for_it(run: Run, photos: Path, tmp_path: Path) -> None:
    run("index", "build", photos, "--store", tmp_path / "store")
    others = other_photos(photos)
    added = run("index", "add", tmp_path / "store", others)
    assert added.exit_code == 3
    assert added.stdout == f"added 1 item to {tmp_path / 'store'}\n"
    assert added.stderr.startswith(f"1 left out, whose ids are those of others:\n  {others / 'a.jpg'}: the store has")
    (others / "new.jpg").unlink()
    told = run("index", "add", tmp_path / "store", others, "--json")
    assert (told.exit_code, len(json.loads(told.stdout)["conflicts"])) == (3, 1)


def test_a_table_of_vectors_with_taken_ids_is_told_too(run: Run, photos: Path, tmp_path: Path) -> None:
    for name, folder in (("one", photos), ("two", other_photos(photos))):
        run("embed", folder, "--out", tmp_path / f"{name}.parquet")
    built = run(
        "index", "build", tmp_path / "one.parquet", tmp_path / "two.parquet", "--store", tmp_path / "s", "--json"
    )
    report = json.loads(built.stdout)
    assert (built.exit_code, report["added"], report["present"]) == (3, 6, 0)
    assert [conflict["uri"] for conflict in report["conflicts"]] == [str(tmp_path / "2024/photos/a.jpg")]


def test_a_folder_that_moved_is_there_and_what_changed_in_it_is_told(
    photos: Path, tmp_path: Path, model: EmbeddingModel
) -> None:
    build_store([photos], tmp_path / "store", model)
    moved = photos.rename(tmp_path / "photos")
    (moved / "b.jpg").write_bytes(b"cropped")
    report = build_store([moved], tmp_path / "store", model)
    assert (report.added, report.present, report.conflicts) == (0, 5, [])
    assert report.changed == [str(moved / "b.jpg")]


def test_a_path_through_a_link_is_the_same_file(photos: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    build_store([photos], tmp_path / "store", model)
    (tmp_path / "link").symlink_to(photos.parent)
    report = build_store([tmp_path / "link" / "photos"], tmp_path / "store", model)
    assert (report.added, report.present, report.conflicts, report.changed) == (0, 5, [], [])


def change(photos: Path) -> None:
    """Move another picture, an old one, into the place of one, change a line, and remove a picture."""
    (photos / "fresh").write_bytes(b"a picture that was taken elsewhere")
    os.utime(photos / "fresh", (1_000_000_000, 1_000_000_000))
    (photos / "fresh").rename(photos / "b.jpg")
    (photos / "notes.txt").write_text("a dog\na horse")
    (photos / "c.jpg").unlink()


def test_what_changed_and_what_went_is_told_until_it_is_put_right(
    run: Run, model: EmbeddingModel, photos: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    run("index", "build", photos, "--store", store)
    change(photos)
    again = run("index", "build", photos, "--store", store)
    assert (again.exit_code, again.stdout.splitlines()[0]) == (3, f"added 0 items to {store}")
    changed, gone = again.stderr.splitlines()
    assert changed.startswith(f"2 changed since: {photos}/b.jpg, {photos}/notes.txt#2 (`onepeace index add {store} ")
    assert gone.startswith(f"1 no longer on the disk: photos/c.jpg (`onepeace index remove {store} ")
    assert run("index", "add", store, photos, "--replace").exit_code == 0
    assert run("index", "remove", store, "photos/c.jpg").exit_code == 0
    last = run("index", "build", photos, "--store", store)
    assert (last.exit_code, last.stderr) == (0, "")
    with Store.open(store) as opened:
        expected = model.encode_many([Image(photos / "b.jpg")]).vectors
        np.testing.assert_allclose(opened.vectors(["photos/b.jpg"]), expected, atol=1e-6)


def test_what_was_moved_is_taken_out_from_where_it_was(
    run: Run, photos: Path, tmp_path: Path, model: EmbeddingModel
) -> None:
    store = tmp_path / "store"
    run("index", "build", photos, "--store", store)
    (photos / "2024").mkdir()
    for name in ("a.jpg", "c.jpg"):
        (photos / name).rename(photos / "2024" / name)
    again = run("index", "add", store, photos)
    assert f"onepeace index remove {store} --gone FOLDER" in again.stderr
    removed = run("index", "remove", store, "--gone", photos)
    assert (removed.exit_code, removed.stdout) == (0, f"removed 2 items from {store}\n")
    with Store.open(store) as opened:
        ids = [item.id for item in opened.catalog]
        assert {"photos/2024/a.jpg", "photos/2024/c.jpg"} <= set(ids)
        assert not {"photos/a.jpg", "photos/c.jpg"} & set(ids)
        assert len(ids) == 5


def test_nothing_is_taken_out_where_the_whole_folder_is_not_there(
    run: Run, photos: Path, tmp_path: Path, model: EmbeddingModel
) -> None:
    store = tmp_path / "store"
    run("index", "build", photos, "--store", store)
    photos.rename(tmp_path / "elsewhere")
    refused = run("index", "remove", store, "--gone", photos)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "no such folder" in refused.stderr
    with Store.open(store) as opened:
        assert len(opened) == 5


def test_files_older_than_the_store_are_not_read_again(
    photos: Path, tmp_path: Path, model: EmbeddingModel, tag: ModelTag, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    with monkeypatch.context() as patched:
        patched.setattr("retrieval.store.now", lambda: later.isoformat(timespec="seconds"))
        Store.create(tmp_path / "store", model=tag).close()
    build_store([photos], tmp_path / "store", model)
    monkeypatch.setattr(changes, "content_hash", lambda *_: pytest.fail("a file was read"))
    assert build_store([photos], tmp_path / "store", model).present == 5


def test_a_row_that_names_another_picture_or_year_has_changed(
    photos: Path, tmp_path: Path, model: EmbeddingModel
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("image,year\n2023/photos/a.jpg,2023\n2023/photos/b.jpg,2023\n2023/photos/c.jpg,2023\n")
    build_store([rows], tmp_path / "store", model)
    rows.write_text("image,year\n2023/photos/a.jpg,2024\n2023/photos/c.jpg,2023\n2023/photos/c.jpg,2023\n")
    report = build_store([rows], tmp_path / "store", model)
    assert (report.present, report.conflicts) == (3, [])
    assert report.changed == [str(photos / "a.jpg"), str(photos / "c.jpg")]
    (photos / "c.jpg").unlink()
    with Store.open(tmp_path / "store") as store:
        add_to_store(store, [rows], model, replace=True)
        assert [(Path(item.uri).name, item.metadata["year"]) for item in store.catalog if item.id == "rows.csv#2"] == [
            ("a.jpg", 2024)
        ]
        assert add_to_store(store, [rows], model).gone == ["rows.csv#3", "rows.csv#4"]


@pytest.mark.parametrize("config", [BuildConfig(), BuildConfig(batch_size=1, batches_at_once=1)])
def test_a_file_is_in_a_store_once_whatever_path_leads_to_it(
    photos: Path, tmp_path: Path, model: EmbeddingModel, config: BuildConfig
) -> None:
    (photos / "long.wav").write_bytes(b"a long sound")
    (photos / "copy.wav").write_bytes(b"a long sound")  # another file: both are kept
    report = build_store([photos, photos / "long.wav"], tmp_path / "store", model, config)
    assert (report.added, report.present) == (7, 1)
    with Store.open(tmp_path / "store") as store:
        for replace in (False, True):
            report = add_to_store(store, [photos / "copy.wav", photos / "notes.txt"], model, config, replace=replace)
            assert (report.added, report.present, report.reused) == (0, 3, 0)
        (tmp_path / "rows.csv").write_text("image,year\n2023/photos/a.jpg,2023\n")
        assert add_to_store(store, [tmp_path / "rows.csv"], model, config).added == 1  # it tells something new


def test_a_store_in_milvus_notices_the_same(photos: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    pytest.importorskip("milvus_lite")
    place = tmp_path / "my.db"
    assert build_in_milvus([photos], place, model).added == 5
    others = other_photos(photos)
    with MilvusStore.open(place) as store:
        report = add_to_store(store, [photos / "a.jpg", photos / "notes.txt"], model)
        assert (report.added, report.present) == (0, 3)
        report = add_to_store(store, [others], model)
        assert (report.added, [uri for uri, _ in report.conflicts]) == (1, [str(others / "a.jpg")])
        change(photos)
        report = add_to_store(store, [photos], model)
    assert (report.added, report.gone) == (0, ["photos/c.jpg"])
    assert report.changed == [f"{photos}/b.jpg", f"{photos}/notes.txt#2"]


def test_an_item_without_a_content_is_taken_for_the_file_it_names(
    photos: Path, tmp_path: Path, model: EmbeddingModel, tag: ModelTag
) -> None:
    path = photos / "a.jpg"
    items = [Item("photos/a.jpg", "image", os.path.relpath(path), {"year": 2023})]
    with Store.create(tmp_path / "store", items, model.encode_many([Image(path)]).vectors, model=tag) as store:
        report = add_to_store(store, [photos], model)
    assert (report.added, report.present, report.conflicts) == (4, 1, [])
