"""Folders that the `datasets` library saved, compared with what the library itself reads from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from little_media import picture, sound

import onepeace
from retrieval import Item, Store, build_store
from retrieval.arrow import ArrowFile, Cell
from retrieval.engine import model_input
from retrieval.found import Failure
from retrieval.scan import scan

MODALITIES = ("text", "image", "audio")


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def make(folder: Path, rows: int = 7) -> datasets.Dataset:
    """Pictures, sounds and texts with holes; some media embedded, some as paths."""
    (folder / "there.png").write_bytes(picture(99))
    cells: dict[str, list[Any]] = {"photo": [], "sound": [], "text": [], "label": [], "year": [], "box": []}
    for n in range(rows):
        path = str(folder / "there.png")
        cells["photo"].append([{"bytes": picture(n), "path": "x.png"}, {"bytes": None, "path": path}, None][n % 3])
        cells["sound"].append({"bytes": sound(n), "path": None} if n % 2 else None)
        cells["text"].append(f"row {n}" if n < 5 else None)
        cells["label"].append(n % 2)
        cells["year"].append(2000 + n)
        cells["box"].append([1, 2, 3, n])
    made = datasets.Dataset.from_dict(cells).cast_column("photo", datasets.Image())
    return made.cast_column("sound", datasets.Audio()).cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))


def contents(item: Item) -> bytes:
    return Cell(item.uri).read() if "#" in item.uri else Path(item.uri).read_bytes()


def save_as_one(made: datasets.Dataset, path: Path) -> datasets.Dataset:
    made.save_to_disk(path)
    return datasets.load_from_disk(str(path))


def save_as_three(made: datasets.Dataset, path: Path) -> datasets.Dataset:
    made.save_to_disk(path, num_shards=3)
    return datasets.load_from_disk(str(path))


def save_as_parquet(made: datasets.Dataset, path: Path) -> datasets.Dataset:
    made.to_parquet(path.with_suffix(".parquet"), batch_size=3)  # rows in a group
    return datasets.Dataset.from_parquet(str(path.with_suffix(".parquet")), cache_dir=str(path.parent / "cache"))


@pytest.mark.parametrize("save", [save_as_one, save_as_three, save_as_parquet])
def test_rows_become_the_items_that_the_library_reads(
    tmp_path: Path, save: Callable[[datasets.Dataset, Path], datasets.Dataset]
) -> None:
    whole = save(make(tmp_path), tmp_path / "pets")
    (source,) = tmp_path.glob("pets*")
    found = list(scan([source], MODALITIES))
    items = [one for one in found if isinstance(one, Item)]
    undecoded = whole.cast_column("photo", datasets.Image(decode=False))
    undecoded = undecoded.cast_column("sound", datasets.Audio(decode=False))
    expected = {}
    for number, row in enumerate(undecoded, start=1):
        filled = {
            (modality, column): row[column]
            for modality, column in (("text", "text"), ("image", "photo"), ("audio", "sound"))
            if row[column] is not None
        }
        for (modality, column), value in filled.items():
            id = f"{source.name}#{number}" + (f":{column}" if len(filled) > 1 else "")  # noqa: A001
            content = value if modality == "text" else value["bytes"] or Path(value["path"]).read_bytes()
            expected[id] = (modality, content, ["cat", "dog"][row["label"]], row["year"])
    assert {
        item.id: (
            item.modality,
            item.metadata["text"] if item.modality == "text" else contents(item),
            item.metadata["label"],
            item.metadata["year"],
        )
        for item in items
    } == expected
    assert found == items == list(scan([source], MODALITIES))


def test_splits_are_parts_of_the_id(tmp_path: Path) -> None:
    made = make(tmp_path)
    splits = datasets.DatasetDict({"train": made.select(range(3)), "test": made.select([6, 4])})
    splits.save_to_disk(tmp_path / "in" / "pets")
    found = list(scan([tmp_path / "in"], MODALITIES))
    assert all(isinstance(one, Item) for one in found)  # files beside the rows are no items, and not reported
    years = {one.id.partition(":")[0]: one.metadata["year"] for one in found if isinstance(one, Item)}
    assert years == {
        "in/pets/test#1": 2006,
        "in/pets/test#2": 2004,
        "in/pets/train#1": 2000,
        "in/pets/train#2": 2001,
        "in/pets/train#3": 2002,
    }


@pytest.mark.parametrize("save", [save_as_three, save_as_parquet])
def test_rows_are_embedded_like_the_files_that_they_hold(
    tmp_path: Path, embedder: onepeace.Embedder, save: Callable[[datasets.Dataset, Path], datasets.Dataset]
) -> None:
    save(make(tmp_path), tmp_path / "pets")
    (source,) = tmp_path.glob("pets*")
    report = build_store([source], tmp_path / "store", embedder)
    assert (report.added, report.failed, report.reused) == (5 + 5 + 3, [], 1)  # two rows name the same picture
    (tmp_path / "alone.png").write_bytes(picture(3))
    (tmp_path / "alone.flac").write_bytes(sound(5))
    alone = embedder.encode([onepeace.Image(tmp_path / "alone.png"), onepeace.Audio(tmp_path / "alone.flac"), "row 1"])
    with Store.open(tmp_path / "store") as store:
        stored = store.vectors([f"{source.name}#{place}" for place in ("4:photo", "6", "2:text")])
        assert (1 - (stored * alone).sum(axis=1)).max() < 1e-3
        (item,) = store.catalog.get([f"{source.name}#4:photo"])
        again = embedder.encode(model_input(item))  # opened from its uri
        assert 1 - again @ alone[0] < 1e-3
    assert build_store([source], tmp_path / "store", embedder).present == 13


@pytest.mark.parametrize("save", [save_as_one, save_as_parquet])
def test_what_was_written_anew_is_read_anew(
    tmp_path: Path, save: Callable[[datasets.Dataset, Path], datasets.Dataset]
) -> None:
    made = make(tmp_path)
    for rows in (range(7), [3, 0]):
        for old in tmp_path.glob("pets*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        save(made.select(rows), tmp_path / "pets")
        first = next(one for one in scan(list(tmp_path.glob("pets*")), ("image",)) if isinstance(one, Item))
        assert contents(first) == picture(rows[0])


def test_a_column_may_have_any_name(tmp_path: Path) -> None:
    cells = {"a/../b:c#1 ü": [{"bytes": picture(1), "path": None}]}
    made = datasets.Dataset.from_dict(cells).cast_column("a/../b:c#1 ü", datasets.Image())
    made.save_to_disk(tmp_path / "odd")
    (item,) = scan([tmp_path / "odd"], MODALITIES)
    assert isinstance(item, Item)
    assert contents(item) == picture(1)


def test_a_dataset_of_texts_takes_the_named_column(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"caption": ["a dog"], "n": [3]}).save_to_disk(tmp_path / "captions")
    (item,) = scan([tmp_path / "captions"], MODALITIES, "caption")
    uri = f"{tmp_path}/captions/data-00000-of-00001.arrow#1"
    assert item == Item("captions#1", "text", uri, {"text": "a dog", "n": 3})
    (failure,) = scan([tmp_path / "captions"], MODALITIES)
    assert isinstance(failure, Failure)
    assert "--text-column" in failure.reason


def cut(folder: Path) -> None:
    path = folder / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-500])


def lose(folder: Path) -> None:
    (folder / "data-00000-of-00001.arrow").unlink()


def mangle(folder: Path) -> None:
    (folder / "state.json").write_text("[]")


def lead_away(folder: Path) -> None:
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../secret.arrow"}]}))


def describe_wrongly(folder: Path) -> None:
    path = folder / "data-00000-of-00001.arrow"
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": "[1]"})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("damage", [cut, lose, mangle, lead_away, describe_wrongly])
def test_a_damaged_dataset_is_reported_and_the_rest_is_taken(tmp_path: Path, damage: Any) -> None:
    make(tmp_path).save_to_disk(tmp_path / "data" / "pets")
    damage(tmp_path / "data" / "pets")
    (tmp_path / "data" / "z.txt").write_text("a dog")
    item, *failures = scan([tmp_path / "data"], MODALITIES)
    assert isinstance(item, Item)
    assert [type(failure) for failure in failures] == [Failure]
    assert failures[0].uri.startswith(str(tmp_path / "data" / "pets"))


def test_media_that_are_gone_fail_one_by_one(tmp_path: Path, embedder: onepeace.Embedder) -> None:
    make(tmp_path).save_to_disk(tmp_path / "pets")
    uri = f"{tmp_path}/pets/data-00000-of-00001.arrow#"
    for place in ("99:photo", "3:photo", "1:nothing", "x:photo"):
        with pytest.raises(OSError, match="pets"):
            Cell(uri + place).read()
        assert embedder.encode_many([onepeace.Image(Cell(uri + place))]).kept == []
    assert Cell(f"{uri}1:photo").read(4) == b"\x89PNG"


def test_a_large_file_is_mapped_not_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = {"photo": [{"bytes": rng.bytes(2**20), "path": None} for _ in range(64)], "text": ["x"] * 64}
    datasets.Dataset.from_dict(cells).cast_column("photo", datasets.Image()).save_to_disk(tmp_path / "large")
    before = pa.total_allocated_bytes()
    (path,) = (tmp_path / "large").glob("*.arrow")
    most = 0
    rows = list(ArrowFile(path).rows())
    assert len(rows) == 64
    for _, row in rows:
        assert len(Cell(row["photo"]).read()) == 2**20
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 2**20


def test_a_struct_of_bytes_is_a_medium_by_the_name_of_its_column(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": picture(1), "path": "x"}, "text": "a dog", "box": [1, 2], "raw": b"x"}, {"image": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    text, image, failure = scan([tmp_path / "t.parquet"], MODALITIES)
    assert isinstance(text, Item)
    assert isinstance(image, Item)
    assert isinstance(failure, Failure)
    assert (image.id, contents(image)) == ("t.parquet#1:image", picture(1))
    assert text.metadata == {"image": image.uri, "text": "a dog", "box": [1, 2]}


def test_what_nests_is_no_metadata_of_a_dataset(tmp_path: Path) -> None:
    make(tmp_path).save_to_disk(tmp_path / "pets")
    for item in scan([tmp_path / "pets"], MODALITIES):
        assert isinstance(item, Item)
        assert item.metadata.keys() <= {"text", "label", "year", "photo", "sound"}
