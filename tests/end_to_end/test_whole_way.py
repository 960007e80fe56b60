"""Files -> model -> store -> search, through the command line, with tiny random models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
from random_models import write_random_model
from typer.testing import CliRunner

from retrieval.cli import app

FLOAT32 = ("--dtype", "float32")
STABLE = {"float32": 1e-5, "bfloat16": 1e-3}  # cosine distance that batch mates may cost
WORDS = ["a dog", "the cat", "rain of the night", "a bird", "street"]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "media"
    folder.mkdir()
    rng = np.random.default_rng(11)
    for i in range(5):
        coarse = rng.integers(0, 255, (5, 7, 3), dtype=np.uint8)
        PIL.Image.fromarray(coarse).resize((70, 50)).save(folder / f"p{i}.png")
        tone = np.sin(np.arange(24_000) * (0.02 + 0.05 * i)) * 0.3 + rng.normal(size=24_000) * 0.02
        soundfile.write(folder / f"s{i}.flac", tone.astype(np.float32), 16_000)
    (folder / "words.csv").write_text("text,number\n" + "\n".join(f"{word},{i}" for i, word in enumerate(WORDS)))
    return folder


@pytest.fixture(scope="module")
def store(media: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store") / "store"
    report = json.loads(run("index", "build", media, "--store", store, "--model", model_folder, *FLOAT32, "--json"))
    assert (report["added"], report["failed"]) == (15, [])
    return store


@pytest.mark.parametrize(
    ("option", "value", "own"),
    [
        ("--image", "p3.png", "media/p3.png"),
        ("--audio", "s2.flac", "media/s2.flac"),
        ("--text", "a bird", "media/words.csv#5"),
    ],
)
@pytest.mark.parametrize("dtype", STABLE)
def test_every_item_finds_itself_first(
    dtype: str, option: str, value: str, own: str, store: Path, media: Path, model_folder: Path
) -> None:
    query = value if option == "--text" else media / value
    arguments = ["search", store, option, query, "--model", model_folder, "--dtype", dtype, "--top", 3]
    hits = json.loads(run(*arguments, "--json"))
    assert hits[0]["id"] == own
    assert hits[0]["score"] == pytest.approx(1.0, abs=STABLE[dtype])
    assert hits[0]["score"] > hits[1]["score"] >= hits[2]["score"]


@pytest.mark.parametrize("modality", ["text", "image", "audio"])
def test_a_mixed_query_searches_any_modality(modality: str, store: Path, media: Path, model_folder: Path) -> None:
    arguments = ["search", store, "--audio", media / "s1.flac", "--text", "a dog", "--model", model_folder]
    hits = json.loads(run(*arguments, "--where", f"modality={modality}", "--json"))
    assert [hit["modality"] for hit in hits] == [modality] * 5


def test_a_mixed_query_lies_between_its_parts(store: Path, media: Path, model_folder: Path) -> None:
    arguments = ["search", store, "--image", media / "p1.png", "--audio", media / "s1.flac"]
    found = run(*arguments, "--model", model_folder, *FLOAT32, "--top", 15, "--json")
    hits = {hit["id"]: hit["score"] for hit in json.loads(found)}
    # The sum of two unit vectors is as near to one as to the other.
    assert hits["media/p1.png"] == pytest.approx(hits["media/s1.flac"], abs=1e-5)


def test_a_store_grows_and_another_model_is_refused_by_name(media: Path, model_folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run("index", "build", media / "p0.png", "--store", store, "--model", model_folder)
    run("index", "add", store, media / "s0.flac", "--model", model_folder)
    assert json.loads(run("index", "info", store, "--json", "--verify"))["modalities"] == {"audio": 1, "image": 1}
    design = "backbones" if model_folder.name == "official" else "official"
    other = write_random_model(tmp_path / "other", design)
    message = run("index", "add", store, media / "s1.flac", "--model", other, code=1)
    assert f"random-{model_folder.name}" in message
    assert f"random-{design}" in message
