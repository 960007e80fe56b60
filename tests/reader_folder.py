"""Where a reader of the documentation stands: a folder with the files that examples name, from the gallery."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from random_models import write_random_model
from task_models import TASKS, write_task_model
from video_files import write_shots

from onepeace.model.task_head import TaskConfig
from onepeace.reader import SHIPPED
from retrieval.gallery import GALLERY
from retrieval.gallery.items import read_gallery

ROOT = Path(__file__).resolve().parents[1]
PICTURES, SOUNDS = GALLERY / "pictures", GALLERY / "sounds"
OFFICIAL = Path(__file__).parent / "golden" / "one_peace_val.pt.xz"  # the official layout, at a tiny size

CLASSES = {
    "bird": ["seagull-raised-wings", "swan-swimming-drawn", "great-blue-heron", "toucan-flight"],
    "guitar": ["wooden-acoustic-guitar", "black-electric-guitar", "brown-violin", "bassoon"],
}
SHOWN = ("head-lion-orange", "cup-coffee-wooden", "brown-violin")  # in a video and on pages
GERMAN = ["ein Astronaut", "eine Mauer", "ein Fotograf", "eine Katze", "eine Tasse", "Gras"]
JAPANESE = ["宇宙飛行士", "壁", "写真家", "猫", "コーヒー", "草"]


def picture(name: str, path: Path) -> Path:
    with PIL.Image.open(PICTURES / f"{name}.webp") as image:
        image.convert("RGB").save(path)
    return path


def sound(name: str, path: Path) -> Path:
    samples, rate = soundfile.read(SOUNDS / f"{name}.ogg")
    soundfile.write(path, samples, rate)
    return path


def small(folder: Path) -> Path:
    """What examples in docstrings use."""
    picture("lamb-black-legs", folder / "dog.jpg")  # no dog is among the gallery's pictures
    picture("face-tabby-cat", folder / "cat.jpg")
    picture("red-apple", folder / "apple.jpg")
    picture("house-red-roof", folder / "house.jpg")
    sound("dog-barks-three", folder / "dog.flac")
    shutil.copy(SOUNDS / "rain-falling-steadily.ogg", folder / "rain.ogg")
    (folder / "manifest.csv").write_text(
        "image,text\ndog.jpg,a lamb with black legs\ncat.jpg,the face of a tabby cat\napple.jpg,a red apple\n"
        "house.jpg,a house with a red roof\n"
    )
    (folder / "one-peace.pt").write_bytes(lzma.decompress(OFFICIAL.read_bytes()))
    return folder


def whole(folder: Path) -> Path:
    """What the pages of documentation and the README use, beside that."""
    small(folder)
    _media(folder)
    _tables(folder)
    _models(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "retrieval").mkdir()
    (folder / "retrieval" / "gallery").symlink_to(GALLERY)
    (folder / "onepeace").mkdir()
    (folder / "onepeace" / "weights").symlink_to(SHIPPED)
    return folder


def _media(folder: Path) -> None:
    (folder / "films").mkdir()
    pages = [PIL.Image.open(PICTURES / f"{name}.webp").convert("RGB") for name in SHOWN]
    rain, _ = soundfile.read(SOUNDS / "rain-falling-steadily.ogg", dtype="float32")
    write_shots(folder / "films" / "holiday.mp4", [(page, 4) for page in pages], np.resize(rain, 12 * 16_000))
    pages[0].save(folder / "films" / "slides.pdf", save_all=True, append_images=pages[1:])
    for name in ("photos", "sounds", "recordings", "more-photos"):
        (folder / name).mkdir()
    picture("lamb-black-legs", folder / "photos" / "dog.jpg")
    picture("red-umbrella-rainy", folder / "photos" / "umbrella.jpg")
    picture("woolly-ram-curled", folder / "photos" / "old.jpg")
    picture("snowman-carrot-nose", folder / "more-photos" / "snow.png")
    shutil.copy(PICTURES / "face-tabby-cat.webp", folder / "photos" / "cat.webp")
    shutil.copy(PICTURES / "cup-coffee-wooden.webp", folder / "photos" / "cup.webp")
    shutil.copy(SOUNDS / "dog-barks-three.ogg", folder / "sounds" / "dog.ogg")
    for name in ("a.jpg", "pet.jpg", "photo.jpg", "b.png"):
        picture("face-tabby-cat", folder / name)
    sound("dog-barks-three", folder / "clip.wav")
    sound("dog-barking-again", folder / "sounds" / "dog-barking.wav")
    sound("rain-falling-steadily", folder / "sounds" / "rain.flac")
    shutil.copy(SOUNDS / "cow-mooing.ogg", folder / "sounds")
    parts = [soundfile.read(SOUNDS / f"{name}.ogg") for name in ("dog-barks-three", "rain-falling-steadily")]
    (rate,) = {rate for _, rate in parts}
    soundfile.write(folder / "recordings" / "walk.ogg", np.concatenate([*(one for one, _ in parts)] * 2), rate)
    for classes in ("photos-by-class", "more-photos-by-class"):
        for label, names in CLASSES.items():
            (folder / classes / label).mkdir(parents=True)
            for name in names[:2] if classes.startswith("photos") else names[2:]:
                picture(name, folder / classes / label / f"{name}.png")


def _tables(folder: Path) -> None:
    captions = "text,year\na dog in the snow,2021\ntwo people on a street,2019\nrain on a roof,2022\n"
    (folder / "captions.csv").write_text(captions)
    items = [one for one in read_gallery() if one.split != "none"]
    for name in ("pictures", "sounds"):
        shutil.copytree(GALLERY / name, folder / "gallery" / name)
    rows = [
        {
            "id": one.id,
            "image": f"gallery/{one.file}" if one.modality == "image" else None,  # from the manifest's folder
            "audio": f"gallery/{one.file}" if one.modality == "audio" else None,
            "text": one.caption,
            "label": one.concept,
            "source": ("flickr8k", "esc10")[one.modality == "audio"],
        }
        for one in items
    ]
    sounds = [row for row in rows if row["audio"]]
    for name, some in (("manifest", rows[:12] + sounds[:12]), ("manifest-test", rows[:12] + sounds[:12])):
        pq.write_table(pa.Table.from_pylist(some), folder / f"{name}.parquet")
    pq.write_table(pa.Table.from_pylist(sounds[12:24]), folder / "manifest-train.parquet")
    spoken = [{"image": row["image"], "texts": [{"lang": "en", "text": row["text"]}]} for row in rows[:6]]
    for row, german, japanese in zip(spoken, GERMAN, JAPANESE, strict=True):
        row["texts"] += [{"lang": "de", "text": german}, {"lang": "ja", "text": japanese}]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spoken))
    datasets.Dataset.from_dict({"text": ["a horse", "a cow"], "year": [2020, 2021]}).save_to_disk(
        folder / "saved-dataset"
    )


def _models(folder: Path) -> None:
    (folder / "my-model").symlink_to(SHIPPED / "onepeace-tiny")
    start = write_random_model(folder / "fresh", "official")
    heads = {
        "my-classes": "classify",
        "my-answers": "answer",
        "my-pairs": "pair",
        "my-quiz": "choose",
        "my-finder": "ground",
        "my-detector": "detect",
        "my-listener": "locate",
    }
    for name, task in heads.items():  # nothing learnt
        write_task_model(folder / name, start, TaskConfig.from_dict(TASKS[task]))
    (folder / "vocab").mkdir()  # the official one's form, of four pieces
    pieces = {"a": 0, "d": 1, "o": 2, "g": 3}
    (folder / "vocab" / "encoder.json").write_text(json.dumps(pieces))
    (folder / "vocab" / "vocab.bpe").write_text("#version: 0.2\n")
    (folder / "vocab" / "dict.txt").write_text("".join(f"{number} 1\n" for number in pieces.values()))
