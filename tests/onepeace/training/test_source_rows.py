from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from encoders.modality import Modality
from onepeace.manifest import ManifestError
from onepeace.training.rows import Row, SourceConfig, load_rows


def rows(folder: Path, table: list[dict[str, Any]], **config: Any) -> list[Row]:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return load_rows(SourceConfig(**config), Modality.IMAGE, path)


def named(**texts: str) -> list[dict[str, str]]:
    return [{"lang": lang, "text": text} for lang, text in texts.items()]


FROG = {"id": "frog", "label": "frog", "image": "frog.png", "texts": named(en="a frog", de="ein Frosch", ja="蛙")}
STAMP = {"id": "stamp", "label": "stamp", "image": "stamp.png", "texts": named(fr="un timbre")}


@pytest.mark.parametrize(
    ("languages", "texts"),
    [
        (("en",), {"frog": ("a frog",)}),
        (("de", "en"), {"frog": ("a frog", "ein Frosch")}),
        (("fr", "ja"), {"frog": ("蛙",), "stamp": ("un timbre",)}),
        (("all",), {"frog": ("a frog", "ein Frosch", "蛙"), "stamp": ("un timbre",)}),
    ],
)
def test_a_row_has_its_texts_in_the_languages_that_are_asked_for(
    tmp_path: Path, languages: tuple[str, ...], texts: dict[str, tuple[str, ...]]
) -> None:
    found = rows(tmp_path, [FROG, STAMP], languages=languages)
    assert {row.id: row.texts for row in found} == texts
    assert all(row.concept == row.id for row in found)


def test_a_row_without_text_in_the_languages_keeps_its_prompts(tmp_path: Path) -> None:
    (_, stamp) = rows(tmp_path, [FROG, STAMP], templates=("a {}",))
    assert (stamp.texts, stamp.captions) == (("a stamp",), 0)


def test_texts_of_no_stated_language_are_used_with_all(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, [{"image": "a.png", "texts": [{"text": "a frog"}]}], languages=("all",))
    assert row.texts == ("a frog",)


def test_a_language_that_no_row_has_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        rows(tmp_path, [FROG, STAMP], languages=("en", "eng"))
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        "source all has no text in eng, only in de, en, fr, ja"
    ]


def test_captions_come_first_and_a_prompt_that_is_one_of_them_counts_once(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, [FROG], templates=("a {}", "a picture of a {}"))
    assert (row.texts, row.captions) == (("a frog", "a picture of a frog"), 1)


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    table = [{"image": f"{label}.png", "label": label} for label in (0, 1)]
    found = rows(tmp_path, table, templates=("the digit {}",), positives="label")
    assert [(row.concept, row.texts) for row in found] == [("0", ("the digit 0",)), ("1", ("the digit 1",))]


@pytest.mark.parametrize(
    ("table", "config", "message"),
    [
        ([FROG, {**STAMP, "id": "frog"}], {"languages": ("all",)}, "two rows have the id frog"),
        ([FROG, STAMP], {"where": {"label": ["frog", "toad"]}}, "has label 'toad'; the column holds 'frog', 'stamp'"),
        ([FROG, STAMP], {"where": {"label": ["frog", "stamp"]}}, "has label 'stamp'"),  # its text is not English
        ([{**FROG, "fold": 1}], {"where": {"fold": "1"}}, "has fold '1'; the column holds 1"),
        ([FROG], {"positives": "lable"}, "lacks column lable; it has id, image, label, texts"),
        ([{"image": "a.png", "text": "a"}], {"templates": ("a {}",)}, "lacks column label"),
        ([{"image": "a.png", "caption": "a frog"}], {}, "lacks a column text or texts; .*sources.columns"),
        ([{"image": "a.png", "text": "a frog"}], {"columns": {"text": "caption"}}, "lacks column caption"),
        ([{**FROG, "texts": ["a frog"]}], {}, "row frog must have a path in image and text, or a list of"),
        ([{**FROG, "image": {"path": "frog.png"}}], {}, "row frog must have a path in image"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_and_the_error_names_what(
    tmp_path: Path, table: list[dict[str, Any]], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        rows(tmp_path, table, **config)


def test_a_manifest_without_rows_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("image,text\n")
    with pytest.raises(ManifestError, match=r"mine\.csv has no rows"):
        load_rows(SourceConfig(), Modality.IMAGE, tmp_path / "mine.csv")


@pytest.mark.parametrize(
    "config", [{"balance": 1.5}, {"word_dropout": 1.0}, {"caption_dropout": -0.1}, {"caption_dropout": 0.5}]
)
def test_shares_that_cannot_work_are_refused(config: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"sources.{next(iter(config))}"):
        SourceConfig(**config)  # type: ignore[arg-type]


def test_rows_whose_text_is_of_no_use_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.csv").write_text("id,image,text\na,a.jpg,a dog\nb,b.jpg,x\nc,c.jpg,\nd,,a sound\n")
    rows = load_rows(SourceConfig(), Modality.IMAGE, tmp_path / "mine.csv")
    assert [row.id for row in rows] == ["a"]
    (message,) = caplog.messages
    assert "1 rows of source all have image but a text of one letter" in message
    assert message.endswith("left out: b")
