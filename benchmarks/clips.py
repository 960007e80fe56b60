"""How well moments of video clips are found by words, pictures and sounds; and what a long video costs.

    python benchmarks/clips.py clips                 # 40 clips from the data pack, their store, and the questions
    python benchmarks/clips.py clips --scenes        # one frame a scene instead of one a second
    python benchmarks/clips.py clips --clips 10      # fewer: shorter, and easier, as there is less to be mistaken for
    python benchmarks/clips.py clips --no-rerank     # the nearest as they are, not ordered by the model's bank of texts
    python benchmarks/clips.py clips --memory        # embeds videos of 2 and of 20 minutes instead

Each clip has 6 to 10 shots of 2 to 6 s. A shot is one picture of the pack's test split: a class of Caltech-101 is in
one shot of all clips, and so is a photograph of Flickr8k. Under some shots lies a recording of ESC-10, of a class that
lies under no other; the rest is silent. So each question has one right answer: the shot of the class, or of the
caption's own photograph. Of a class is asked only if none of its name's words is in another's name, or in a caption.

Each question is asked of all clips, where it must beat 300 other shots (of 40 clips), and of its own clip alone (where
in this film ...?); words for a sound are asked of the sounds. A frame is right if it is of the shot, a window of sound
(10 s) if it overlaps with it for half of the shorter of the two. The error is the time between hit and shot, 0 where
they touch, of questions that found the clip. "Still" is what the same questions reach among the shots' pictures, not in
any video.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import PIL.Image
import PIL.ImageOps

import onepeace
from encoders.media import open_audio
from onepeace.manifest import Shards, read_manifest
from retrieval import BuildConfig, Item, Searcher, Store, build_store

SHOTS, SECONDS = (6, 10), (2.0, 6.0)
SIZE, RATE, HZ = (320, 240), 10, 16_000  # pixels, frames a second, samples a second
MINUTES = (2, 20)

Row = dict[str, Any]


@dataclass
class Shot:
    """One picture for some seconds, perhaps with a sound."""

    clip: str
    start: float
    end: float
    picture: Row
    sound: Row | None = None


@dataclass
class Question:
    """Something to look for, and the shot where it is."""

    kind: str
    content: Any  # what `Searcher.search` takes
    shot: Shot
    modality: str  # of what is looked for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the clips and their stores are written")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data", help="the data pack")
    parser.add_argument("--model", default="onepeace-tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--scenes", action="store_true", help="one frame a scene")
    parser.add_argument(
        "--rerank", action=argparse.BooleanOptionalAction, default=True, help="order by a bank of texts"
    )
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--embed", type=Path, help=argparse.SUPPRESS)  # one video, in a process of its own
    asked = parser.parse_args()
    if asked.embed:
        embed_alone(asked.embed, asked.model)
    elif asked.memory:
        measure_memory(asked)
    else:
        measure_search(asked)


def measure_search(asked: argparse.Namespace) -> None:
    rng, shards = random.Random(asked.seed), Shards(asked.data)
    rows = [row for row in read_manifest(asked.data / "manifest-test.parquet") if row["source"] in SOURCES]
    shots = planned(rows, asked.clips, rng)
    clips = asked.folder / "clips"
    shutil.rmtree(clips, ignore_errors=True)
    clips.mkdir(parents=True)
    begun = time.perf_counter()
    for name, some in by_clip(shots).items():
        write_clip(clips / name, some, shards)
    (asked.folder / "shots.json").write_text(json.dumps([asdict(shot) for shot in shots], indent=1))
    minutes = sum(shot.end - shot.start for shot in shots) / 60
    written = f"{minutes:.1f} minutes: written in {time.perf_counter() - begun:.0f} s"
    print(f"{asked.clips} clips, {len(shots)} shots, {written}")
    model = onepeace.load_embedder(asked.model)
    place = asked.folder / ("store-scenes" if asked.scenes else "store")
    shutil.rmtree(place, ignore_errors=True)
    begun = time.perf_counter()
    report = build_store([clips], place, model, BuildConfig(scenes=asked.scenes))
    if report.failed:
        raise SystemExit(f"could not be read: {report.failed}")
    print(f"{report.added} items: embedded in {time.perf_counter() - begun:.0f} s\n")
    with Store.open(place) as store:
        print_table(Searcher(store, model), clips, questions(shots, rows, shards, rng), shots, shards, asked.rerank)


SOURCES = {"flickr8k", "caltech101", "esc10"}


def planned(rows: Sequence[Row], clips: int, rng: random.Random) -> list[Shot]:
    """Return the shots of all clips: each class once, though at most in half of them, then photographs."""
    of_class: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["source"] != "flickr8k":
            of_class[row["source"], row["label"]].append(row)
    one_each = [rng.choice(some) for some in of_class.values()]
    sounds = [row for row in one_each if row["source"] == "esc10"]
    counts = [rng.randint(*SHOTS) for _ in range(clips)]
    pictures = [row for row in one_each if row["source"] == "caltech101"][: sum(counts) // 2]
    photographs = [row for row in rows if row["source"] == "flickr8k"]
    pictures += rng.sample(photographs, sum(counts) - len(pictures))
    rng.shuffle(pictures)
    shots, left = [], iter(pictures)
    for number, count in enumerate(counts):
        start = 0.0
        for picture in islice(left, count):
            end = round(start + rng.uniform(*SECONDS), 1)
            shots.append(Shot(f"clip-{number:02}.mp4", start, end, picture))
            start = end
    heard = rng.sample(list(by_clip(shots).values()), min(clips, len(sounds)))
    for clip, sound in zip(heard, sounds, strict=False):
        rng.choice(clip).sound = sound
    return shots


def by_clip(shots: Iterable[Shot]) -> dict[str, list[Shot]]:
    found: dict[str, list[Shot]] = defaultdict(list)
    for shot in shots:
        found[shot.clip].append(shot)
    return found


def write_clip(path: Path, shots: Sequence[Shot], shards: Shards) -> None:
    """Write the shots one after the other, with a sound track."""
    heard = np.zeros(round(shots[-1].end * HZ), np.float32)
    for shot in shots:
        if shot.sound is not None:
            samples = open_audio(shards.read(shot.sound["audio"]), HZ, max_seconds=shot.end - shot.start)
            first = round(shot.start * HZ)
            heard[first : first + len(samples)] = samples
    frames = ((opened(shot.picture, shards), round((shot.end - shot.start) * RATE)) for shot in shots)
    write_video(path, frames, heard)


def opened(row: Row, shards: Shards) -> PIL.Image.Image:
    """Return a picture as a film shows it: all over, cut where its shape is another."""
    picture = PIL.Image.open(io.BytesIO(shards.read(row["image"]))).convert("RGB")
    return PIL.ImageOps.fit(picture, SIZE)


def write_video(path: Path, pictures: Iterable[tuple[PIL.Image.Image, int]], heard: np.ndarray) -> None:
    """Write pictures, each for so many frames, and samples."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio = container.add_stream("aac", rate=HZ, layout="mono")
        for picture, count in pictures:
            frame = av.VideoFrame.from_image(picture).reformat(format="yuv420p")
            for _ in range(count):
                frame.pts = None
                container.mux(video.encode(frame))
        container.mux(video.encode())
        for first in range(0, len(heard), HZ):
            part = av.AudioFrame.from_ndarray(heard[None, first : first + HZ], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = HZ, first, Fraction(1, HZ)
            container.mux(audio.encode(part))
        container.mux(audio.encode())


def questions(shots: Sequence[Shot], rows: Sequence[Row], shards: Shards, rng: random.Random) -> list[Question]:
    """Return what is asked of the store, by kind."""
    asked, words_of = [], {id(shot): words_in(shot.picture) for shot in shots}

    def another(row: Row) -> Row:
        same = [row["source"], row["label"]]
        return rng.choice([other for other in rows if [other["source"], other["label"]] == same and other is not row])

    for shot in shots:
        row, words = shot.picture, [text["text"] for text in shot.picture["texts"] if text["lang"] == "en"]
        own = onepeace.Image(shards.read(row["image"]))
        if row["source"] == "flickr8k":
            asked.append(Question("a caption, of its photograph", rng.choice(words), shot, "image"))
            asked.append(Question("the shot's own photograph", own, shot, "image"))
        elif not any(words_of[id(shot)] & words for other, words in words_of.items() if other != id(shot)):
            asked.append(Question("the name of a class", words[0], shot, "image"))
            picture = onepeace.Image(shards.read(another(row)["image"]))
            asked.append(Question("another picture of the class", picture, shot, "image"))
        if shot.sound is not None:
            row = shot.sound
            recording = onepeace.Audio(shards.read(another(row)["audio"]))
            asked.append(Question("another recording of the class", recording, shot, "audio"))
            asked.append(Question("words for the sound", row["texts"][-1]["text"], shot, "audio"))
    return asked


def words_in(row: Row) -> set[str]:
    """Return the words of a picture's class or captions."""
    texts = [row["label"]] if row["label"] else [text["text"] for text in row["texts"]]
    return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())} - {"a", "an", "the", "of"}


