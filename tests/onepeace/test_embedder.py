"""The Python face: stable vectors, every kind of input, clear errors."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onepeace
from onepeace import Audio, Compose, Embedder, Image, MediaError, Text
from onepeace.ahead import CPU_BATCH_BYTES
from onepeace.embedder import ELSEWHERE
from onepeace.lanes import Lanes

STABLE = 1e-5  # cosine distance that batch mates may cost


def sound(seconds: float, rate: int = 16_000, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"array": (rng.normal(size=int(seconds * rate)) * 0.1).astype(np.float32), "sampling_rate": rate}


def picture(width: int, height: int, seed: int = 0) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


MIXED: list[Any] = [
    "a dog",
    "the cat of the night in a street of rain",
    "",
    picture(40, 90),
    picture(200, 64, seed=1),
    sound(0.7),
    sound(1.9, 44_100, seed=1),
    sound(5.3, seed=2),
    Compose("a bird", sound(1.0, seed=3), weights=[1.0, 0.5]),
]


def cosine_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 1.0 - (a.astype(np.float64) * b.astype(np.float64)).sum(-1)


@pytest.fixture(scope="module")
def alone(embedder: Embedder) -> np.ndarray:
    return np.stack([embedder.encode(value) for value in MIXED])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, len(MIXED) - 1), min_size=1, max_size=12), batch_size=st.integers(1, 8))
def test_a_vector_never_depends_on_batch_mates_or_order(
    order: list[int], batch_size: int, embedder: Embedder, alone: np.ndarray
) -> None:
    together = embedder.encode([MIXED[i] for i in order], batch_size=batch_size)
    assert cosine_distance(together, alone[order]).max() < STABLE


def test_different_inputs_have_different_vectors(alone: np.ndarray) -> None:
    distances = cosine_distance(alone[:, None], alone[None])
    assert distances[~np.eye(len(alone), dtype=bool)].min() > 100 * STABLE


def test_rows_are_unit_length_and_one_input_gives_one_row(embedder: Embedder, alone: np.ndarray) -> None:
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-6)
    assert alone.dtype == np.float32
    assert embedder.encode("a dog").shape == (embedder.dimension,)
    assert embedder.encode(["a dog"]).shape == (1, embedder.dimension)
    assert embedder.encode([]).shape == (0, embedder.dimension)


def test_the_same_sound_and_picture_give_the_same_vector_however_they_come(embedder: Embedder, tmp_path: Path) -> None:
    samples = sound(1.3)
    soundfile.write(tmp_path / "s.wav", samples["array"], 16_000, subtype="FLOAT")
    pixels = picture(50, 60).source
    PIL.Image.fromarray(pixels).save(tmp_path / "p.png")
    sounds: Sequence[Any] = [samples, Audio(tmp_path / "s.wav"), Audio((tmp_path / "s.wav").read_bytes())]
    pictures: Sequence[Any] = [Image(pixels), PIL.Image.fromarray(pixels), Image(str(tmp_path / "p.png"))]
    for group in (sounds, pictures):
        rows = embedder.encode(list(group))
        assert cosine_distance(rows[1:], rows[0]).max() < STABLE
    assert cosine_distance(embedder.encode_images(str(tmp_path / "p.png")), embedder.encode(Image(pixels))) < STABLE
    assert cosine_distance(embedder.encode_audio([tmp_path / "s.wav"])[0], embedder.encode(samples)) < STABLE


@pytest.mark.parametrize("text", ["dog.jpg", "https://example.com/cat.png", "/etc/passwd", "data:image/png;base64,AA"])
def test_a_plain_string_is_text_whatever_it_looks_like(text: str, embedder: Embedder) -> None:
    np.testing.assert_array_equal(embedder.encode(text), embedder.encode(Text(text)))


@pytest.mark.parametrize("text", ["", " ", "word " * 10_000, "🐕🌧️", "شارع في الليل", "nul\0byte", "\u202eabc"])
def test_every_text_gives_a_finite_vector(text: str, embedder: Embedder) -> None:
    assert np.isfinite(embedder.encode(text)).all()


def test_a_long_sound_is_the_mean_of_its_windows(embedder: Embedder) -> None:
    samples = sound(4.0)["array"]
    if embedder.model.config.adapters["audio"].preprocess.layer_norm:
        samples = (samples - samples.mean()) / samples.std()  # as if the whole had been normalised already
    windows = embedder.encode([Audio(samples[i : i + 32_000], 16_000) for i in (0, 32_000)])
    expected = windows.sum(0) / np.linalg.norm(windows.sum(0))
    assert cosine_distance(embedder.encode(Audio(samples, 16_000)), expected) < 1e-3


def test_a_long_sound_gives_a_row_a_window_where_that_is_asked_for(embedder: Embedder) -> None:
    samples = np.random.default_rng(3).normal(size=16_000 * 5).astype(np.float32) * 0.1
    values = ["a dog", Audio(samples, 16_000), Audio(b"nothing"), sound(1.5), Compose(Audio(samples, 16_000), "rain")]
    result = embedder.encode_many(values, windows=True, batch_size=2)
    assert result.kept == [0, 1, 1, 1, 3, 4]
    assert [i for i, _ in result.failures] == [2]
    assert result.spans == [None, (0.0, 2.0), (2.0, 4.0), (4.0, 5.0), None, None]
    together = embedder.encode_many(values)
    assert together.spans == [None] * 4
    np.testing.assert_allclose(result.vectors[[0, 4, 5]], together.vectors[[0, 2, 3]], atol=1e-6)
    mean = result.vectors[1:4].sum(0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), together.vectors[1], atol=1e-6)


def test_one_forward_pass_on_a_cpu_is_bounded_in_bytes_however_large_the_batch(embedder: Embedder) -> None:
    sizes: list[int] = []
    adapter = embedder.model.adapters["audio"]
    hook = adapter.register_forward_pre_hook(lambda _module, inputs: sizes.append(inputs[0].nbytes))
    try:
        embedder.encode([sound(seconds, seed=i) for i, seconds in enumerate([2.0] * 40 + [0.5] * 10)], batch_size=1000)
    finally:
        hook.remove()
    assert len(sizes) > 1
    assert max(sizes) <= CPU_BATCH_BYTES


def test_threads_that_encode_at_once_get_the_vectors_of_each_alone(embedder: Embedder, alone: np.ndarray) -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(6) as pool:
        for turn in pool.map(lambda _: embedder.encode(MIXED, batch_size=2), range(12)):
            assert cosine_distance(turn, alone).max() < STABLE
        assert set(pool.map(lambda _: torch.get_num_threads(), range(6))) == {before}


def test_forward_passes_side_by_side_divide_the_threads() -> None:
    before, seen = torch.get_num_threads(), []
    lanes, inside = Lanes(3), threading.Barrier(2)

    def compute() -> int:
        with lanes.one():
            inside.wait(10)  # both are in
            seen.append(torch.get_num_threads())
            inside.wait(10)
        return torch.get_num_threads()

    try:
        torch.set_num_threads(6)
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda _: compute(), range(2))) == [6, 6]
        assert sorted(seen) == [3, 6]  # the first was alone when it came
        with pytest.raises(KeyError), lanes.one():
            raise KeyError
        with lanes.one():
            assert torch.get_num_threads() == 6  # whatever was raised, its lane is free again
    finally:
        torch.set_num_threads(before)


def test_a_composition_is_the_weighted_sum_of_its_parts(embedder: Embedder) -> None:
    text, image = embedder.encode("a dog"), embedder.encode(picture(40, 90))
    expected = 2 * text - 0.5 * image
    composed = embedder.encode(Compose("a dog", picture(40, 90), weights=[2, -0.5]))
    assert cosine_distance(composed, expected / np.linalg.norm(expected)) < STABLE
    with pytest.raises(ValueError, match="cancel out"):
        embedder.encode(Compose("a dog", "a dog", weights=[1, -1]))


def test_truncated_vectors_have_length_one_again(embedder: Embedder) -> None:
    whole, part = embedder.encode("a dog"), embedder.encode("a dog", truncate_dim=16)
    np.testing.assert_allclose(part, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)


def test_tensors_on_request(embedder: Embedder) -> None:
    rows = embedder.encode(["a dog"], convert_to_tensor=True)
    assert isinstance(rows, torch.Tensor)
    np.testing.assert_array_equal(rows.numpy(), embedder.encode(["a dog"]))


def test_a_prompt_goes_in_front_of_texts_only(embedder: Embedder) -> None:
    np.testing.assert_array_equal(
        embedder.encode(["dog"], prompt="a photo of the ")[0], embedder.encode("a photo of the dog")
    )
    np.testing.assert_array_equal(embedder.encode(MIXED[3], prompt="a photo of "), embedder.encode(MIXED[3]))


def test_a_bad_input_is_named_or_collected(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    values = ["a dog", Image(tmp_path / "broken.png"), Compose("a cat", Audio(tmp_path / "missing.wav")), "a cat"]
    with pytest.raises(MediaError, match=r"input 1: .*broken\.png"):
        embedder.encode(values)
    result = embedder.encode_many(values)
    assert result.kept == [0, 3]
    assert [i for i, _ in result.failures] == [1, 2]
    np.testing.assert_allclose(result.vectors, embedder.encode(["a dog", "a cat"]), atol=1e-6)


@pytest.mark.parametrize("value", [3, None, b"bytes", [1.0, 2.0], Path("cat.jpg")])
def test_an_unknown_type_is_refused_with_the_way_out(value: Any, embedder: Embedder) -> None:
    with pytest.raises(TypeError, match=r"onepeace\.Image"):
        embedder.encode(value)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int4"},
        {"ranges": np.zeros((2, 48))},
        {"truncate_dim": 0},
        {"normalize_embeddings": False},
        {"batch_size": 0},
        {"device": "cuda"},
        {"device": ["cpu", "cpu"]},
    ],
)
def test_an_option_that_cannot_be_had_is_refused(options: dict[str, Any], embedder: Embedder) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        embedder.encode("a dog", **options)


def test_options_that_change_nothing_are_taken(embedder: Embedder) -> None:
    row = embedder.encode("a dog", device="cpu", prompt_name=None, normalize_embeddings=True, precision="float32")
    np.testing.assert_array_equal(row, embedder.encode("a dog", device=torch.device("cpu")))
    with pytest.raises(ValueError, match="no named prompts, got 'query': give the words as prompt="):
        embedder.encode("a dog", prompt_name="query")


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("normalise_embeddings", "did you mean normalize_embeddings"),
        ("dim", "did you mean truncate_dim|it has prompt_name"),
        ("show_progress", "did you mean show_progress_bar"),
        ("output_value", "encode_tokens"),
        ("xyz", "it has prompt_name, prompt, batch_size"),
    ],
)
def test_an_unknown_option_is_named_with_the_one_that_was_meant(option: str, told: str, embedder: Embedder) -> None:
    for call in (embedder.encode, embedder.encode_text, embedder.encode_query):
        with pytest.raises(TypeError, match=f"no option '{option}': .*({told})"):
            call("a dog", **{option: 1})


def test_the_options_of_sentence_transformers_are_ours_or_named(embedder: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    theirs = set(inspect.signature(SentenceTransformer.encode).parameters) - {"self", "inputs", "kwargs"}
    ours = set(inspect.signature(Embedder.encode).parameters)
    assert theirs - ours == set(ELSEWHERE)


def test_what_a_model_is_asked_for(embedder: Embedder) -> None:
    assert embedder.modalities == ("text", "image", "audio")
    assert embedder.supports("audio")
    assert embedder.supports(("image", "text"))
    assert not embedder.supports(("image", "video"))
    assert embedder.similarity_fn_name == "cosine"
    assert embedder.device == torch.device("cpu")
    assert embedder.max_seq_length == 32


def test_a_model_may_truncate_all_its_vectors(model_folder: Path) -> None:
    model = onepeace.load(model_folder, dtype="float32")
    expected = model.encode(["a dog"], truncate_dim=16)
    model.truncate_dim = 16
    np.testing.assert_array_equal(model.encode(["a dog"]), expected)
    assert (model.get_embedding_dimension(), model.get_sentence_embedding_dimension(), model.dimension) == (16, 16, 48)
    assert model.encode("a dog", truncate_dim=8).shape == (8,)
    with pytest.raises(ValueError, match="truncate_dim must be between 1 and 48, got 49"):
        model.truncate_dim = 49


def test_an_unknown_model_is_named_with_those_that_ship() -> None:
    with pytest.raises(onepeace.CheckpointError, match="no model 'nothing'"):
        onepeace.load("nothing")


def test_the_type_is_chosen_or_refused_with_the_names_of_the_others(model_folder: Path) -> None:
    vectors = {dtype: onepeace.load(model_folder, dtype=dtype).encode("a dog") for dtype in ("float32", torch.bfloat16)}
    assert 0 < cosine_distance(*vectors.values()) < 1e-3
    with pytest.raises(ValueError, match="auto, float32, bfloat16, int8, got 'float64'"):
        onepeace.load(model_folder, dtype="float64")
    with pytest.raises(ValueError, match="runs on a CPU only"):
        onepeace.load(model_folder, dtype="int8", device="meta")


def test_a_device_that_is_not_there_is_named(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda:1' needs a CUDA GPU"):
        onepeace.load(model_folder, device="cuda:1")
    with pytest.raises(ValueError, match="auto, cpu, cuda or cuda:N, got 'gpu'"):
        onepeace.load(model_folder, device="gpu")


def test_large_jpegs_are_decoded_small_and_their_vectors_stay(tmp_path: Path) -> None:
    model = onepeace.load(dtype="float32")
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).resize((1632, 1224), PIL.Image.Resampling.BICUBIC).save(tmp_path / "large.jpg")
    with PIL.Image.open(tmp_path / "large.jpg") as whole:
        assert 0 < cosine_distance(model.encode(Image(tmp_path / "large.jpg")), model.encode(whole.copy())) < 1e-3
