"""MTEB's own mock tasks, and small real ones whose scores are counted here once more."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from later import Later
from random_models import write_random_model
from torch.utils.data import DataLoader

import onepeace
from onepeace.integrations.loading import loaded
from retrieval.gallery import GALLERY, read_gallery

if TYPE_CHECKING:
    import datasets

    from onepeace.integrations.mteb import OnePeaceEncoder
else:
    datasets = Later("datasets")
mteb = Later("mteb")
integration = Later("onepeace.integrations.mteb")
tasks = Later("mteb_tasks")

PICTURES = [item for item in read_gallery() if item.modality == "image"][:12]
NONE: dict[str, Any] = {"cache": None, "show_progress_bar": False}
FEW = [  # of each modality; test_all_mock_tasks runs all of them
    "MockSTSTask",
    "MockZeroShotClassificationTask",
    "MockAny2AnyRetrievalI2TTask",
    "MockAudioZeroshotClassificationTask",
    "MockAudioClassification",
]


@pytest.fixture(scope="module")
def shipped() -> onepeace.Embedder:
    return loaded("onepeace-tiny", dtype="float32")


@pytest.fixture(scope="module")
def encoder(shipped: onepeace.Embedder) -> OnePeaceEncoder:
    return integration.OnePeaceEncoder(shipped)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> OnePeaceEncoder:
    return integration.OnePeaceEncoder(str(write_random_model(tmp_path_factory.mktemp("model") / "small", "official")))


@pytest.fixture
def sounds_as_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the mock tasks' sounds written by libsndfile rather than by torchcodec, which needs FFmpeg."""
    encode = datasets.Audio.encode_example

    def written(self: datasets.Audio, value: Any) -> dict[str, Any]:
        if not (isinstance(value, dict) and value.get("array") is not None):
            return encode(self, value)
        file = io.BytesIO()
        soundfile.write(file, value["array"], value["sampling_rate"], format="WAV", subtype="FLOAT")
        return {"bytes": file.getvalue(), "path": None}

    monkeypatch.setattr(datasets.Audio, "encode_example", written)


@pytest.mark.filterwarnings("ignore")  # MTEB's own, of its classifiers and metrics
@pytest.mark.parametrize("name", FEW)
def test_mock_tasks(name: str, small: OnePeaceEncoder, sounds_as_files: None) -> None:
    task = getattr(tasks.mocks, name)()
    (result,) = mteb.evaluate(small, task, **NONE).task_results
    assert np.isfinite(result.get_score())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_mock_tasks(small: OnePeaceEncoder, sounds_as_files: None) -> None:
    results = tasks.mock_run(small)
    ran = {name: found for name, found in results.items() if found is not None}
    assert {name for name, found in ran.items() if not isinstance(found, mteb.TaskResult)} == set()
    grids = (tasks.mocks.MOCK_TASK_TEST_GRID, tasks.mocks.MOCK_MIEB_TASK_GRID, tasks.mocks.MOCK_MAEB_TASK_GRID)
    assert set(ran) == {task.metadata.name for grid in grids for task in grid}


def test_a_retrieval_score_is_that_of_brute_force(encoder: OnePeaceEncoder, shipped: onepeace.Embedder) -> None:
    (result,) = mteb.evaluate(encoder, tasks.SoundsByCaption(), **NONE).task_results
    cosines = (
        shipped.encode([i.caption for i in tasks.SOUNDS])
        @ shipped.encode_audio([GALLERY / i.file for i in tasks.SOUNDS]).T
    )
    ranks = 1 + (cosines > np.diag(cosines)[:, None]).sum(1)
    assert result.get_score() == pytest.approx(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean(), abs=1e-4)
    assert 0.3 < result.get_score() < 1  # so that the comparison says something


def test_a_classification_score_is_that_of_brute_force(encoder: OnePeaceEncoder, shipped: onepeace.Embedder) -> None:
    task = tasks.SoundsByLabel()
    (result,) = mteb.evaluate(encoder, task, **NONE).task_results
    labels = task.get_candidate_labels()
    found = (shipped.encode_audio([GALLERY / i.file for i in tasks.SOUNDS]) @ shipped.encode(labels).T).argmax(1)
    assert result.get_score() == pytest.approx(
        np.mean([labels[n] == i.concept for n, i in zip(found, tasks.SOUNDS, strict=True)])
    )


def encoded(encoder: OnePeaceEncoder, rows: Any, **options: Any) -> np.ndarray:
    metadata = tasks.mocks.MockSTSTask().metadata
    loader: Any = DataLoader(rows, batch_size=5)
    return encoder.encode(loader, task_metadata=metadata, hf_split="test", hf_subset="default", **options)


def test_items_of_several_modalities_are_composed(encoder: OnePeaceEncoder, shipped: onepeace.Embedder) -> None:
    captions = [item.caption for item in PICTURES]
    captions[2] = ""  # as MTEB has it where there is none
    columns = {"text": captions, "image": tasks.of_files(PICTURES), "id": list("abcdefghijkl")}
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    images = [onepeace.Image(GALLERY / item.file) for item in PICTURES]
    wanted = [onepeace.Compose(text, image) if text else image for text, image in zip(captions, images, strict=True)]
    for batch_size in (1, 32):
        np.testing.assert_allclose(encoded(encoder, rows, batch_size=batch_size), shipped.encode(wanted), atol=1e-5)


def test_sounds_as_arrays_of_any_rate(encoder: OnePeaceEncoder, shipped: onepeace.Embedder) -> None:
    sounds = [{"array": np.sin(np.arange(rate) / 9), "sampling_rate": rate} for rate in (8_000, 44_100)]
    rows = [{"audio": sound} for sound in sounds]
    np.testing.assert_allclose(encoded(encoder, rows), shipped.encode(sounds), atol=1e-6)


def test_similarities_are_cosines(encoder: OnePeaceEncoder, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 3, 8)).astype(np.float32)
    cosines = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    np.testing.assert_allclose(np.asarray(encoder.similarity(a, b)), cosines, atol=1e-6)
    np.testing.assert_allclose(np.asarray(encoder.similarity_pairwise(a, b)), np.diag(cosines), atol=1e-6)


def test_what_is_told_of_the_model(encoder: OnePeaceEncoder, shipped: onepeace.Embedder) -> None:
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.revision) == ("onepeace/onepeace-tiny", shipped.fingerprint)
    assert meta.embed_dim == shipped.encode("a").shape[0]
    assert isinstance(encoder, mteb.EncoderProtocol)


def test_mistakes_are_named(encoder: OnePeaceEncoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave it out"):
        integration.OnePeaceEncoder("onepeace-tiny", "main")
    with pytest.raises(ValueError, match="holds none of text, image, audio, only id"):
        encoded(encoder, [{"id": "a"}])
    with pytest.raises(ValueError, match="holds a video"):
        encoded(encoder, [{"text": "a", "video": b"frames"}])
    (tmp_path / "cut.png").write_bytes((GALLERY / PICTURES[0].file).read_bytes()[:99])
    with pytest.raises(onepeace.MediaError, match=r"input 1: .*cut\.png"):
        encoded(encoder, [{"image": str(GALLERY / PICTURES[0].file)}, {"image": str(tmp_path / "cut.png")}])
