"""Drawn scenes: what is asked of test rows never occurs in training, answers are balanced, and places are true."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from onepeace.cli import app
from onepeace.manifest import Shards, read_manifest
from onepeace.scenes import TASKS, write_scenes
from onepeace.scenes.combinations import EVENTS, SPLITS, THINGS, Combinations
from onepeace.scenes.picture_questions import (
    ANSWERS,
    PLAN,
    PLURALS,
    STATEMENTS,
    picture_scene,
    singled_out_by,
)
from onepeace.scenes.pictures import RGB, Thing, apart, drawn
from onepeace.scenes.seen_from import all_seen_from, one_seen_from
from onepeace.scenes.sound_questions import sound_scene
from onepeace.scenes.sounds import HERTZ, RATE, heard

Rows = dict[str, list[dict[str, object]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "out"
    write_scenes(out, rows=320, seed=5, show_progress=False)
    return out


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    return {f"{t}-{s}": read_manifest(folder / f"{t}-{s}.parquet") for t in TASKS for s in SPLITS}


@pytest.mark.parametrize("family", [THINGS, EVENTS], ids=["things", "events"])
def test_no_combination_is_in_two_splits_and_every_attribute_is_learnt(family: Combinations) -> None:
    train, val, test = (set(family.own[split]) for split in SPLITS)
    assert len(train | val | test) == len(train) + len(val) + len(test)
    for attribute in ("adjective", "noun"):
        known = Counter(getattr(what, attribute) for what in train)
        assert {getattr(what, attribute) for what in val | test} <= {a for a, n in known.items() if n >= 2}


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_show_only_what_their_split_may_and_ask_about_its_own(split: str, rng: np.random.Generator) -> None:
    for number in range(100):
        scene, sounding = picture_scene(number, split, rng), sound_scene(number, split, rng)
        assert scene.asked in THINGS.own[split]
        assert {thing.what for thing in scene.things} <= set(THINGS.shown(split))
        assert sum(thing.what == scene.asked for thing in scene.things) == scene.count
        assert sounding.asked in EVENTS.own[split]
        assert {event.what for event in sounding.sound.events} <= set(EVENTS.shown(split))
        assert sum(event.what == sounding.asked for event in sounding.sound.events) == sounding.count
        boxes = [thing.box for thing in scene.things]
        assert all(apart(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_no_word_pair_of_val_or_test_is_in_a_text_of_training(rows: Rows) -> None:
    words = " | ".join(str([r["text"], r.get("choices")]) for t in TASKS for r in rows[f"{t}-train"])
    for split in ("val", "test"):
        for what in THINGS.own[split]:
            assert what.phrase not in words
            assert f"{what.adjective} {PLURALS[what.noun]}" not in words
        assert not any(what.phrase in words for what in EVENTS.own[split])


@pytest.mark.parametrize("task", ["ground", "detect", "locate", "pairs"])
def test_every_test_row_asks_about_a_combination_held_out(task: str, rows: Rows) -> None:
    own = (EVENTS if task == "locate" else THINGS).own["test"]
    phrases = [what.phrase for what in own] + [f"{w.adjective} {PLURALS.get(w.noun, w.noun)}" for w in own]
    assert all(any(phrase in str(row["text"]) for phrase in phrases) for row in rows[f"{task}-test"])


def test_answers_are_balanced_whatever_is_asked() -> None:
    """Over whole turns of the plan, each question's answers are equally frequent, as those of a bare guess are."""
    counted = Counter(count for question, count, _ in PLAN if question == "count")
    assert set(counted.values()) == {1}
    assert sorted(count > 0 for question, count, _ in PLAN if question == "exists") == [False, False, True, True]
    turns = len(PLAN) * len(THINGS.own["train"])
    rng = np.random.default_rng(0)
    asked = Counter(picture_scene(number, "train", rng).asked for number in range(turns))
    assert set(asked.values()) == {len(PLAN)}


