"""onepeace-tiny as it ships: small, licensed, stable, and as good as its card says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import onepeace
from onepeace.evaluate import evaluate
from onepeace.reader import SHIPPED
from retrieval.catalog import Item
from retrieval.engine import model_input
from retrieval.gallery import GALLERY, read_gallery

FOLDER = SHIPPED / "onepeace-tiny"


STABLE = {"float32": 1e-5, "bfloat16": 1e-3}  # cosine distance that batch mates may cost


@pytest.fixture(scope="module")
def tiny() -> onepeace.Embedder:
    return onepeace.load()


def test_it_is_small_and_has_a_card_that_names_every_source() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 48e6
    card = (FOLDER / "README.md").read_text()
    for name in ("Flickr8k", "Caltech-101", "Tiny ImageNet", "openclipart", "Tux Paint", "ESC-10", "moodist"):
        assert name in card
    for name in ("EfficientNet-Lite0", "mn04", "all-MiniLM-L6-v2", "Apache-2.0", "MIT"):
        assert name in card


def test_it_is_called_what_it_is_loaded_by(tiny: onepeace.Embedder) -> None:
    assert tiny.name == FOLDER.name == "onepeace-tiny"  # stores remember the name, and load the model by it


@pytest.mark.parametrize("dtype", STABLE)
def test_vectors_of_real_media_are_the_same_alone_and_together(dtype: str) -> None:
    tiny = onepeace.load(dtype=dtype)
    exhibits = read_gallery(GALLERY)
    some = [e for e in exhibits if e.modality == "image"][:6] + [e for e in exhibits if e.modality == "audio"][:10]
    inputs = [model_input(Item(e.id, e.modality, str(GALLERY / e.file), {})) for e in some]
    inputs += [e.caption for e in some]
    together = tiny.encode(inputs, batch_size=7)
    alone = np.stack([tiny.encode(value) for value in inputs])
    assert (1 - (together.astype(np.float64) * alone).sum(1)).max() < STABLE[dtype]


def figure(pattern: str) -> float:
    """Return the first number that the card gives in a line."""
    match = re.search(pattern, (FOLDER / "README.md").read_text())
    assert match is not None
    return float(match[1])


def test_sounds_are_told_apart_as_well_as_the_card_says(tiny: onepeace.Embedder, data_pack: Path) -> None:
    manifests = [data_pack / f"manifest-{split}.parquet" for split in ("val", "test")]
    (measured,) = evaluate(tiny, manifests, {"source": ["esc10"], "fold": ["4"]})
    assert measured.queries == 80
    assert measured.value >= 90
    assert measured.value == pytest.approx(figure(r"ESC-10 fold 4.*\| ([\d.]+) %"), abs=1.3)  # one clip


@pytest.mark.slow
def test_captions_find_their_pictures_as_well_as_the_card_says(tiny: onepeace.Embedder, data_pack: Path) -> None:
    manifests = [data_pack / f"manifest-{split}.parquet" for split in ("val", "test")]
    recalls = {(m.task, m.metric): m.value for m in evaluate(tiny, manifests, {"source": ["flickr8k"]}, batch_size=64)}
    assert recalls["text to image", "R@1"] >= 16
    assert recalls["image to text", "R@1"] >= 20
    expected = figure(r"Flickr8k val \+ test.*\| R@1 ([\d.]+)")
    assert recalls["text to image", "R@1"] == pytest.approx(expected, abs=0.3)
