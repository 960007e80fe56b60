"""Albums in which something is there so many times, and what is asked and stated of how often."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from onepeace.model.counting import MOST_COUNTED
from onepeace.training.album_questions import Pointed, Stated, one_of, pointed, stated
from onepeace.training.item_set import Items

TRIES = 20  # for each item that is something else
OFTEN = 6  # times that something is in an album at most
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
HOW_OFTEN = (
    "how many times is there {a}?",
    "how often is {a} there?",
    "how many items show {a}?",
    "how many {many}?",
    "how many {many} are there?",
    "count the {many}",
    "the number of {many}",
)
SO_OFTEN = (
    "{n} {many}",
    "there are {n} {many}",
    "{a}, {n} times",
    "{a} is there {n} times",
    "{a} in {n} items",
    "{n} items show {a}",
)
ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "last",
    "next",
)
NAMES = ("item", "picture", "page", "frame", "one", "sound")
NTH = ("the {nth} {name}", "what is in the {nth} {name}?", "{name} {n}", "{name} number {n}", "what is in {name} {n}?")
NONE_STATED = MOST_COUNTED + 2  # class of texts that state no number


class Counts(NamedTuple):
    """A text that counts what an album holds."""

    text: str
    members: list[int]  # places of what is counted
    stated: int  # the number that the text says, MOST_COUNTED + 1 for more; NONE_STATED


class CountBatch(NamedTuple):
    """Albums and what is counted in each. B: albums, N: items of the longest one."""

    vectors: Tensor  # (B, N, D)
    padding: Tensor  # (B, N) bool
    asked: list[tuple[int, Counts]]  # the number of an album, and what is asked or stated of it
    other: list[tuple[int, str]]  # texts that count nothing


def counted_batch(items: Items, albums: int, counts: tuple[int, int], draw: random.Random) -> CountBatch:
    """Return albums of so many items at least and at most, in each of which one thing is there 0 to 6 times.

    Raises:
        ValueError: no two rows have the same label.
    """
    members = members_of(items)
    repeated = [[concept for concept, those in each.items() if len(those) > 1] for each in members]
    sources = [n for n, concepts in enumerate(repeated) if concepts]
    if not sources:
        raise ValueError(
            "no two rows of a source have the same label, so nothing can be counted: set model.tower.counting to false"
        )
    weights = [items.weights[n] for n in sources]
    vectors, asked, other = [], [], []
    for album in range(albums):
        (source,) = draw.choices(sources, weights)
        concept = draw.choice(repeated[source])
        those, count = members[source][concept], draw.randint(*counts)
        chosen = draw.sample(those, draw.randint(0, min(OFTEN, count, len(those))))
        text = one_of(items.texts[those[0]], draw)
        chosen += others(items, concept, source if draw.random() < 0.5 else None, count - len(chosen), draw)
        chosen = chosen or those[:1]
        ordered = draw.sample(chosen, len(chosen))
        places = [place for place, at in enumerate(ordered) if at in those]
        vectors.append(items.vectors[ordered])
        asked.append((album, Counts(worded(HOW_OFTEN, text, 0, draw), places, NONE_STATED)))
        number = draw.choice([len(places), draw.randint(0, MOST_COUNTED + 2)])
        asked.append((album, Counts(worded(SO_OFTEN, text, number, draw), places, min(number, MOST_COUNTED + 1))))
        texts, concepts = [items.texts[at] for at in ordered], [items.concepts[at] for at in ordered]
        told: list[Pointed | Stated] = [*pointed(texts, concepts, range(1, len(chosen) + 1), draw)]
        told += stated(texts, concepts, draw)
        which = draw.choice(NTH).format(nth=draw.choice(ORDINALS), name=draw.choice(NAMES), n=draw.choice(WORDS))
        other.append((album, draw.choice([text, draw.choice(told).text, with_number(items, draw) or text, which])))
    padding = pad_sequence([torch.zeros(len(each), dtype=torch.bool) for each in vectors], True, True)
    return CountBatch(pad_sequence(vectors, True), padding, asked, other)


def others(items: Items, concept: str, source: int | None, count: int, draw: random.Random) -> list[int]:
    """Return items, of one source or of any, whose texts do not name a concept; fewer where there are hardly any."""
    found: list[int] = []
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        (drawn,) = draw.choices(range(len(items.sources)), items.weights) if source is None else (source,)
        one = draw.choice(items.sources[drawn])
        if not any(concept in text.casefold() for text in (items.concepts[one], *items.texts[one])):
            found.append(one)
    return found


def with_number(items: Items, draw: random.Random) -> str:
    """Return the text of a single item that has a number in it ("two dogs run"), which counts no items; or nothing."""
    for _ in range(TRIES):
        texts = items.texts[draw.choice(draw.choice(items.sources))]
        if found := [text for text in texts if {*WORDS[1:]} & {*text.casefold().split()[:-1]}]:
            return draw.choice(found).rstrip(" .")
    return ""


def members_of(items: Items) -> list[dict[str, list[int]]]:
    """Return of each source the items of each concept."""
    found = []
    for source in items.sources:
        of_concept: dict[str, list[int]] = defaultdict(list)
        for item in source:
            of_concept[items.concepts[item]].append(item)
        found.append(of_concept)
    return found


def worded(templates: Sequence[str], text: str, number: int, draw: random.Random) -> str:
    """Return a question or statement; names alone, of one word or a few, have a plural."""
    many = plural(text)
    said = draw.choice([template for template in templates if many or "{many}" not in template])
    figure = draw.choice([WORDS[number], WORDS[number], str(number)])
    return said.format(a=text, many=many, n=figure)


def plural(text: str) -> str:
    """Return the plural of a name, with or without its article; of what is no mere name nothing.

    Irregular ones are wrong, which texts of users are too.

    >>> plural("a brown bear"), plural("butterfly"), plural("a brush"), plural("the sound of rain")
    ('brown bears', 'butterflies', 'brushes', '')
    """
    name = re.sub(r"^(a|an|the) ", "", text)
    if not re.fullmatch(r"[a-z-]+( [a-z-]+){0,2}", name) or {"of", "is", "in", "on", "says"} & {*name.split()}:
        return ""
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + ("es" if re.search(r"(s|x|z|ch|sh)$", name) else "s")
