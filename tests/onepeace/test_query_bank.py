"""A bank of texts in a model's folder: made of manifests, read back, and refused where it does not belong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
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


def test_a_bank_belongs_to_one_model(mine: onepeace.Embedder, manifest: Path) -> None:
    write_query_bank(mine, [manifest])
    config = json.loads((mine.folder.path / "config.json").read_text(encoding="utf-8"))
    (mine.folder.path / "config.json").write_text(json.dumps(config | {"name": "other"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"belongs to the model with .* make it again with `onepeace querybank`"):
        open_folder(mine.folder.path).query_bank()


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"\xff\xfe", b""])
def test_a_damaged_description_is_named(mine: onepeace.Embedder, manifest: Path, content: bytes) -> None:
    write_query_bank(mine, [manifest])
    (mine.folder.path / "querybank.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"querybank\.json is damaged: make it again with `onepeace querybank`$"):
        mine.folder.query_bank()


def test_damaged_vectors_are_named(mine: onepeace.Embedder, manifest: Path) -> None:
    write_query_bank(mine, [manifest])
    path = mine.folder.path / "querybank.safetensors"
    whole = path.read_bytes()
    rows = np.ones((2, mine.dimension), np.float32)
    broken = [whole[:-5], b"", None, np.nan * rows, 0 * rows, rows[:0], rows[0], np.ones((2, mine.dimension + 1))]
    for content in broken:
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is None:
            path.unlink()
        else:
            save_file({"rows": content.astype(np.float32)}, path)
        with pytest.raises(CheckpointError, match=r"querybank\.safetensors is missing or damaged: make it again"):
            mine.folder.query_bank()


def test_what_cannot_be_is_refused(mine: onepeace.Embedder, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"dimensions must be from 1 to {mine.dimension}, got 4096"):
        write_query_bank(mine, [manifest], dimensions=4096)
    with pytest.raises(ValueError, match="texts must be at least 1, got -1"):
        write_query_bank(mine, [manifest], texts=-1)
    with pytest.raises(ValueError, match="is a folder: give manifests with a column text, texts or label"):
        write_query_bank(mine, [tmp_path])
    wordless = tmp_path / "wordless.jsonl"
    wordless.write_text('{"id": "1", "image": "1.jpg"}\n', encoding="utf-8")
    with pytest.raises(ManifestError, match=r"wordless\.jsonl: no text that can be read; texts stand in a column text"):
        write_query_bank(mine, [wordless])
    assert mine.folder.query_bank() is None
    (mine.folder.path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="reads no text, and a query bank is made of texts"):
        write_query_bank(onepeace.load_embedder(mine.folder.path), [manifest])


def test_a_text_file_has_a_text_a_line(mine: onepeace.Embedder, manifest: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.txt"
    asked.write_text(f"a red car\n\n  {TEXTS[1]}\na lamp\n", encoding="utf-8")
    assert write_query_bank(mine, [asked]) == {"asked": 3}
    assert mine.query_bank is not None
    assert len(mine.query_bank) == 3
    assert write_query_bank(mine, [asked, manifest]) == {"asked": 3, "photos": 6}
    assert len(mine.query_bank) == 9  # what was read before is not kept


def test_the_command_says_what_it_took_and_replaces_nothing_unasked(mine: onepeace.Embedder, manifest: Path) -> None:
    command = ["querybank", str(mine.folder.path), str(manifest), "--dimensions", "8"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().endswith("mine: a bank of 7 texts (7 of photos)")
    assert "fewer than 1,000 texts order hits no better" in result.stderr
    bank = mine.folder.query_bank()
    assert bank is not None
    assert bank.shape == (7, 8)
    again = CliRunner().invoke(app, [*command, "--texts", "2"])
    assert again.stderr.strip().endswith("has a query bank already: give --replace to put another in its place")
    assert mine.folder.query_bank() is not None
    assert len(mine.folder.query_bank()) == 7
    assert CliRunner().invoke(app, [*command, "--texts", "2", "--replace"]).exit_code == 0
    assert len(mine.folder.query_bank()) == 2


def test_the_shipped_bank_is_of_the_shipped_model() -> None:
    shipped = onepeace.load_embedder("onepeace-tiny")
    bank = shipped.query_bank
    assert bank is not None
    assert bank.shape[1] == 128
    told = json.loads((shipped.folder.path / "querybank.json").read_text(encoding="utf-8"))["texts"]
    assert sum(told.values()) == len(bank) > 4000
    a_dog = shipped.encode("a dog barking")[:128]  # a text of it
    assert (bank @ (a_dog / np.linalg.norm(a_dog))).max() > 0.999
