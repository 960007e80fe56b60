"""Albums to count in: what a text counts is there so often, and nothing else is."""

from __future__ import annotations

import random
import re

import pytest
import torch

from onepeace.model.counting import MOST_COUNTED
from onepeace.training.album_counts import NONE_STATED, WORDS, counted_batch, plural
from onepeace.training.item_set import Items

NAMES = ("a dog", "a cat", "a sea horse", "the sound of rain", "a butterfly", "a brush")


def items() -> Items:
    count = 60
    vectors = torch.nn.functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    names = [NAMES[i % len(NAMES)] for i in range(count)]
    return Items(vectors, [[name] for name in names], names, [list(range(30)), list(range(30, 60))], [1.0, 2.0])


def test_what_is_counted_is_what_the_text_names() -> None:
    made = items()
    batch = counted_batch(made, 64, (1, 12), random.Random(1))
    lengths = (~batch.padding).sum(dim=1).tolist()
    assert min(lengths) >= 1
    assert max(lengths) <= 12
    seen = set()
    for album, counts in batch.asked:
        rows = batch.vectors[album, : lengths[album]]
        concepts = [made.concepts[int((made.vectors == row).all(dim=1).nonzero())] for row in rows]
        named = {name for name in NAMES if name in counts.text or (plural(name) and plural(name) in counts.text)}
        assert len(named) == 1
        assert counts.members == [place for place, concept in enumerate(concepts) if concept in named]
        seen.add(len(counts.members))
    assert seen >= {0, 1, 2, 3, 4}
    assert [album for album, _ in batch.other] == list(range(64))


def test_stated_numbers_are_those_of_the_text() -> None:
    batch = counted_batch(items(), 128, (6, 12), random.Random(2))
    true = 0
    for _, counts in batch.asked:
        said = [
            WORDS.index(word) if word in WORDS else int(word)
            for word in re.findall(r"[a-z]+|\d+", counts.text)
            if word in WORDS or word.isdigit()
        ]
        assert counts.stated == (min(said[0], MOST_COUNTED + 1) if said else NONE_STATED)
        true += counts.stated == len(counts.members)
    assert 128 * 0.4 < true < 128 * 0.75  # half of the statements are true, and some by chance


def test_nothing_to_count_is_told() -> None:
    apart = items()
    apart = Items(apart.vectors, apart.texts, [str(i) for i in range(60)], apart.sources, apart.weights)
    with pytest.raises(ValueError, match="nothing can be counted"):
        counted_batch(apart, 4, (2, 4), random.Random(0))


def test_plurals() -> None:
    names = {"a dog": "dogs", "a puppy": "puppies", "a monkey": "monkeys", "the brush": "brushes", "a fox": "foxes"}
    assert {name: plural(name) for name in names} == names
    assert [plural(text) for text in ("someone says zero", "A dog runs", "the sound of rain")] == ["", "", ""]
