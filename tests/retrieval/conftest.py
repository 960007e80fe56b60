"""A tiny model that really embeds, and a store made with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from character_model import CharacterModel
from hypothesis import HealthCheck, settings

from retrieval import Item, ModelTag, Store

# A busy machine must not fail a property.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


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
