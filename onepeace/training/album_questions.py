"""What is asked of an album, and what is right: an item by its number, by what it is, by its neighbour; orders."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

BY_NUMBER = (
    "in item {}",
    "item {}",
    "what is in item {}?",
    "picture {}",
    "number {}",
    "what is number {}?",
    "what is in picture {}?",
    "show me item {}",
    "In item {}, what can be seen?",
    "the content of item {}",
    "page {}",
    "frame {}",
    "what is heard in item {}?",
    "In item {}, ...",
)
BY_CONTENT = ("{a}", "{a}", "{a}", "where is {a}?", "the item with {a}")
NEIGHBOURS: Mapping[int, Sequence[str]] = {  # how many items on -> how that is asked
    1: (
        "what comes after {a}?",
        "after {a}",
        "the item after {a}",
        "what follows {a}?",
        "what is next to come after {a}?",
    ),
    -1: ("what comes before {a}?", "before {a}", "the item before {a}", "what precedes {a}?"),
}
ORDERS = (  # a first, then b
    "{a} then {b}",
    "first {a}, then {b}",
    "{a}, and then {b}",
    "{a} followed by {b}",
    "{a} before {b}",
    "{b} after {a}",
    "{b}, and before that {a}",
)
MOST_TEXT = 64  # characters of a text that a question may hold; longer ones are asked for by themselves


class Pointed(NamedTuple):
    """A question whose answer is an item."""

    text: str
    target: int  # place of the item that answers
    named: int  # place of the item that the text names
    by: str  # number, content or neighbour


class Stated(NamedTuple):
    """A statement on the order of two items."""

    text: str
    true: bool
    first: int  # place of the item that it says is first
    second: int


def pointed(
    texts: Sequence[Sequence[str]], concepts: Sequence[str], numbers: Sequence[int], draw: random.Random
) -> list[Pointed]:
    """Return questions on an album: by number, and where a concept is there once by content and by neighbour."""
    count = len(texts)
    place = draw.randrange(count)
    found = [Pointed(draw.choice(BY_NUMBER).format(numbers[place]), place, place, "number")]
    once = single(concepts)
    if once:
        place = draw.choice(once)
        found.append(Pointed(draw.choice(BY_CONTENT).format(a=one_of(texts[place], draw)), place, place, "content"))
        step = draw.choice(list(NEIGHBOURS))
        if sided := [place for place in once if 0 <= place + step < count]:
            place = draw.choice(sided)
            text = draw.choice(NEIGHBOURS[step]).format(a=one_of(texts[place], draw))
            found.append(Pointed(text, place + step, place, "neighbour"))
    return found


def stated(texts: Sequence[Sequence[str]], concepts: Sequence[str], draw: random.Random) -> list[Stated]:
    """Return a true statement on the order of two items and the one that is made of it by exchanging them, or none."""
    once = single(concepts)
    if len(once) < 2:
        return []
    first, second = sorted(draw.sample(once, 2))
    a, b, words = one_of(texts[first], draw), one_of(texts[second], draw), draw.choice(ORDERS)
    return [
        Stated(words.format(a=a, b=b), True, first, second),
        Stated(words.format(a=b, b=a), False, second, first),
    ]


def single(concepts: Sequence[str]) -> list[int]:
    """Return the places of what is there once.

    >>> single(["dog", "cat", "dog"])
    [1]
    """
    counts = Counter(concepts)
    return [place for place, concept in enumerate(concepts) if counts[concept] == 1]


def one_of(texts: Sequence[str], draw: random.Random) -> str:
    """Return one of an item's shorter texts, or its shortest one, without its full stop."""
    short = [text for text in texts if len(text) <= MOST_TEXT] or [min(texts, key=len)]
    return draw.choice(short).rstrip(" .")
