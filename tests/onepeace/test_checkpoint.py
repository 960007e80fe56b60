"""Model folders: what is written comes back, in every storage, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import write_random_model
from safetensors.torch import load_file

import onepeace
from onepeace.checkpoint import (
    CheckpointError,
    Storage,
    dequantise,
    open_folder,
    quantise_rows,
    write_folder,
)


def rewritten(folder: Path, out: Path, storage: Storage) -> Path:
    opened = open_folder(folder)
    write_folder(out, opened.name, opened.config, opened.model().state_dict(), opened.tokenizer(), "", storage)
    return out


def test_safetensors_reads_the_same_tensors_that_were_written(model_folder: Path) -> None:
    model = open_folder(model_folder).model()
    tensors = load_file(model_folder / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())


def test_writing_again_gives_the_same_bytes_and_fingerprint(model_folder: Path, tmp_path: Path) -> None:
    again = rewritten(model_folder, tmp_path / "again", "float32")
    assert (again / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()
    assert open_folder(again).fingerprint() == open_folder(model_folder).fingerprint()


@pytest.mark.parametrize(("storage", "least"), [("float16", 0.99999), ("bfloat16", 0.999), ("int8", 0.995)])
def test_smaller_storage_keeps_the_vectors(
    storage: Storage, least: float, model_folder: Path, embedder: onepeace.Embedder, tmp_path: Path
) -> None:
    smaller = onepeace.load(rewritten(model_folder, tmp_path / "smaller", storage), dtype="float32")
    sound = {"array": np.sin(np.arange(16_000, dtype=np.float32) / 9), "sampling_rate": 16_000}
    inputs = ["a dog", onepeace.Image(np.full((40, 40, 3), 90, dtype=np.uint8)), sound]
    cosines = (smaller.encode(inputs) * embedder.encode(inputs)).sum(1)
    assert cosines.min() > least
    assert smaller.fingerprint != embedder.fingerprint
    large, small = (path / "model.safetensors" for path in (model_folder, smaller.folder.path))
    assert small.stat().st_size < 0.6 * large.stat().st_size


def test_rows_of_int8_are_within_half_a_step() -> None:
    weight = torch.randn(50, 30, 3) * torch.logspace(-6, 3, 50)[:, None, None]
    whole, scale = quantise_rows(weight)
    back = dequantise({"w": whole, "w.scale": scale})["w"]
    step = weight.abs().amax((1, 2)) / 127
    assert ((back - weight).abs().amax((1, 2)) <= 0.501 * step).all()


def test_a_row_of_zeros_stays_zero() -> None:
    whole, scale = quantise_rows(torch.zeros(2, 8))
    assert torch.equal(dequantise({"w": whole, "w.scale": scale})["w"], torch.zeros(2, 8))


def damage(folder: Path, what: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    data = json.loads(config.read_text())
    if what == "no config":
        config.unlink()
    elif what == "no weights":
        weights.unlink()
    elif what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "not JSON":
        config.write_text("{")
    elif what == "unknown key":
        data["model"]["adapters"]["text"]["colour"] = 1
        config.write_text(json.dumps(data))
    elif what == "other width":
        data["model"]["hidden"] = 128
        config.write_text(json.dumps(data))
    elif what == "newer format":
        data["format_version"] = 99
        config.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("no config", r"no config\.json"),
        ("no weights", r"no model\.safetensors"),
        ("cut weights", r"model\.safetensors cannot be read"),
        ("not JSON", r"config\.json cannot be read"),
        ("unknown key", r"adapters\.text: unknown key colour"),
        ("other width", r"does not fit config\.json: .*shape"),
        ("newer format", r"format version 99"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(what: str, named: str, tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", "official")
    damage(folder, what)
    with pytest.raises(CheckpointError, match=named):
        onepeace.load(folder)


def test_a_model_without_vocabulary_embeds_all_but_text(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", "official")
    (folder / "tokenizer.json").unlink()
    model = onepeace.load(folder)
    assert model.modalities == ("image", "audio")
    with pytest.raises(ValueError, match="--vocab"):
        model.encode("a dog")
