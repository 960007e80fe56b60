"""Vectors as a column of a dataset, kept by its cache, searched by its FAISS index."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from later import Later
from random_models import write_random_model

import onepeace
from onepeace.integrations.loading import loaded
from retrieval import Item, ModelTag, Searcher, Store
from retrieval.gallery import GALLERY, read_gallery

if TYPE_CHECKING:
    import datasets
else:
    datasets = Later("datasets")
ours = Later("onepeace.integrations.datasets")

ITEMS = read_gallery()
PICTURES = [item for item in ITEMS if item.modality == "image"][:7]
SOUNDS = [item for item in ITEMS if item.modality == "audio"][:3]


@pytest.fixture(scope="module")
def model() -> onepeace.Embedder:
    return loaded("onepeace-tiny", dtype="float32")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def pictures(tmp_path: Path) -> datasets.Dataset:
    """On the disk, as a reader would have it."""
    columns = {"img": [str(GALLERY / item.file) for item in PICTURES], "caption": [item.caption for item in PICTURES]}
    rows = datasets.Dataset.from_dict(columns).cast_column("img", datasets.Image())
    rows.save_to_disk(tmp_path / "pictures")
    return datasets.Dataset.load_from_disk(tmp_path / "pictures")


@pytest.fixture
def sounds() -> datasets.Dataset:
    columns = {"clip": [{"bytes": (GALLERY / item.file).read_bytes(), "path": None} for item in SOUNDS]}
    return datasets.Dataset.from_dict(columns).cast_column("clip", datasets.Audio())


def hashed(function: Any) -> str:
    """Return what a cache knows a function by."""
    return datasets.fingerprint.Hasher.hash(function)


def test_a_column_of_vectors(pictures: datasets.Dataset, model: onepeace.Embedder) -> None:
    found = ours.embed_columns(pictures, model, image="img", batch_size=2)
    assert found.column_names == ["img", "caption", "vector"]
    assert found.features["vector"] == datasets.List(datasets.Value("float32"), length=512)
    assert found.features["img"] == datasets.Image()
    assert isinstance(found[0]["img"], PIL.Image.Image)
    expected = model.encode_images([GALLERY / item.file for item in PICTURES])
    np.testing.assert_allclose(found.with_format("numpy")["vector"][:], expected, atol=1e-6)


def test_several_columns_are_composed(pictures: datasets.Dataset, model: onepeace.Embedder) -> None:
    bare = pictures.map(lambda row, n: {"caption": None if n == 1 else row["caption"]}, with_indices=True)
    found = ours.embed_columns(bare, model, image="img", text="caption", vector="both")
    images = [onepeace.Image(GALLERY / item.file) for item in PICTURES]
    expected = [
        image if n == 1 else onepeace.Compose(item.caption, image)
        for n, (item, image) in enumerate(zip(PICTURES, images, strict=True))
    ]
    np.testing.assert_allclose(found.with_format("numpy")["both"][:], model.encode(expected), atol=1e-5)


def test_sounds_without_their_decoder(sounds: datasets.Dataset, model: onepeace.Embedder) -> None:
    found = ours.embed_columns(sounds.select([2, 0]), model, audio="clip")
    expected = model.encode_audio([GALLERY / SOUNDS[n].file for n in (2, 0)])
    np.testing.assert_allclose(found.select_columns("vector").with_format("numpy")[:]["vector"], expected, atol=1e-6)
    assert found.features["clip"] == datasets.Audio()


class Decoder:
    """A sound as torchcodec's AudioDecoder hands it out."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def get_all_samples(self) -> Any:
        samples, rate = soundfile.read(io.BytesIO(self.content), dtype="float32", always_2d=True)
        return type("AudioSamples", (), {"data": torch.from_numpy(samples.T.copy()), "sample_rate": rate})


def test_cells_in_every_form(model: onepeace.Embedder) -> None:
    path = GALLERY / SOUNDS[0].file
    content = path.read_bytes()
    samples, rate = soundfile.read(path, dtype="float32")
    cells = [str(path), {"bytes": content, "path": None}, {"array": samples, "sampling_rate": rate}, Decoder(content)]
    found = ours.ColumnEmbedder(model, audio="clip")({"clip": cells})["vector"]
    np.testing.assert_allclose(found, np.repeat(model.encode_audio([path]), 4, axis=0), atol=1e-5)
    opened = ours.ColumnEmbedder(model, image="img")({"img": [PIL.Image.open(GALLERY / PICTURES[0].file)]})["vector"]
    np.testing.assert_allclose(opened, model.encode_images([GALLERY / PICTURES[0].file]), atol=1e-6)


