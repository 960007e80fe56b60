"""A tiny model that really embeds (characters, bytes of files), and a store made with it."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings

from retrieval import Item, ModelTag, Store, unit_rows

DIMENSION = 16

# A busy machine must not fail a property.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@dataclass(frozen=True)
class Encoded:
    vectors: npt.NDArray[np.float32]
    kept: list[int]
    failures: list[tuple[int, str]]


class CharacterModel:
    """Counts hashed pairs of characters. A str or `Text` is text; anything else names a file, read as bytes."""

    name = "characters"
    fingerprint = "c0ffee" * 4
    dimension = DIMENSION
    modalities = ("text", "image", "audio")

    def encode(self, inputs: Any) -> npt.NDArray[np.float32]:
        return unit_rows(np.stack([self._counts(one) for one in inputs]), DIMENSION)

    def encode_many(
        self, inputs: Sequence[Any], *, batch_size: int = 32, show_progress_bar: bool | None = None
    ) -> Encoded:
        vectors, kept, failures = [np.empty((0, DIMENSION), np.float32)], [], []
        for place, one in enumerate(inputs):
            try:
                vectors.append(self.encode([one]))
                kept.append(place)
            except (OSError, ValueError) as error:
                failures.append((place, str(error)))
        return Encoded(np.concatenate(vectors), kept, failures)

    def _counts(self, one: Any) -> npt.NDArray[np.float32]:
        if isinstance(one, str):
            content = one.encode()
        else:
            value = dataclasses.astuple(one)[0]
            content = value.encode() if type(one).__name__ == "Text" else Path(value).read_bytes()
        counts = np.zeros(DIMENSION, dtype=np.float32)
        for pair in itertools.pairwise(content):
            counts[zlib.crc32(bytes(pair)) % DIMENSION] += 1
        return counts


@pytest.fixture
def sentences() -> list[str]:
    return [
        "a dog barks at night",
        "a cat sleeps on the sofa",
        "rain falls on a street",
        "a rocket leaves the ground",
        "coffee in a white cup",
        "two birds sing in a tree",
    ]


@pytest.fixture
def text_items() -> Callable[..., list[Item]]:
    """Make an item for each sentence, with ids PREFIX/0, PREFIX/1, ..."""

    def make(sentences: Sequence[str], prefix: str = "text") -> list[Item]:
        return [
            Item(f"{prefix}/{n}", "text", f"{prefix}.txt#{n}", {"text": sentence, "number": n})
            for n, sentence in enumerate(sentences)
        ]

    return make


@pytest.fixture
def model() -> CharacterModel:
    return CharacterModel()


@pytest.fixture
def tag(model: CharacterModel) -> ModelTag:
    return ModelTag.of(model)


@pytest.fixture
def store(
    tmp_path: Path,
    model: CharacterModel,
    tag: ModelTag,
    sentences: list[str],
    text_items: Callable[..., list[Item]],
) -> Store:
    """The six sentences, in a store."""
    return Store.create(tmp_path / "store", text_items(sentences), model.encode(sentences), model=tag)
