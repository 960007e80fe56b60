"""Scenes and questions -> a folder of tar shards and manifests, one for each task and split."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onepeace.progress import progress_bar
from onepeace.scenes import picture_questions, sound_questions
from onepeace.scenes.combinations import SPLITS, THINGS, Combination, Split, one_of
from onepeace.scenes.picture_questions import Cells, PictureScene, picture_scene
from onepeace.scenes.pictures import drawn
from onepeace.scenes.seen_from import all_seen_from, one_seen_from
from onepeace.scenes.sound_questions import AskedScene, sound_scene
from onepeace.scenes.sounds import RATE, heard

PICTURE_TASKS = ("vqa", "pairs", "ground", "detect")
SOUND_TASKS = ("choose", "locate")
TASKS = (*PICTURE_TASKS, *SOUND_TASKS)
ABOUT = {"source": "onepeace-scenes", "licence": "CC0-1.0"}
ROWS_A_SCENE = {"train": 2, "val": 1, "test": 1}  # of each task, beside those about one attribute alone
HELD_OUT_SHARE = 8  # val and test have one row for so many of training
# Further phrases of each picture that trains, since few others need comparing:
SINGLED_OUT = 4  # for one of several things,
SEEN_FROM = 4  # for the one of several that lies on one side of another, ...
ALL_SEEN_FROM = (2, 1)  # ... and for all of them: such as are there, and such as are elsewhere
JPEG_QUALITY = 92
PATIENCE = 20  # statements about two pictures that are tried for each that is wanted

Rows = dict[str, list[Cells]]  # by task


def write_scenes(out: Path, rows: int, seed: int = 0, show_progress: bool | None = None) -> dict[str, int]:
    """Write pictures, sounds and manifests, and return how many rows each manifest has.

    `rows` is about how many questions each task has to train on, but for half as many again about one attribute alone;
    val and test have an eighth of them. The same seed gives the same bytes. Every manifest is `TASK-SPLIT.parquet`,
    beside the shards that its media lie in. What val and test ask about, a colour with a shape or a pitch with a noise,
    occurs nowhere in training.

    Raises:
        ValueError: too few rows, or a folder that is not empty.

    >>> counts = write_scenes(Path("scenes"), rows=80, seed=1, show_progress=False)
    >>> counts["vqa-test"], counts["detect-train"]
    (10, 234)
    >>> from onepeace.manifest import read_manifest
    >>> row = read_manifest(Path("scenes/detect-test.parquet"))[0]
    >>> row["image"], row["text"]
    ('pictures-test.tar/000000.jpg', 'all red triangles')
    """
    if rows < HELD_OUT_SHARE:
        raise ValueError(f"rows must be at least {HELD_OUT_SHARE}, got {rows}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already exists and is not an empty folder: choose another, or remove it first")
    out.mkdir(parents=True, exist_ok=True)
    scenes = {
        split: max(1, (rows if split == "train" else rows // HELD_OUT_SHARE) // ROWS_A_SCENE[split]) for split in SPLITS
    }
    counts = {}
    with progress_bar(2 * sum(scenes.values()), "scenes", show_progress) as advance:
        for split in SPLITS:
            for family in (_pictures, _sounds):
                for task, found in family(out, split, scenes[split], seed, advance).items():
                    _write_manifest(out / f"{task}-{split}.parquet", task, split, found)
                    counts[f"{task}-{split}"] = len(found)
    return counts


def _pictures(out: Path, split: Split, count: int, seed: int, advance: Callable[[int], object]) -> Rows:
    rows: Rows = {task: [] for task in PICTURE_TASKS}
    by_content: dict[tuple[Combination, int], list[str]] = {}  # how many of what a picture shows
    with _shard(out / f"pictures-{split}.tar") as add:
        for number in range(count):
            rng = _generator(seed, split, 0, number)
            scene = picture_scene(number, split, rng)
            stream = io.BytesIO()
            drawn(scene.things, rng).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            image = add(f"{number:06}.jpg", stream.getvalue())
            by_content.setdefault((scene.asked, scene.count), []).append(image)
            for task, cells in _about_picture(scene, split, number, rng):
                if cells is not None:
                    rows[task].append({"image": image, "group": image, **cells})
            advance(1)
    rows["pairs"] = _pairs(by_content, split, count * ROWS_A_SCENE[split], _generator(seed, split, 1, 0))
    return rows


def _pairs(
    by_content: dict[tuple[Combination, int], list[str]], split: Split, count: int, rng: np.random.Generator
) -> list[Cells]:
    """Return statements about two pictures; few pictures show too little for some of them, and give fewer rows."""
    rows: list[Cells] = []
    own = THINGS.own[split]
    for number in range(PATIENCE * count):
        what, true = own[number // 2 % len(own)], number % 2 == 0
        words, shown = picture_questions.statement(number // (2 * len(own)), true, what, rng)
        left, right = (by_content.get((what, n), []) for n in shown)
        if left and right:
            first = one_of(left, rng)
            second = one_of([image for image in right if image != first] or right, rng)
            label = "true" if true else "false"
            rows.append({"image": first, "image2": second, "group": first, "text": words, "label": label})
            if len(rows) == count:
                break
    return rows


def _about_picture(
    scene: PictureScene, split: Split, number: int, rng: np.random.Generator
) -> Iterator[tuple[str, Cells | None]]:
    asks = picture_questions
    others = sorted({thing.what for thing in scene.things} - {scene.asked})
    yield "vqa", asks.answered(scene, number, rng)
    yield "ground", asks.grounded(scene.things, scene.asked, rng)
    none = asks.absent(scene, split, rng)
    if split == "train":
        yield "vqa", asks.further(scene, number, rng)
        yield "ground", asks.grounded(scene.things, one_of(others, rng), rng)
        yield "detect", asks.detected(scene.things, scene.asked)
        yield "detect", asks.detected(scene.things, none if number % 2 else one_of(others, rng))
        # One attribute alone, so that each is learnt by itself.
        yield "vqa", asks.exists_by(scene.things, number, rng)
        attribute = asks.attribute(scene.things, rng)
        yield "ground", asks.grounded_by(scene.things, attribute)
        yield "detect", asks.detected_by(scene.things, attribute)
        for cells in asks.singled_out_by(scene.things, SINGLED_OUT, rng):
            yield "ground", cells
        for cells in one_seen_from(scene.things, SEEN_FROM, rng):
            yield "ground", cells
        for cells in all_seen_from(scene.things, *ALL_SEEN_FROM, rng):
            yield "detect", cells
    else:
        yield "detect", asks.detected(scene.things, none if number % 3 == 2 else scene.asked)


def _sounds(out: Path, split: Split, count: int, seed: int, advance: Callable[[int], object]) -> Rows:
    import soundfile

    rows: Rows = {task: [] for task in SOUND_TASKS}
    with _shard(out / f"sounds-{split}.tar") as add:
        for number in range(count):
            rng = _generator(seed, split, 2, number)
            scene = sound_scene(number, split, rng)
            stream = io.BytesIO()
            soundfile.write(stream, heard(scene.sound, rng), RATE, format="FLAC", subtype="PCM_16")
            audio = add(f"{number:06}.flac", stream.getvalue())
            for task, cells in _about_sound(scene, split, number, rng):
                rows[task].append({"audio": audio, "group": audio, **cells})
            advance(1)
    return rows


def _about_sound(scene: AskedScene, split: Split, number: int, rng: np.random.Generator) -> Iterator[tuple[str, Cells]]:
    asks = sound_questions
    others = sorted({event.what for event in scene.sound.events} - {scene.asked})
    yield "choose", asks.chosen(scene.sound, scene.question, scene.asked, split, rng)
    none = asks.absent(scene, split, rng)
    if split == "train":
        yield "choose", asks.further(scene.sound, one_of(others, rng), split, rng)
        yield "locate", asks.located(scene.sound, scene.asked)
        yield "locate", asks.located(scene.sound, none if number % 2 else one_of(others, rng))
        yield "locate", asks.located_by(scene.sound, rng)
    else:
        yield "locate", asks.located(scene.sound, none if number % 3 == 2 else scene.asked)


def _write_manifest(path: Path, task: str, split: Split, rows: list[Cells]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    places: dict[str, Any] = {
        "box": pa.list_(pa.int32()),
        "boxes": pa.list_(pa.list_(pa.int32())),
        "spans": pa.list_(pa.list_(pa.float64())),
        "choices": pa.list_(pa.string()),
    }
    complete = [{"id": f"{task}-{split}-{i:06}", **ABOUT, **cells} for i, cells in enumerate(rows)]
    names = list(complete[0]) if complete else ["id", *ABOUT]
    schema = pa.schema([(name, places.get(name, pa.string())) for name in names])
    pa.parquet.write_table(pa.Table.from_pylist(complete, schema=schema), path)


@contextmanager
def _shard(path: Path) -> Iterator[Callable[[str, bytes], str]]:
    """Yield a function that adds a member and returns how a manifest names it."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, data: bytes) -> str:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            return f"{path.name}/{name}"

        yield add


def _generator(seed: int, split: Split, use: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), use, number])
