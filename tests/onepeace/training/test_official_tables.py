"""The official TSV layout against the same rows in manifests."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from question_pack import write_question_pack

from encoders.modality import Modality
from onepeace.manifest import ManifestError
from onepeace.training.questions import Question, Wanted, read_questions

TEXT, IMAGE, AUDIO = Modality
Cells = dict[str, Any]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_question_pack(tmp_path_factory.mktemp("questions"))


def written(path: Path, rows: list[Cells]) -> Path:
    lines = ["\t".join(rows[0]), *("\t".join(str(cell) for cell in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def manifest(pack: Path, name: str) -> list[Cells]:
    return [json.loads(line) for line in (pack / f"{name}.jsonl").read_text().splitlines()]


def vqa(row: Cells, pack: Path) -> Cells:
    refs = "&&".join(f"{each['answer']}|!+{n}|!+{each['score']}" for n, each in enumerate(row["answers"]))
    return {"uniq_id": row["id"], "image": row["image"], "question": row["text"], "refs": refs}


def vqa_inline(row: Cells, pack: Path) -> Cells:
    return {**vqa(row, pack), "image": base64.urlsafe_b64encode((pack / row["image"]).read_bytes()).decode()}


def nlvr2(row: Cells, pack: Path) -> Cells:
    pictures = {"image1": row["image"], "image2": row["image2"]}
    return {"uniq_id": row["id"], "text": row["text"], **pictures, "label": row["label"]}


def refcoco(row: Cells, pack: Path) -> Cells:
    return {"image": row["image"], "text": row["text"], "region_coord": ",".join(f"{x:.1f}" for x in row["box"])}


def aqa(row: Cells, pack: Path) -> Cells:
    text = "&&&".join([row["text"], *row["choices"], str(row["choices"].index(row["label"]))])
    return {"uniq_id": row["id"], "audio": row["audio"], "text": text, "duration": 1.0}


TABLES: list[tuple[str, Wanted, Callable[[Cells, Path], Cells]]] = [
    ("tag", Wanted("tag", (TEXT, IMAGE)), vqa),
    ("tag", Wanted("tag", (TEXT, IMAGE)), vqa_inline),
    ("pairs", Wanted("classify", (TEXT, IMAGE), 2), nlvr2),
    ("boxes", Wanted("ground", (TEXT, IMAGE)), refcoco),
    ("sounds", Wanted("choose", (TEXT, AUDIO)), aqa),
]


def told(question: Question) -> tuple[Any, ...]:
    """What a question shows and answers, with the bytes of its media."""
    bytes_of = [
        (m, [data if isinstance(data := each.open(), bytes) else data.read_bytes() for each in media])
        for m, media in question.media.items()
    ]
    return question.texts, bytes_of, question.answers, question.right, question.box


@pytest.mark.parametrize(("name", "wanted", "official"), TABLES, ids=lambda part: getattr(part, "__name__", ""))
def test_a_table_says_what_the_manifest_says(
    name: str, wanted: Wanted, official: Callable[[Cells, Path], Cells], pack: Path, tmp_path: Path
) -> None:
    table = written(tmp_path / "rows.tsv", [official(row, pack) for row in manifest(pack, name)])
    ours = read_questions([pack / f"{name}.jsonl"], {}, wanted, "data.train")
    theirs = read_questions([table], {}, wanted, "data.train", "official", pack)
    assert [told(question) for question in theirs] == [told(question) for question in ours]
    shown = [[each for question in asked for m in question.media.values() for each in m] for asked in (ours, theirs)]
    assert len(set(shown[0])) == len(set(shown[1])) == len({each.key for each in shown[1]})  # each is read once


def test_classes_and_tags_of_sounds(pack: Path, tmp_path: Path) -> None:
    rows = [{"uniq_id": n, "audio": f"{n}.wav", "text": text, "duration": 1.0} for n, text in enumerate(["3", "7"])]
    table = written(tmp_path / "vggsound.tsv", rows)
    found = read_questions([table], {}, Wanted("classify", (AUDIO,)), "data.train", "official", pack)
    assert [question.answers for question in found] == [{"3": 1.0}, {"7": 1.0}]
    table = written(tmp_path / "fsd.tsv", [{**row, "text": "1,22, 3"} for row in rows])
    found = read_questions([table], {"uniq_id": ["1"]}, Wanted("tag", (AUDIO,)), "data.train", "official", pack)
    assert [question.answers for question in found] == [{"1": 1.0, "22": 1.0, "3": 1.0}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("what?&&&a&&&b&&&2", "have no label"),
        ("what?&&&a&&&b&&&-1", "have no label"),
        ("what?", "have fewer than two choices"),
    ],
)
def test_choices_that_name_no_right_one_are_counted(text: str, why: str, pack: Path, tmp_path: Path) -> None:
    table = written(tmp_path / "aqa.tsv", [{"uniq_id": 1, "audio": "0.wav", "text": text, "duration": 1.0}])
    with pytest.raises(ValueError, match=f"none of the 1 rows can be used: 1 {why}"):
        read_questions([table], {}, Wanted("choose", (TEXT, AUDIO)), "data.train", "official", pack)


def test_tables_of_another_task_are_refused(pack: Path, tmp_path: Path) -> None:
    table = written(tmp_path / "rows.tsv", [{"image": "0.png", "text": "a cat"}])
    with pytest.raises(ManifestError, match="lacks column region_coord; it has image, text"):
        read_questions([table], {}, Wanted("ground", (TEXT, IMAGE)), "data.train", "official", pack)
    with pytest.raises(ValueError, match="the official data have no task that detects with text, image"):
        read_questions([table], {}, Wanted("detect", (TEXT, IMAGE)), "data.train", "official", pack)


def test_a_picture_that_is_no_base64_is_named(pack: Path, tmp_path: Path) -> None:
    box = {"text": "a cat", "region_coord": "0,0,9,9"}
    table = written(tmp_path / "rows.tsv", [{"image": "!!!", **box}])
    with pytest.raises(ValueError, match="1 have a picture that cannot be read"):
        read_questions([table], {}, Wanted("ground", (TEXT, IMAGE)), "data.train", "official", pack)
