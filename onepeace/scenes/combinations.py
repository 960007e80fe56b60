"""Which pairs of attributes each split asks about: what a test asks for was never seen in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SHAPES = ("circle", "triangle", "square", "star", "cross", "ring", "heart", "moon")
PITCHES = ("deep", "low", "middle", "high", "shrill")
NOISES = ("beep", "buzz", "warble", "rising tone", "falling tone", "pulsing tone", "hiss", "rattle")


class Combination(NamedTuple):
    """Two attributes of one thing, as a phrase says them.

    >>> Combination("red", "circle").phrase
    'red circle'
    """

    adjective: str  # a colour, or a pitch
    noun: str  # a shape, or a noise

    @property
    def phrase(self) -> str:
        """Return the words for it, without an article."""
        return f"{self.adjective} {self.noun}"

    @property
    def one(self) -> str:
        """Return the words for it with their article, as in `a red circle`."""
        return f"{'an' if self.adjective[0] in 'aeiou' else 'a'} {self.phrase}"

    def shares(self, other: Combination) -> bool:
        """Tell whether it has an attribute of another."""
        return self.adjective == other.adjective or self.noun == other.noun


@dataclass(frozen=True)
class Combinations:
    """All pairs of one family, divided: each split has its own, and val and test may show those of training besides."""

    own: dict[Split, tuple[Combination, ...]]

    def shown(self, split: Split) -> tuple[Combination, ...]:
        """Return what may occur in a split at all."""
        return self.own["train"] + (() if split == "train" else self.own[split])


def divided(
    adjectives: tuple[str, ...], nouns: tuple[str, ...], test: list[tuple[int, int]], val: list[tuple[int, int]]
) -> Combinations:
    """Return the pairs with those at the given places (adjective, noun) held out."""
    held = {"test": test, "val": val}
    own = {split: tuple(Combination(adjectives[a], nouns[n]) for a, n in places) for split, places in held.items()}
    rest = [Combination(*pair) for pair in product(adjectives, nouns)]
    train = tuple(pair for pair in rest if pair not in own["test"] + own["val"])
    return Combinations({"train": train, "val": own["val"], "test": own["test"]})


# Every colour and every shape once in test and once in val, so training knows each of them in six pairs.
THINGS = divided(COLOURS, SHAPES, [(i, (3 * i + 1) % 8) for i in range(8)], [(i, (3 * i + 4) % 8) for i in range(8)])
# A noise is held out at one pitch, so training knows each of them at four pitches.
EVENTS = divided(
    PITCHES,
    NOISES,
    [((i + 1) % 5, i) for i in range(0, 8, 2)],
    [((i + 1) % 5, i) for i in range(1, 8, 2)],
)


def one_of(items: Sequence[T], rng: np.random.Generator) -> T:
    """Return one of the items at random."""
    return items[int(rng.integers(len(items)))]


def asked_in_turn(number: int, plan: int, own: Sequence[Combination]) -> Combination:
    """Return what scene `number` asks about: with each of the `plan` questions every combination comes in its turn."""
    block, place = divmod(number, plan)
    return own[(block + 5 * place) % len(own)]
