"""What becomes of a text when it is drawn: words left out, two captions joined."""

from __future__ import annotations

import numpy as np


def drop_words(text: str, share: float, rng: np.random.Generator) -> str:
    """Return a text without a random share of its words; at least one stays."""
    words = text.split()
    kept = rng.random(len(words)) >= share
    kept[int(rng.integers(len(words)))] |= not kept.any()
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)


def joined(first: str, second: str) -> str:
    """Return what is said of two sounds that are heard together."""
    return f"{first.rstrip(' .!?;,')} and {second}"
