from __future__ import annotations

import numpy as np
import pytest

from onepeace.training.wording import drop_words, joined


def test_words_are_left_out_as_often_as_asked_and_never_all(rng: np.random.Generator) -> None:
    text = "one two three four five six seven eight"
    drawn = [drop_words(text, 0.3, rng).split() for _ in range(2000)]
    assert np.mean([len(words) for words in drawn]) == pytest.approx(8 * 0.7, abs=0.1)
    assert all(words == [word for word in text.split() if word in words] for words in drawn)  # their order stays
    assert {drop_words("one two", 0.999, rng) for _ in range(50)} == {"one", "two"}


@pytest.mark.parametrize("first", ["a dog barking", "a dog barking.", "a dog barking , "])
def test_two_captions_become_one(first: str) -> None:
    assert joined(first, "rain on a roof") == "a dog barking and rain on a roof"
