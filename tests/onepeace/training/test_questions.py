"""Rows as questions: what they become, and which are counted and left out."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoders.modality import Modality
from onepeace.training.questions import Question, Wanted, read_questions, vocabulary
from onepeace.training.task_data import TaskData

IMAGE = (Modality.IMAGE,)
BOTH = (Modality.TEXT, Modality.IMAGE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    return tmp_path


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows") -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"id": f"{name}{i}", "image": "a.png", **r}) + "\n" for i, r in enumerate(rows)))
    return path


def read(path: Path, kind: Any, modalities: tuple[Modality, ...] = BOTH, pictures: int = 1) -> list[Question]:
    return read_questions([path], {}, Wanted(kind, modalities, pictures), "data.train")


def test_a_box_becomes_shares_of_its_picture(folder: Path) -> None:
    (question,) = read(written(folder, [{"text": "a dog", "box": [20, 10, 60, 40]}]), "ground")
    assert question.box == (0.25, 0.25, 0.75, 1.0)
    assert question.texts == ("a dog",)


@pytest.mark.parametrize(
    ("kind", "cells", "why"),
    [
        ("ground", {"box": [20, 10, 81, 40]}, "have a box outside the picture"),
        ("ground", {"box": [-1, 10, 8, 40]}, "have a box outside the picture"),
        ("ground", {"box": [20, 10, 20, 40]}, "have a box whose corners are out of order"),
        ("ground", {"box": [20, 10, 30]}, "have a box that is not 4 numbers"),
        ("ground", {}, "have no box"),
        ("ground", {"box": [0, 0, 1, 1], "image": "broken.png"}, "have a picture that cannot be read"),
        ("ground", {"box": [0, 0, 1, 1], "text": " "}, "have no text"),
        ("classify", {"label": ""}, "have no label"),
        ("classify", {"label": "x", "image": None}, "have no image"),
        ("tag", {"answers": []}, "have no answer"),
        ("tag", {"answers": [{"answer": " ", "score": 1}]}, "have no answer"),
        ("tag", {"answers": [{"answer": "a", "score": 1.5}]}, "have an answer whose score is outside [0, 1]"),
        ("tag", {"answers": [{"score": 1.0}]}, "have answers that are neither texts nor {answer, score}"),
        ("choose", {"choices": ["a", "b"], "label": "c"}, "have choices without the right one"),
        ("choose", {"choices": ["a"], "label": "a"}, "have fewer than two choices"),
        ("choose", {"choices": ["a", "a"], "label": "a"}, "have choices that are empty or equal"),
        ("choose", {"choices": ["a", "b"]}, "have no label"),
    ],
)
def test_rows_that_cannot_teach_are_counted_with_the_reason(
    kind: str, cells: dict[str, Any], why: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"label": "a", "answers": [{"answer": "a", "score": 1.0}], "choices": ["a", "b"], "box": [0, 0, 80, 40]}
    bad = {"text": "a dog", **cells}
    path = written(folder, [{"text": "a dog", **good}, bad, bad])
    with caplog.at_level(logging.WARNING):
        assert len(read(path, kind)) == 1
    assert f"data.train: 2 of 3 rows are left out: 2 {why}" in caplog.text
    with pytest.raises(ValueError, match=r"data\.train: none of the 1 rows can be used: 1 have"):
        read(written(folder, [bad], "bad"), kind)


def test_two_pictures_and_a_truth_value(folder: Path) -> None:
    path = written(folder, [{"text": "both", "image2": "a.png", "label": True}, {"text": "both", "label": False}])
    (question,) = read(path, "classify", pictures=2)
    assert question.answers == {"true": 1.0}
    assert len(question.media[Modality.IMAGE]) == 2
    assert len(set(question.media[Modality.IMAGE])) == 1  # the same file is read once


def test_lists_in_a_csv_are_json(folder: Path) -> None:
    with open(folder / "rows.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "text", "box", "answers"])
        writer.writerow(["1", "a.png", "a dog", "[0, 0, 40, 40]", '[{"answer": "yes", "score": 0.5}, "no"]'])
        writer.writerow(["2", "a.png", "a dog", "0 0 40 40", "yes"])
    assert [question.box for question in read(folder / "rows.csv", "ground")] == [(0.0, 0.0, 0.5, 1.0)]
    assert [question.answers for question in read(folder / "rows.csv", "tag")] == [{"yes": 0.5, "no": 1.0}]


def test_an_empty_cell_of_a_csv_holds_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open(folder / "rows.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image", "text", "label", "answers", "box", "boxes"])
        writer.writerow(["1", "a.png", "a dog", "yes", "", "[0, 0, 40, 40]", ""])  # of `label` and `box` instead
        writer.writerow(["2", "a.png", "a cat", "", "[]", "", "[]"])
        writer.writerow(["3", "a.png", "a cow", "", "", "", ""])
    assert [question.answers for question in read(folder / "rows.csv", "tag")] == [{"yes": 1.0}]
    assert [question.boxes for question in read(folder / "rows.csv", "detect")] == [((0.0, 0.0, 0.5, 1.0),), ()]
    assert "1 have no boxes: an empty list says that nothing is there" in caplog.text


def test_the_most_frequent_answers_come_first(folder: Path) -> None:
    labels = ["b", "c", "a", "c", "a"]
    rows = read(written(folder, [{"label": label} for label in labels]), "classify", IMAGE)
    assert vocabulary(rows) == ("a", "c", "b")
    assert vocabulary(rows, 2) == ("a", "c")


def data(folder: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]], **options: Any) -> TaskData:
    paths = [written(folder, rows, name) for name, rows in (("train", train), ("validation", validation))]
    return TaskData(paths[:1], paths[1:], **{"modalities": ["text", "image"], **options})


def labelled(*labels: str) -> list[dict[str, Any]]:
    return [{"text": "what?", "label": label} for label in labels]


def test_rare_and_unknown_answers_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = data(folder, labelled("a", "a", "b", "b", "c"), labelled("a", "d"), answers=2)
    assert "data.train: 1 of 5 rows are left out: they have rare answers only" in caplog.text
    assert "1 of 2 rows have answers that are not learned, and count as wrong: d" in caplog.text
    assert found.task.labels == ("a", "b")
    assert found.label_counts == {"a": 2, "b": 2}
    assert {name: len(rows) for name, rows in found.questions.items()} == {"train": 4, "validation": 2}


def test_rows_of_another_number_of_choices_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    choices = [["a", "b"], ["a", "b"], ["a", "b", "c"]]
    rows = [{"text": "what?", "choices": each, "label": "a"} for each in choices]
    with caplog.at_level(logging.WARNING):
        found = data(folder, rows, rows[:1], kind="choose")
    assert found.task.choices == 2
    assert "data.train: 1 of 3 rows are left out: they have not 2 choices" in caplog.text
    assert found.questions["train"][0].texts == ("what? answer: a", "what? answer: b")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"answers": 1}, r"data\.answers"),
        ({"kind": "ground", "answers": 3}, r"data\.answers"),
        ({"pictures": 2}, "have no image2"),
        ({"modalities": ["text", "audio"]}, "have no audio"),
        ({"validation": ["d"]}, "no row has a label that is learned; it has d"),
        ({"train": ["a"]}, "one label only: a"),
    ],
)
def test_data_that_cannot_teach_is_refused(options: dict[str, Any], reason: str, folder: Path) -> None:
    train, validation = options.pop("train", ["a", "b"]), options.pop("validation", ["a"])
    with pytest.raises(ValueError, match=reason):
        data(folder, labelled(*train), labelled(*validation), **options)


def test_altering_that_would_move_boxes_is_refused(folder: Path) -> None:
    from onepeace.training.augment import AugmentConfig

    rows = [{"text": "a dog", "box": [0, 0, 40, 40]}]
    with pytest.raises(ValueError, match="needs flip 0 and min_area 1"):
        data(folder, rows, rows, kind="ground", augment=AugmentConfig())