def test_labels_of_the_manifests_are_balanced(rows: Rows) -> None:
    vqa = Counter(str(row["label"]) for row in rows["vqa-train"])
    assert vqa["yes"] == pytest.approx(vqa["no"], rel=0.15)
    assert set(vqa) <= set(ANSWERS)
    assert {vqa[str(n)] for n in range(4)} == {320 // 2 // len(PLAN)}
    pairs = Counter((row["text"].split(" ")[0], row["label"]) for row in rows["pairs-train"])  # type: ignore[attr-defined]
    for first in {words.split(" ")[0] for words, _ in STATEMENTS}:
        true, false = pairs[first, "true"], pairs[first, "false"]
        assert abs(true - false) <= 4 * (true + false) ** 0.5, first
    places = Counter(row["choices"].index(row["label"]) for row in rows["choose-train"])  # type: ignore[attr-defined]
    assert min(places.values()) > 0.6 * max(places.values())


def test_statements_are_true_or_false_as_their_label_says(rows: Rows) -> None:
    """The pictures' contents are counted from the detection rows that ask about the same combination."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows["detect-train"]:
        for what in THINGS.own["train"]:
            if row["text"] == f"all {what.adjective} {PLURALS[what.noun]}":
                counts[str(row["image"]), what.one] = len(row["boxes"])  # type: ignore[arg-type]
    checked = 0
    for row in rows["pairs-train"]:
        for words, holds in STATEMENTS:
            for what in THINGS.own["train"]:
                if row["text"] == words.format(what.one):
                    left, right = counts[str(row["image"]), what.one], counts[str(row["image2"]), what.one]
                    assert holds(left, right) == (row["label"] == "true")
                    checked += 1
    assert checked == len(rows["pairs-train"]) > 100


def test_one_attribute_alone_is_asked_for_in_training(rows: Rows) -> None:
    """A phrase of one colour or shape finds all that any phrase about the same picture finds of it, and no more."""
    checked, plain = 0, [row for row in rows["detect-train"] if " the " not in str(row["text"])]
    for row in plain:
        words = str(row["text"]).split()[1:]
        attribute = words[0] if words[-1] == "things" else next((s for s, p in PLURALS.items() if [p] == words), None)
        if attribute is None:
            continue
        checked += 1
        same = [r for r in plain if r["image"] == row["image"] and r is not row]
        named = [attribute, PLURALS.get(attribute, attribute)]
        for other in same:
            boxes = [box for box in other["boxes"] if set(named) & set(str(other["text"]).split())]  # type: ignore[attr-defined]
            assert all(box in row["boxes"] for box in boxes)  # type: ignore[operator]
        assert row["boxes"]
    assert checked == 160
    assert all(len(str(row["text"]).split()) >= 3 for row in rows["detect-test"])


def test_phrases_for_one_of_several_name_the_one_that_stands_out(rng: np.random.Generator) -> None:
    extreme = {"leftmost": (0, min), "rightmost": (0, max), "highest": (1, min), "lowest": (1, max)}
    words: Counter[str] = Counter()
    for number in range(200):
        things = picture_scene(number, "train", rng).things
        for cells in singled_out_by(things, 4, rng):
            _, word, *kind = cells["text"].split()
            same = [thing for thing in things if kind[0] == "thing" or kind[0] in thing.what]
            assert len(same) > 1
            (meant,) = (thing for thing in same if list(thing.box) == cells["box"])
            if word in extreme:
                axis, first = extreme[word]
                assert meant is first(same, key=lambda thing: thing.centre[axis])
            else:
                assert [thing.large for thing in same].count(word == "large") == 1
                assert meant.large == (word == "large")
            words[word] += 1
    assert set(words) == {*extreme, "large", "small"}


def test_things_that_are_seen_from_another_lie_where_the_phrase_says(rng: np.random.Generator) -> None:
    beyond = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}

    def are(name: str, thing: Thing) -> bool:
        singular = {plural: shape for shape, plural in PLURALS.items()} | {"things": "thing"}
        words = {singular.get(word, word) for word in name.split()} - {"thing"}
        return words <= set(thing.what)

    told: Counter[str] = Counter()
    for number in range(200):
        things = picture_scene(number, "train", rng).things
        rows = [*all_seen_from(things, 2, 1, rng), *one_seen_from(things, 4, rng)]
        for cells in rows:
            phrase, _, name = cells["text"].rpartition(" the ")
            quantity, words, side = re.fullmatch(r"(all|the) (.*) (left|right|above|below)(?: of)?", phrase).groups()
            (other,) = (thing for thing in things if are(name, thing))
            axis, sign = beyond[side]
            there = [
                thing
                for thing in things
                if thing is not other and are(words, thing) and sign * (thing.centre[axis] - other.centre[axis]) > 0
            ]
            boxes = cells["boxes"] if quantity == "all" else [cells["box"]]
            assert sorted(boxes) == sorted(list(thing.box) for thing in there)
            told[f"{quantity} {side}" if boxes else "none"] += 1
    assert set(told) == {*(f"{quantity} {side}" for quantity in ("all", "the") for side in beyond), "none"}


def test_boxes_hold_the_colour_that_is_asked_for(folder: Path, rows: Rows) -> None:
    shards = Shards(folder)
    for row in rows["ground-test"][:20]:
        pixels = np.array(Image.open(io.BytesIO(shards.read(str(row["image"])))).convert("RGB")).astype(int)
        colour = next(RGB[word] for word in str(row["text"]).split() if word in RGB)
        near = np.abs(pixels - colour).max(axis=2) < 40
        left, top, right, bottom = row["box"]  # type: ignore[misc]
        inside = near[top:bottom, left:right]
        assert inside.mean() > 0.25
        sides = inside[:4], inside[-4:], inside[:, :4], inside[:, -4:]
        assert all(side.any() for side in sides)  # the thing reaches all four sides of its box


def test_spans_hold_the_noise_and_nothing_else_does(rng: np.random.Generator) -> None:
    for number in range(0, 200, 7):
        scene = sound_scene(number, "test", rng).sound
        samples = heard(scene, rng)
        assert 4.0 <= scene.seconds <= 10.0
        assert len(samples) == round(scene.seconds * RATE)
        loud = np.sqrt(np.convolve(samples**2, np.ones(320) / 320, "same")) > 0.02
        inside = np.zeros(len(samples), dtype=bool)
        for event in scene.events:
            inside[round(event.start * RATE) : round(event.end * RATE)] = True
            assert loud[round(event.start * RATE) : round(event.end * RATE)].mean() > 0.1
        assert not loud[~np.convolve(inside, np.ones(641), "same").astype(bool)].any()


@pytest.mark.parametrize("pitch", HERTZ)
def test_noises_lie_at_their_pitch(pitch: str, rng: np.random.Generator) -> None:
    for number in range(400):
        for event in (sound := sound_scene(number, "train", rng).sound).events:
            if event.what == (pitch, "beep"):
                span = heard(sound, rng)[round(event.start * RATE) : round(event.end * RATE)]
                spectrum = np.abs(np.fft.rfft(span))
                strongest = np.fft.rfftfreq(len(span), 1 / RATE)[spectrum.argmax()]
                assert HERTZ[pitch][0] - 5 <= strongest <= HERTZ[pitch][1] + 5
                return


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_scenes(tmp_path / name, rows=8, seed=seed, show_progress=False)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    same = [(tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files]
    other = [(tmp_path / "one" / f).read_bytes() == (tmp_path / "three" / f).read_bytes() for f in files]
    assert all(same)
    assert not any(other[i] for i, f in enumerate(files) if f.endswith(".tar"))


def test_pictures_are_of_every_background(rng: np.random.Generator) -> None:
    pixels = [np.array(drawn((), rng)).astype(float) for _ in range(60)]
    deviations = np.array([p.std() for p in pixels])
    assert (deviations < 8).any()
    assert (deviations > 12).any()
    assert all(60 < p.mean() < 210 for p in pixels)


def test_the_command_says_what_it_wrote_and_what_is_wrong(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["scenes", str(tmp_path / "out"), "--rows", "16"])
    assert done.exit_code == 0
    assert "detect: 45 train, 2 val, 2 test" in done.output
    with pytest.raises(ValueError, match="already exists"):
        write_scenes(tmp_path / "out", rows=16)
    with pytest.raises(ValueError, match="rows must be at least 8, got 7"):
        write_scenes(tmp_path / "more", rows=7)
