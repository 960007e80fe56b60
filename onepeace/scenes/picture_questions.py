"""Scenes of things that suit a question, and what is asked about them; each answer is as frequent as the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onepeace.scenes.combinations import COLOURS, SHAPES, THINGS, Combination, Split, asked_in_turn, one_of
from onepeace.scenes.pictures import Thing, placed

Cells = dict[str, Any]  # of a row, but for its media

COUNTS = ("0", "1", "2", "3")
ANSWERS = (*COLOURS, *SHAPES, *COUNTS, "yes", "no")
PLURALS = {"cross": "crosses"} | {shape: shape + "s" for shape in SHAPES if shape != "cross"}
CLEARLY = 40  # pixels between middles, for one to be left of or above the other

# What is asked, and how many things of the asked kind there are. What is asked of them comes in turn, so that every
# answer is as frequent as the others; `alone` says which of the thing's attributes no other thing may share.
PLAN: tuple[tuple[str, int, str], ...] = (
    *(("count", count, "") for count in (0, 1, 2, 3)),
    *(("exists", count, "") for count in (0, 1, 0, 2)),
    *(("colour", count, "noun") for count in (1, 1, 2, 3)),
    *(("shape", count, "adjective") for count in (1, 1, 2, 3)),
    *(("relation", 1, "") for _ in range(4)),
)


@dataclass(frozen=True)
class PictureScene:
    """Things, and the combination that is asked about: the first `count` of them have it."""

    asked: Combination
    count: int
    question: str  # of PLAN
    things: tuple[Thing, ...]


def picture_scene(number: int, split: Split, rng: np.random.Generator) -> PictureScene:
    """Return the scene of a number: combinations and questions come in turn, the rest is at random."""
    question, count, alone = PLAN[number % len(PLAN)]
    asked = asked_in_turn(number, len(PLAN), THINGS.own[split])
    others = [
        what
        for what in THINGS.shown(split)
        if what != asked and not (alone and getattr(what, alone) == getattr(asked, alone))
    ]
    alike = [what for what in others if what.shares(asked)]
    whats = [asked] * count
    for _ in range(int(rng.integers(1, 3)) if count else 2):  # most things share something with what is asked about
        whats.append(one_of(alike if rng.random() < 0.7 else others, rng))
    if question == "relation":  # to something there is only one of
        whats.append(one_of([what for what in others if what not in whats], rng))
    while True:
        scene = PictureScene(asked, count, question, placed(whats, rng))
        if question != "relation" or _relations(scene.things[0], scene.things[-1]):
            return scene


def answered(scene: PictureScene, turn: int, rng: np.random.Generator) -> Cells:
    """Return the question that a scene was made for; `turn` alternates yes and no of those that allow either."""
    adjective, noun = scene.asked
    match scene.question:
        case "count":
            return _vqa(f"how many {adjective} {PLURALS[noun]} are there?", str(scene.count))
        case "exists":
            return _vqa(f"is there {scene.asked.one}?", _yes(scene.count > 0))
        case "colour":
            return _vqa(f"what colour {_are(noun, scene.count)}?", adjective)
        case "shape":
            thing, things = ("is the", "thing") if scene.count == 1 else ("are the", "things")
            return _vqa(f"what shape {thing} {adjective} {things}?", noun)
        case _:
            return related(scene.things[0], scene.things[-1], turn, rng)


def related(one: Thing, other: Thing, turn: int, rng: np.random.Generator) -> Cells:
    """Return a question on where one thing is, seen from another; right and wrong in turn."""
    true = _relations(one, other)
    right = one_of(true, rng)
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[right]
    words = right if turn % 2 == 0 else opposite
    return _vqa(f"is the {one.what.phrase} {words} the {other.what.phrase}?", _yes(turn % 2 == 0))


def further(scene: PictureScene, turn: int, rng: np.random.Generator) -> Cells | None:
    """Return a question on two things of a scene that it was not made for; None where none may be asked."""
    single = [t for t in scene.things if sum(o.what == t.what for o in scene.things) == 1]
    pairs = [(a, b) for a in single for b in single if a is not b and _relations(a, b)]
    if scene.question == "relation" or not pairs:
        return None
    return related(*pairs[rng.integers(len(pairs))], turn, rng)


def grounded(things: Sequence[Thing], what: Combination, rng: np.random.Generator) -> Cells | None:
    """Return a phrase for one of the things, with its box; None where no phrase tells it from the others."""
    same = [thing for thing in things if thing.what == what]
    if len(same) == 1:
        return {"text": f"the {what.phrase}", "box": list(same[0].box)}
    if not same:
        return None
    named = singled_out(same)
    if not named:
        return None
    word, thing = named[rng.integers(len(named))]
    return {"text": f"the {word} {what.phrase}", "box": list(thing.box)}


def singled_out(same: Sequence[Thing]) -> list[tuple[str, Thing]]:
    """Return the words that tell one of several things of a kind from the others, each with that thing."""
    named: list[tuple[str, Thing]] = []
    for word, axis, sign in (("leftmost", 0, 1), ("rightmost", 0, -1), ("highest", 1, 1), ("lowest", 1, -1)):
        first, second = sorted(same, key=lambda thing: sign * thing.centre[axis])[:2]
        if sign * (second.centre[axis] - first.centre[axis]) >= CLEARLY / 2:
            named.append((word, first))
    for word, size in (("large", True), ("small", False)):
        if len(of_size := [thing for thing in same if thing.large == size]) == 1:
            named.append((word, of_size[0]))
    return named


def singled_out_by(things: Sequence[Thing], count: int, rng: np.random.Generator) -> list[Cells]:
    """Return at most so many phrases for one of several things of a colour, of a shape or of any, with their boxes."""
    attributes = sorted({attribute for thing in things for attribute in thing.what})
    kinds = {attribute if attribute in SHAPES else f"{attribute} thing": attribute for attribute in attributes}
    groups = {kind: [thing for thing in things if attribute in thing.what] for kind, attribute in kinds.items()}
    named = [
        {"text": f"the {word} {kind}", "box": list(thing.box)}
        for kind, same in (*groups.items(), ("thing", things))
        if len(same) > 1
        for word, thing in singled_out(same)
    ]
    return [named[number] for number in rng.permutation(len(named))[:count]]


def detected(things: Sequence[Thing], what: Combination) -> Cells:
    """Return a phrase for all things of one combination, with their boxes, which may be none."""
    phrase = f"all {what.adjective} {PLURALS[what.noun]}"
    return {"text": phrase, "boxes": [list(thing.box) for thing in things if thing.what == what]}


def attribute(things: Sequence[Thing], rng: np.random.Generator) -> str:
    """Return a colour or a shape of something that is there."""
    what = one_of(things, rng).what
    return what.adjective if rng.random() < 0.5 else what.noun


def detected_by(things: Sequence[Thing], attribute: str) -> Cells:
    """Return a phrase for all things of one colour or of one shape, with their boxes."""
    phrase = f"all {PLURALS[attribute]}" if attribute in SHAPES else f"all {attribute} things"
    return {"text": phrase, "boxes": [list(thing.box) for thing in things if attribute in thing.what]}


def grounded_by(things: Sequence[Thing], attribute: str) -> Cells | None:
    """Return a phrase for the one thing of a colour or of a shape, with its box; None where there are several."""
    found = [thing for thing in things if attribute in thing.what]
    phrase = f"the {attribute}" if attribute in SHAPES else f"the {attribute} thing"
    return {"text": phrase, "box": list(found[0].box)} if len(found) == 1 else None


def exists_by(things: Sequence[Thing], turn: int, rng: np.random.Generator) -> Cells:
    """Return a question whether there is anything of one colour or of one shape; yes and no in turn."""
    there = {attribute for thing in things for attribute in thing.what}
    asked = one_of(sorted(there if turn % 2 == 0 else {*COLOURS, *SHAPES} - there), rng)
    article = "an" if asked[0] in "aeiou" else "a"
    return _vqa(f"is there {article} {asked if asked in SHAPES else asked + ' thing'}?", _yes(turn % 2 == 0))


def absent(scene: PictureScene, split: Split, rng: np.random.Generator) -> Combination:
    """Return a combination of the split's own that is not in the scene, but is like something in it if there is one."""
    there = {thing.what for thing in scene.things}
    missing = [what for what in THINGS.own[split] if what not in there]
    alike = [what for what in missing if any(what.shares(other) for other in there)]
    return one_of(alike or missing, rng)


