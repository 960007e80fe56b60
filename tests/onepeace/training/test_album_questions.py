"""What is asked of albums: the right answers are right, and wrong statements are the right ones turned round."""

from __future__ import annotations

import random
import re

import pytest

from onepeace.training.album_questions import NEIGHBOURS, ORDERS, pointed, stated

TEXTS = [[f"the {animal}", f"one {animal}"] for animal in ("dog", "cat", "hen", "dog", "owl", "ape")]
CONCEPTS = [texts[0].split()[1] for texts in TEXTS]
NUMBERS = [3, 4, 9, 57, 200, 399]


def named(text: str) -> list[str]:
    return re.findall(r"\b(?:dog|cat|hen|owl|ape)\b", text)


def test_what_is_asked_for_is_there_once_and_is_the_answer() -> None:
    seen = set()
    for seed in range(300):
        for question in pointed(TEXTS, CONCEPTS, NUMBERS, random.Random(seed)):
            seen.add(question.by)
            if question.by == "number":
                (number,) = re.findall(r"\d+", question.text)
                assert NUMBERS[question.target] == int(number)
                continue
            (animal,) = named(question.text)
            assert animal != "dog"  # two of them
            assert CONCEPTS.index(animal) == question.named
            away = question.target - question.named
            if question.by == "content":
                assert away == 0
            else:
                words = question.text.replace(TEXTS[question.named][0], "{a}").replace(TEXTS[question.named][1], "{a}")
                assert words in NEIGHBOURS[away]
    assert seen == {"number", "content", "neighbour"}


def test_of_two_statements_one_is_true() -> None:
    worded = set()
    for seed in range(300):
        true, false = stated(TEXTS, CONCEPTS, random.Random(seed))
        assert (true.true, false.true) == (True, False)
        assert true.first < true.second
        assert (false.first, false.second) == (true.second, true.first)
        assert named(true.text) == named(false.text)[::-1]
        animals = [CONCEPTS[true.first], CONCEPTS[true.second]]
        assert named(true.text) in (animals, animals[::-1])
        backwards = named(true.text) != animals
        assert backwards == bool(re.search(r"after|before that", true.text))
        worded.add(re.sub(r"(the|one) \w+", "_", true.text))
    assert len(worded) == len(ORDERS)


@pytest.mark.parametrize("count", [1, 2])
def test_an_album_that_is_too_small_has_no_order_or_neighbours(count: int) -> None:
    questions = pointed(TEXTS[:1] * count, CONCEPTS[:1] * count, NUMBERS[:count], random.Random(0))
    assert [question.by for question in questions] == ["number", "content"][: 3 - count]
    assert stated(TEXTS[:1] * count, CONCEPTS[:1] * count, random.Random(0)) == []
