from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest
import soundfile

from retrieval.demo import DIRECTIONS, MIXES
from retrieval.gallery import GALLERY, GalleryItem, read_gallery

ITEMS = read_gallery()
PICTURES = [item for item in ITEMS if item.modality == "image"]
SOUNDS = [item for item in ITEMS if item.modality == "audio"]


def test_the_gallery_is_large_enough_and_small_enough() -> None:
    assert 60 <= len(PICTURES) <= 100
    assert 40 <= len(SOUNDS) <= 60
    assert sum(path.stat().st_size for path in GALLERY.rglob("*") if path.is_file()) < 5e6


def test_every_file_belongs_to_one_item() -> None:
    media = [path for folder in ("pictures", "sounds") for path in (GALLERY / folder).iterdir()]
    assert sorted(path.relative_to(GALLERY).as_posix() for path in media) == sorted(item.file for item in ITEMS)


@pytest.mark.parametrize("item", PICTURES, ids=lambda item: item.id)
def test_a_picture_opens_and_fits(item: GalleryItem) -> None:
    with PIL.Image.open(GALLERY / item.file) as picture:
        picture.load()
        assert picture.format == "WEBP"
        assert 64 <= min(picture.size) <= max(picture.size) <= 256


@pytest.mark.parametrize("item", SOUNDS, ids=lambda item: item.id)
def test_a_sound_opens_is_short_and_can_be_heard(item: GalleryItem) -> None:
    samples, rate = soundfile.read(GALLERY / item.file)
    assert soundfile.info(GALLERY / item.file).subtype == "OPUS"
    assert 0.2 < len(samples) / rate <= 5.05
    assert 0.3 < abs(samples).max() <= 1.0


def test_captions_are_sentences_and_no_two_are_equal() -> None:
    captions = [item.caption for item in ITEMS]
    assert len(set(captions)) == len(captions)
    for caption in captions:
        assert caption[0].isupper(), caption
        assert caption.endswith("."), caption
        assert 2 <= len(caption.split()) <= 12, caption


def test_pictures_and_sounds_share_concepts() -> None:
    shared = {item.concept for item in PICTURES} & {item.concept for item in SOUNDS}
    assert len(shared) >= 20


def test_every_licence_allows_passing_on_and_names_whom_it_must() -> None:
    allowed = {
        "openclipart": ("Public domain",),
        "scikit-image": ("Public domain", "CC0 1.0"),
        "esc10": ("CC0 (", "CC-BY ("),
        "fsdd": ("CC BY-SA 4.0",),
        "tuxpaint": ("GPL-2.0-or-later",),
    }
    for item in ITEMS:
        assert item.licence.startswith(allowed[item.source]), item
    for item in ITEMS:
        if item.source == "esc10":  # the licence names the clip's author on Freesound
            author = item.licence.split("Freesound: ")[1].split(")")[0]
            assert author in item.attribution
    assert "GNU GENERAL PUBLIC LICENSE" in (GALLERY / "GPL-2.txt").read_text(encoding="utf-8")


def test_the_licence_file_counts_right() -> None:
    table = (GALLERY / "LICENCES.md").read_text(encoding="utf-8")
    for (source, modality), count in Counter((item.source, item.modality) for item in ITEMS).items():
        name = {"image": "pictures", "audio": "sounds"}[modality]
        name = "photographs" if source == "scikit-image" else name
        assert f"{count} {name}" in table, (source, count)


def test_no_item_is_from_a_train_split(data_pack: Path) -> None:
    rows = {
        split: {row["id"]: row for row in pq.read_table(data_pack / f"manifest-{split}.parquet").to_pylist()}
        for split in ("train", "val", "test")
    }
    train_groups = {row["group"] for row in rows["train"].values()}
    for item in ITEMS:
        assert item.origin not in rows["train"]
        if item.split == "none":
            assert item.source == "scikit-image"
        else:
            row = rows[item.split][item.origin]
            assert row["group"] not in train_groups
            assert row["source"] == item.source


def test_the_demo_names_items_that_are_there() -> None:
    known = {item.id for item in ITEMS}
    shown = {name.removeprefix("caption/") for names in DIRECTIONS.values() for name in names}
    assert shown | {name for name, _, _ in MIXES} <= known


@pytest.mark.parametrize(
    ("change", "message"),
    [({"licence": ""}, "licence must not be empty"), ({"modality": "video"}, "modality"), ({"more": "x"}, "more")],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    right = vars(ITEMS[0])
    lines = [json.dumps(right), json.dumps(right | {"id": "other"} | change)]
    (tmp_path / "gallery.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=f"line 2.*{message}"):
        read_gallery(tmp_path)


def test_an_id_given_twice_is_named(tmp_path: Path) -> None:
    line = json.dumps(vars(ITEMS[0]))
    (tmp_path / "gallery.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="given twice"):
        read_gallery(tmp_path)
