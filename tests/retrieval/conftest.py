"""A tiny model that really embeds, and a store made with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from character_model import CharacterModel
from hypothesis import HealthCheck, settings
from typer.testing import CliRunner, Result

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


@pytest.fixture
def run(model: CharacterModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command line, with the tiny model in the place of every model."""
    from retrieval import cli, command_options, index_cli

    for module in (cli, command_options, index_cli):
        monkeypatch.setattr(module, "load_model", lambda name, device, dtype: model)

    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="onepeace")

    return run


@pytest.fixture
def pack(tmp_path: Path, sentences: list[str]) -> Path:
    """The six sentences and a picture, as files."""
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "lines.txt").write_text("\n".join(sentences))
    (pack / "a.jpg").write_bytes(b"some picture")
    return pack


@pytest.fixture
def mixed_files(tmp_path: Path, sentences: list[str]) -> Path:
    """Nine items, the six sentences first, and a file of another kind."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "lines.txt").write_text("\n".join(sentences))
    (mixed / "picture.jpg").write_bytes(b"these bytes stand for a picture")
    (mixed / "rows.csv").write_text("text,year\na dog,2020\na cat,2021\n")
    (mixed / "notes.doc").write_bytes(b"of no kind we know")
    return mixed