def test_a_streamed_dataset(pictures: datasets.Dataset, model: onepeace.Embedder) -> None:
    stream = pictures.to_iterable_dataset().map(ours.ColumnEmbedder(model, image="img"), batched=True, batch_size=3)
    expected = model.encode_images([GALLERY / item.file for item in PICTURES])
    np.testing.assert_allclose([row["vector"] for row in stream], expected, atol=1e-6)


def test_the_cache_knows_the_model_again(
    pictures: datasets.Dataset, model: onepeace.Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ours.embed_columns(pictures, model, text="caption")
    assert first.cache_files[-1:] != pictures.cache_files[-1:]
    calls: list[int] = []
    encode = type(model).encode
    monkeypatch.setattr(type(model), "encode", lambda *given, **named: calls.append(1) or encode(*given, **named))
    again = ours.embed_columns(pictures, onepeace.load("onepeace-tiny", dtype="float32"), text="caption")
    assert (again["vector"][:], again._fingerprint) == (first["vector"][:], first._fingerprint)
    assert not calls
    other = ours.embed_columns(pictures, str(write_random_model(tmp_path / "other", "official")), text="caption")
    assert calls
    assert len(other[0]["vector"]) == 48


def test_what_is_hashed(model: onepeace.Embedder, tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", "official")
    hashes = [
        hashed(ours.ColumnEmbedder(model, text="caption")),
        hashed(ours.ColumnEmbedder(model, text="title")),
        hashed(ours.ColumnEmbedder(model, image="caption")),
        hashed(ours.ColumnEmbedder(onepeace.load("onepeace-tiny", dtype="int8"), text="caption")),
        hashed(ours.ColumnEmbedder(onepeace.load(folder), text="caption")),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hashed(ours.ColumnEmbedder(onepeace.load("onepeace-tiny", dtype="float32"), text="caption")) == hashes[0]
    pickled = pickle.dumps(ours.ColumnEmbedder(onepeace.load(folder), text="caption"))
    assert len(pickled) < 1_000
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    loaded.cache_clear()
    with pytest.raises(ValueError, match="another model by now"):
        pickle.loads(pickled)


def test_neighbours_are_those_of_brute_force(pictures: datasets.Dataset, model: onepeace.Embedder) -> None:
    found = ours.embed_columns(pictures, model, image="img")
    found.add_faiss_index("vector", metric_type=0)  # inner product
    query = model.encode("a person in space")
    scores, nearest = found.get_nearest_examples("vector", query, k=7)
    cosines = model.encode_images([GALLERY / item.file for item in PICTURES]) @ query
    assert nearest["caption"] == [PICTURES[n].caption for n in np.argsort(-cosines)]
    np.testing.assert_allclose(scores, np.sort(cosines)[::-1], atol=1e-5)


def test_a_store_of_them(pictures: datasets.Dataset, model: onepeace.Embedder, tmp_path: Path) -> None:
    found = ours.embed_columns(pictures, model, image="img")
    items = [Item(f"pictures#{n}", "image", row["caption"]) for n, row in enumerate(found, 1)]
    vectors = found.with_format("numpy")["vector"][:]
    with Store.create(tmp_path / "store", items, vectors, model=ModelTag.of(model)) as store:
        best = Searcher(store, model).search(onepeace.Image(GALLERY / PICTURES[3].file), top_k=1)[0]
    assert (best.item.id, best.item.uri) == ("pictures#4", PICTURES[3].caption)


def test_mistakes_are_named(pictures: datasets.Dataset, model: onepeace.Embedder) -> None:
    with pytest.raises(ValueError, match="name at least one column"):
        ours.embed_columns(pictures, model)
    with pytest.raises(ValueError, match="no column 'image'; the columns are img, caption"):
        ours.embed_columns(pictures, model, image="image")
    with pytest.raises(ValueError, match="there is a column 'caption' already"):
        ours.embed_columns(pictures, model, image="img", vector="caption")
    with pytest.raises(TypeError, match="give one split"):
        ours.embed_columns(datasets.DatasetDict(train=pictures), model, image="img")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="row 1 of a batch holds nothing in caption"):
        ours.embed_columns(datasets.Dataset.from_dict({"caption": ["a", None]}), model, text="caption")
