"""Phrases that name things by where they lie, seen from another: they teach to compare what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onepeace.scenes.picture_questions import CLEARLY, PLURALS, Cells
from onepeace.scenes.pictures import Thing

SIDES = (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1))


def all_seen_from(things: Sequence[Thing], some: int, none: int, rng: np.random.Generator) -> list[Cells]:
    """Return phrases for all things of a kind on one side of another, with their boxes.

    At most `some` of the phrases are for things that are there, and `none` for such as are elsewhere.

    >>> from onepeace.scenes.combinations import Combination
    >>> star, ring = Combination("red", "star"), Combination("blue", "ring")
    >>> things = [Thing(star, (0, 0, 60, 60)), Thing(ring, (90, 9, 150, 69))]
    >>> [cells] = all_seen_from(things, 1, 0, np.random.default_rng(0))
    >>> cells["text"], cells["boxes"]
    ('all stars left of the ring', [[0, 0, 60, 60]])
    """
    phrases: dict[bool, list[Cells]] = {True: [], False: []}
    for kind, side, other, _, found in _compared(things):
        adjective, _, noun = kind.rpartition(" ")
        plural = f"{adjective} {PLURALS.get(noun, noun + 's')}".lstrip()
        cells = {"text": f"all {plural} {side} the {other}", "boxes": [list(thing.box) for thing in found]}
        phrases[bool(found)].append(cells)
    return [*_some_of(phrases[True], some, rng), *_some_of(phrases[False], none, rng)]


def one_seen_from(things: Sequence[Thing], count: int, rng: np.random.Generator) -> list[Cells]:
    """Return at most so many phrases for the one of several things of a kind on one side of another, with its box.

    >>> one_seen_from([], 4, np.random.default_rng(0))
    []
    """
    phrases = [
        {"text": f"the {kind} {side} the {other}", "box": list(found[0].box)}
        for kind, side, other, alike, found in _compared(things)
        if len(found) == 1 < alike
    ]
    return _some_of(phrases, count, rng)


def _compared(things: Sequence[Thing]) -> Iterator[tuple[str, str, str, int, list[Thing]]]:
    """Yield a kind, a side, another thing by a name of its own, how many things are of the kind, and those there."""
    for other in things:
        rest = [thing for thing in things if thing is not other]
        kinds = sorted({kind for thing in rest for kind in _kinds(thing)})
        for name in _kinds(other)[:-1]:
            if any(name in _kinds(thing) for thing in rest):
                continue
            for side, axis, sign in SIDES:
                for kind in kinds:
                    alike = [thing for thing in rest if kind in _kinds(thing)]
                    away = [sign * (thing.centre[axis] - other.centre[axis]) for thing in alike]
                    if min(map(abs, away)) >= CLEARLY / 2:
                        there = [thing for thing, far in zip(alike, away, strict=True) if far > 0]
                        yield kind, side, name, len(alike), there


def _kinds(thing: Thing) -> tuple[str, ...]:
    adjective, noun = thing.what
    return thing.what.phrase, noun, f"{adjective} thing", "thing"


def _some_of(phrases: Sequence[Cells], count: int, rng: np.random.Generator) -> list[Cells]:
    return [phrases[number] for number in rng.permutation(len(phrases))[:count]]
