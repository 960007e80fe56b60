from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval import Item
from retrieval.found import Failure, Ignored
from retrieval.scan import scan

MODALITIES = ("text", "image", "audio")


def test_folders_and_files_give_items_named_from_the_folder_that_holds_the_given_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pack/b.JPG", "pack/a.png", "pack/in/ü c.flac", "pack/.hidden/x.png", "pack/.x.png", "pack/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = list(scan([tmp_path / "pack", tmp_path / "pack" / "b.JPG"], MODALITIES))
    assert found == [
        Ignored(f"{tmp_path}/pack/.x.png"),
        Item("pack/a.png", "image", f"{tmp_path}/pack/a.png"),
        Item("pack/b.JPG", "image", f"{tmp_path}/pack/b.JPG"),
        Ignored(f"{tmp_path}/pack/notes.md"),
        Item("pack/in/ü c.flac", "audio", f"{tmp_path}/pack/in/ü c.flac"),
        Item("b.JPG", "image", f"{tmp_path}/pack/b.JPG"),
    ]
    monkeypatch.chdir(tmp_path / "pack")
    assert list(scan(["."], MODALITIES)) == found[:-1]  # however the folder is written, the ids are the same


def test_a_text_file_gives_a_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffa dog\r\n\n   \n  猫.jpg\nlast".encode())
    assert list(scan([path], MODALITIES)) == [
        Item(f"lines.txt#{line}", "text", f"{path}#{line}", {"text": text})
        for line, text in ((1, "a dog"), (4, "猫.jpg"), (5, "last"))
    ]