def print_table(
    searcher: Searcher, clips: Path, asked: Sequence[Question], shots: Sequence[Shot], shards: Shards, rerank: bool
) -> None:
    model: Any = searcher.model
    rows_QD = model.encode([question.content for question in asked])
    stills_SD = model.encode([onepeace.Image(shards.read(shot.picture["image"])) for shot in shots])
    results: dict[str, list[Result]] = defaultdict(list)
    for question, row_D in zip(asked, rows_QD, strict=True):
        words = isinstance(question.content, str) and question.modality == "audio"
        anywhere = {"modality": "audio"} if words else {}
        there = {"uri": str(clips.resolve() / question.shot.clip)}
        hits = [searcher.search(row_D, 1, where or None, rerank=rerank) for where in (anywhere, anywhere | there)]
        still = question.modality == "image" and shots[int(np.argmax(stills_SD @ row_D))] is question.shot
        results[question.kind].append(result(question, *(found[0].item for found in hits), still))
    print("| asked with | questions | clip | moment | still | moment, in its clip | median error, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    results["all"] = [one for some in results.values() for one in some]
    for kind, some in results.items():
        shares = [share(one.clip for one in some), share(one.moment for one in some)]
        shares += [share(one.still for one in some if one.of_pictures), share(one.inside for one in some)]
        errors = [one.error for one in some if one.error is not None]
        print(f"| {kind} | {len(some)} | {' | '.join(shares)} | {median(errors or [np.nan]):.1f} |")
    every = results["all"]
    inside, moment = share(one.inside for one in every), share(one.moment for one in every)
    print(f"R@1 overall: {moment} % among all clips, {inside} % in its clip")


def share(rights: Iterable[bool]) -> str:
    found = list(rights)
    return f"{100 * float(np.mean(found)):.1f}" if found else "-"


@dataclass
class Result:
    """What a question found."""

    clip: bool
    moment: bool
    inside: bool  # the moment, asked of the clip alone
    still: bool
    of_pictures: bool
    error: float | None  # seconds; None in another clip


def result(question: Question, hit: Item, inside: Item, still: bool) -> Result:
    shot = question.shot
    clip = Path(hit.uri).name == shot.clip
    error = max(0.0, hit.metadata["start"] - shot.end, shot.start - hit.metadata["end"]) if clip else None
    of_pictures = question.modality == "image"
    return Result(clip, clip and is_right(hit, shot), is_right(inside, shot), still, of_pictures, error)


def is_right(hit: Item, shot: Shot) -> bool:
    """Tell whether a hit in the clip of a shot is of that shot."""
    start, end = hit.metadata["start"], hit.metadata["end"]
    if hit.modality == "image":
        time = (start + end) / 2 if "scenes" in (hit.content or "") else start
        return bool(shot.start <= time < shot.end)
    return bool(min(end, shot.end) - max(start, shot.start) >= min(end - start, shot.end - shot.start) / 2)


def measure_memory(asked: argparse.Namespace) -> None:
    """Embed a short and a long video, each in a process of its own, and compare what they take beside the model."""
    asked.folder.mkdir(parents=True, exist_ok=True)
    grown = []
    print("| minutes | items | seconds | peak above the loaded model |")
    print("| --- | --- | --- | --- |")
    for minutes in MINUTES:
        path = asked.folder / f"long-{minutes}.mp4"
        if not path.exists():
            write_long(path, minutes)
        command = [sys.executable, __file__, str(asked.folder), "--model", asked.model, "--embed", str(path)]
        told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
        grown.append(told["grown"])
        print(f"| {minutes} | {told['items']} | {told['seconds']:.0f} | {told['grown'] / 2**20:.0f} MiB |")
    print(f"ratio of peaks, {MINUTES[1]} / {MINUTES[0]} minutes: {grown[1] / grown[0]:.2f}")


def write_long(path: Path, minutes: int) -> None:
    """Write a video that changes every two seconds, with noise."""
    rng = np.random.default_rng(0)
    pictures = (
        (PIL.Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize(SIZE), 2 * RATE)
        for _ in range(30 * minutes)
    )
    heard = rng.normal(size=60 * minutes * HZ).astype(np.float32) / 10
    write_video(path, pictures, heard)


def embed_alone(path: Path, name: str) -> None:
    """Embed one video into a store, with a progress bar, and print what that took."""
    model = onepeace.load_embedder(name)
    model.encode([onepeace.Image(PIL.Image.new("RGB", SIZE)), "a dog", onepeace.Audio(np.zeros(10 * HZ), HZ)])
    before = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    place = path.with_suffix(".store")
    shutil.rmtree(place, ignore_errors=True)
    begun = time.perf_counter()
    report = build_store([path], place, model, show_progress_bar=True)
    grown = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"items": report.added, "seconds": time.perf_counter() - begun, "grown": grown}))


if __name__ == "__main__":
    main()