# Statements on two pictures: words, and whether they hold of so many things in the left and in the right one.
STATEMENTS: tuple[tuple[str, Callable[[int, int], bool]], ...] = (
    ("both pictures show {}", lambda a, b: a > 0 and b > 0),
    ("only the left picture shows {}", lambda a, b: a > 0 and b == 0),
    ("only the right picture shows {}", lambda a, b: a == 0 and b > 0),
    ("at least one picture shows {}", lambda a, b: a > 0 or b > 0),
    ("one picture shows {} and the other does not", lambda a, b: (a > 0) != (b > 0)),
)


def statement(number: int, true: bool, what: Combination, rng: np.random.Generator) -> tuple[str, tuple[int, int]]:
    """Return a statement, and how many of these things the left and the right picture show, so that it is (not) true.

    Of the numbers that fit, each pair of zero and more is as frequent as the others.
    """
    words, holds = STATEMENTS[number % len(STATEMENTS)]
    shown = [(a, b) for a in (0, 1) for b in (0, 1) if holds(a, b) == true]
    a, b = (count * int(rng.choice([1, 1, 2, 3])) for count in shown[rng.integers(len(shown))])
    return words.format(what.one), (a, b)


def _relations(one: Thing, other: Thing) -> list[str]:
    out = []
    for axis, words in enumerate((("left of", "right of"), ("above", "below"))):
        away = other.centre[axis] - one.centre[axis]
        if abs(away) >= CLEARLY:
            out.append(words[away < 0])
    return out


def _vqa(question: str, answer: str) -> Cells:
    assert answer in ANSWERS
    return {"text": question, "label": answer}


def _are(noun: str, count: int) -> str:
    return f"is the {noun}" if count == 1 else f"are the {PLURALS[noun]}"


def _yes(true: bool) -> str:
    return "yes" if true else "no"