ROWS = [
    {"image": "a.jpg", "audio": None, "text": None, "label": "dog", "year": 2020},
    {"image": None, "audio": "../b.wav", "text": None, "label": None, "year": None},
    {"image": None, "audio": None, "text": "a cat, asleep", "label": "猫", "year": 1999},
    {"image": "c.jpg", "audio": None, "text": "a caption", "label": "bird", "year": 2021},
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_every_kind_give_the_same_items(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "in" / f"table.{kind}"
    path.parent.mkdir()
    first = 1
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        first = 2  # the header is a line
        mark = {"csv": ",", "tsv": "\t"}[kind]
        cells = [list(ROWS[0]), *(["" if cell is None else str(cell) for cell in row.values()] for row in ROWS)]
        path.write_text("".join(mark.join(f'"{cell}"' for cell in line) + "\n" for line in cells))
    found = [item for item in scan([path], MODALITIES) if isinstance(item, Item)]
    name = f"table.{kind}"
    assert [(item.id, item.modality, item.uri) for item in found] == [
        (f"{name}#{first}", "image", f"{tmp_path}/in/a.jpg"),
        (f"{name}#{first + 1}", "audio", f"{tmp_path}/b.wav"),
        (f"{name}#{first + 2}", "text", f"{path}#{first + 2}"),
        (f"{name}#{first + 3}:text", "text", f"{path}#{first + 3}"),
        (f"{name}#{first + 3}:image", "image", f"{tmp_path}/in/c.jpg"),
    ]
    metadata = [{key: str(value) for key, value in item.metadata.items() if value != ""} for item in found]
    assert metadata == [
        {"label": "dog", "year": "2020"},
        {},
        {"text": "a cat, asleep", "label": "猫", "year": "1999"},
        {"text": "a caption", "label": "bird", "year": "2021", "image": "c.jpg"},
        {"text": "a caption", "label": "bird", "year": "2021"},
    ]


def test_the_text_column_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"caption": "a dog", "text": 3}')
    (item,) = scan([path], MODALITIES, "caption")
    assert item == Item("t.jsonl#1", "text", f"{path}#1", {"text": "a dog"})


def test_a_table_without_a_known_column_fails_once_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("caption,year\n" + "a dog,2020\n" * 100)
    (failure,) = scan([path], MODALITIES)
    assert failure == Failure(
        str(path),
        "it has the columns caption, year, but none of text, image, audio; "
        "name the one with the texts with --text-column",
    )


@pytest.mark.parametrize(
    ("name", "content", "failures", "items"),
    [
        ("a.jsonl", b'{"text": "ok"}\nnot json\n[1]\n{"text": ["x"]}\n{"other": 1}\n{"text": "ok"}', 4, 2),
        ("a.csv", b"text,n\nok,1\na,b,c\nok,2\n", 1, 2),
        ("a.txt", b"ok\n\xff\xfe\nnever\n", 1, 1),
        ("a.txt", b"x" * (2**20 + 1), 1, 0),
        ("a.parquet", b"PAR1 not really", 1, 0),
        ("a.csv", b"", 1, 0),
        ("a.txt", b"", 0, 0),
    ],
)
def test_what_cannot_be_read_is_reported_and_the_rest_is_taken(
    tmp_path: Path, name: str, content: bytes, failures: int, items: int
) -> None:
    (tmp_path / name).write_bytes(content)
    found = list(scan([tmp_path / name], MODALITIES))
    assert [type(one) for one in found].count(Failure) == failures
    assert [type(one) for one in found].count(Item) == items
    assert all(one.uri.startswith(str(tmp_path / name)) and one.reason for one in found if isinstance(one, Failure))


def test_values_that_json_cannot_hold_become_what_they_print(tmp_path: Path) -> None:
    row = {"text": "a", "day": datetime.date(2020, 1, 2), "nan": float("nan"), "raw": b"\0", "list": [1, b"x"], "n": 3}
    pq.write_table(pa.Table.from_pylist([{**row, "list": [1, 2]}]), tmp_path / "t.parquet")
    (item,) = scan([tmp_path / "t.parquet"], MODALITIES)
    assert isinstance(item, Item)
    assert item.metadata == {"text": "a", "day": "2020-01-02", "list": [1, 2], "n": 3}


def test_a_file_name_that_is_not_unicode_is_reported(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/pack"
    os.mkdir(path)
    open(path + b"/\xff.jpg", "wb").close()
    (failure,) = scan([tmp_path / "pack"], MODALITIES)
    assert isinstance(failure, Failure)
    assert failure.uri == f"{tmp_path}/pack/\\udcff.jpg"


def test_kinds_that_the_model_does_not_embed_are_reported(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.wav", "c.txt"):
        (tmp_path / name).write_text("x")
    found = {Path(one.uri).name: one for one in scan([tmp_path], ["image"])}
    assert isinstance(found["a.jpg"], Item)
    assert found["b.wav"] == Failure(f"{tmp_path}/b.wav", "the model embeds image, not audio")
    assert found["c.txt"] == Failure(f"{tmp_path}/c.txt", "the model embeds image, not text")


def test_a_path_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file or folder: .*missing"):
        scan([tmp_path, tmp_path / "missing"], MODALITIES)


def test_cells_that_are_numbers_become_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "text,year,size,zip,date,long,none\n42,2021,-1.50,01234,2021-05-01,12345678901234567,\n"
    )
    (item,) = scan([tmp_path / "t.csv"], ["text"])
    assert isinstance(item, Item)
    assert item.metadata == {
        "text": "42",
        "year": 2021,
        "size": -1.5,
        "zip": "01234",
        "date": "2021-05-01",
        "long": "12345678901234567",
        "none": "",
    }


def test_two_folders_of_one_name_are_refused_and_one_given_twice_is_taken_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "photos").mkdir(parents=True)
        (tmp_path / name / "photos" / "x.txt").write_text("words")
    with pytest.raises(ValueError, match="would have the same ids: give a folder that holds both, or rename one"):
        list(scan([tmp_path / "a" / "photos", tmp_path / "b" / "photos"], ["text"]))
    assert len(list(scan([tmp_path / "a" / "photos", tmp_path / "a" / "photos"], ["text"]))) == 1
