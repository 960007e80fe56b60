"""A bank of texts in a model's folder: made of manifests, read back, and refused where it does not belong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import onepeace
from onepeace.checkpoint import CheckpointError, open_folder
from onepeace.manifest import ManifestError
from onepeace.query_bank import write_query_bank
from retrieval.cli import app

TEXTS = ["a dog on a beach", "rain falls", "two red cars", "a cup", "an old man reads", "the sea at night"]


@pytest.fixture
def mine(model_folder: Path, tmp_path: Path) -> onepeace.Embedder:
    """A model of one's own, whose folder may be written into."""
    shutil.copytree(model_folder, tmp_path / "mine")
    return onepeace.load_embedder(tmp_path / "mine", dtype="float32")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "photos.jsonl"
    rows = [{"id": f"{n}", "image": f"{n}.jpg", "text": text} for n, text in enumerate(TEXTS)]
    rows += [{"id": "again", "image": "again.jpg", "text": TEXTS[0], "label": "a beach"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_bank_holds_the_vectors_of_all_texts_and_labels_once(mine: onepeace.Embedder, manifest: Path) -> None:
    assert mine.folder.query_bank() is None
    assert write_query_bank(mine, [manifest]) == {"photos": 7}
    bank = open_folder(mine.folder.path).query_bank()
    assert bank is not None
    expected = mine.encode([*TEXTS, "a beach"])
    assert bank.shape == expected.shape
    nearest = (bank @ expected.T).max(axis=0)
    np.testing.assert_allclose(nearest, 1.0, atol=2e-4)  # kept as int8
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1.0, atol=1e-6)


def test_the_same_texts_are_drawn_again(mine: onepeace.Embedder, manifest: Path) -> None:
    assert write_query_bank(mine, [manifest], texts=3) == {"photos": 3}
    first = mine.folder.query_bank()
    write_query_bank(mine, [manifest], texts=3)
    second = mine.folder.query_bank()
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)


def test_first_numbers_are_kept_at_length_one(mine: onepeace.Embedder, manifest: Path) -> None:
    write_query_bank(mine, [manifest], dimensions=8)
    bank = mine.folder.query_bank()
    assert bank is not None
    short = mine.encode(TEXTS)[:, :8]
    short /= np.linalg.norm(short, axis=1, keepdims=True)
    np.testing.assert_allclose((bank @ short.T).max(axis=0), 1.0, atol=2e-4)


def test_a_bank_belongs_to_one_model(mine: onepeace.Embedder, manifest: Path, tmp_path: Path) -> None:
    write_query_bank(mine, [manifest])
    config = json.loads((mine.folder.path / "config.json").read_text(encoding="utf-8"))
    (mine.folder.path / "config.json").write_text(json.dumps(config | {"name": "other"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="make it again with `onepeace querybank`"):
        open_folder(mine.folder.path).query_bank()
    (mine.folder.path / "querybank.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"querybank\.json cannot be read"):
        mine.folder.query_bank()


def test_a_damaged_bank_is_named(mine: onepeace.Embedder, manifest: Path) -> None:
    write_query_bank(mine, [manifest])
    path = mine.folder.path / "querybank.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="querybank"):
        mine.folder.query_bank()
    path.unlink()
    with pytest.raises(CheckpointError, match="querybank"):
        mine.folder.query_bank()


def test_what_cannot_be_is_refused(mine: onepeace.Embedder, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"dimensions must be from 1 to {mine.dimension}, got 4096"):
        write_query_bank(mine, [manifest], dimensions=4096)
    wordless = tmp_path / "wordless.jsonl"
    wordless.write_text('{"id": "1", "image": "1.jpg"}\n', encoding="utf-8")
    with pytest.raises(ManifestError, match="no row of the manifests has a text"):
        write_query_bank(mine, [wordless])
    assert mine.folder.query_bank() is None
    (mine.folder.path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="reads no text, and a query bank is made of texts"):
        write_query_bank(onepeace.load_embedder(mine.folder.path), [manifest])


def test_the_command_says_what_it_took(mine: onepeace.Embedder, manifest: Path) -> None:
    result = CliRunner().invoke(app, ["querybank", str(mine.folder.path), str(manifest), "--dimensions", "8"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().endswith("mine: 7 texts, 7 of photos")
    bank = mine.folder.query_bank()
    assert bank is not None
    assert bank.shape == (7, 8)


def test_the_shipped_bank_is_of_the_shipped_model() -> None:
    shipped = onepeace.load_embedder("onepeace-tiny")
    bank = shipped.query_bank
    assert bank is not None
    assert bank.shape[1] == 128
    told = json.loads((shipped.folder.path / "querybank.json").read_text(encoding="utf-8"))["texts"]
    assert sum(told.values()) == len(bank) > 4000
    a_dog = shipped.encode("a dog barking")[:128]  # a text of it
    assert (bank @ (a_dog / np.linalg.norm(a_dog))).max() > 0.999
