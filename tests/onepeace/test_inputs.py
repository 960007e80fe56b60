"""Whatever a user hands in: one input, several, or an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import PIL.Image
import pytest
import soundfile
import torch
from little_media import Decoder

from onepeace import Audio, Compose, Embedder, Image, Text
from onepeace.inputs import listed, parts_of, wrapped

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
SAMPLES = (np.random.default_rng(1).normal(size=16_000) * 0.1).astype(np.float32)


def png() -> bytes:
    file = BytesIO()
    PIL.Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


def wav() -> bytes:
    file = BytesIO()
    soundfile.write(file, SAMPLES, 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def generated() -> Iterator[str]:
    yield from ("a dog", "rain")


@pytest.mark.parametrize(
    "texts",
    [
        ["a dog", "rain"],
        ("a dog", "rain"),
        generated(),
        np.array(["a dog", "rain"]),
        np.array(["a dog", "rain"], dtype=object),
        pandas.Series(["a dog", "rain"], index=[7, 3]),
        datasets.Dataset.from_dict({"caption": ["a dog", "rain"]})["caption"],
        {"a dog": 1, "rain": 2}.keys(),
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_several_texts_come_in_many_forms(texts: Any) -> None:
    assert listed(texts) == (["a dog", "rain"], False)


@pytest.mark.parametrize(
    "one", ["a dog", Text("a"), Image("a"), Compose("a", "b"), {"array": SAMPLES, "sampling_rate": 16_000}, b"x", 3]
)
def test_one_input_is_one(one: Any) -> None:
    assert listed(one) == ([one], True)


def test_pictures_of_every_form_have_one_vector(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png())
    objects = np.empty(2, dtype=object)
    objects[:] = [png(), PIXELS]
    column = datasets.Dataset.from_dict({"image": [png()] * 2}, features=datasets.Features(image=datasets.Image()))
    undecoded = column.cast_column("image", datasets.Image(decode=False))
    expected = embedder.encode(Image(PIXELS))
    with (tmp_path / "p.png").open("rb") as file:
        for images in (
            [str(tmp_path / "p.png"), tmp_path / "p.png", png(), bytearray(png()), memoryview(png())],
            [file, BytesIO(png()), PIL.Image.fromarray(PIXELS), PIXELS, PIXELS / 255],
            [torch.from_numpy(PIXELS), torch.from_numpy(PIXELS).permute(2, 0, 1) / 255, Image(PIXELS)],
            objects,
            pandas.Series([png(), png()]),
            column["image"],
            undecoded["image"],
        ):
            rows = embedder.encode_images(images)
            np.testing.assert_allclose(rows, np.tile(expected, (len(images), 1)), atol=1e-5)
        np.testing.assert_allclose(embedder.encode_images(file), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.encode(column["image"])[1], expected, atol=1e-5)  # PIL images
    np.testing.assert_allclose(embedder.encode_images(iter([png()]))[0], expected, atol=1e-5)


def test_sounds_of_every_form_have_one_vector(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "s.wav").write_bytes(wav())
    dataset = datasets.Dataset.from_dict({"audio": [{"bytes": wav(), "path": None}] * 2})
    undecoded = dataset.cast_column("audio", datasets.Audio(decode=False))
    expected = embedder.encode(Audio(SAMPLES, 16_000))
    for sounds in (
        [str(tmp_path / "s.wav"), tmp_path / "s.wav", wav(), BytesIO(wav()), Audio(wav())],
        [{"array": SAMPLES, "sampling_rate": 16_000}, {"array": torch.from_numpy(SAMPLES), "sampling_rate": 16_000}],
        [{"array": np.stack([SAMPLES] * 2), "sampling_rate": 16_000}, {"bytes": None, "path": str(tmp_path / "s.wav")}],
        undecoded["audio"],
    ):
        np.testing.assert_allclose(
            embedder.encode_audio(sounds), np.tile(expected, (len(sounds), 1)), atol=1e-5, err_msg=repr(sounds)
        )


def test_a_decoder_needs_no_wrapper() -> None:
    (part,) = parts_of(Decoder(torch.zeros(1, 8), 16_000))
    assert part.modality == "audio"
    assert listed(Decoder(None, 1))[1]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"x", "bytes could be anything: wrap them as onepeace.Image"),
        (memoryview(b"x"), "memoryview could be anything"),
        (Path("dog.jpg"), r"a path could lead to anything: wrap it as onepeace.Image.*read_text\(\)"),
        (BytesIO(b"x"), "an open file could hold anything"),
        ({"bytes": b"x", "path": None}, "a picture or a sound"),
        ({"image": b"x", "label": 3}, "a dict of image, label is no input"),
        (np.zeros((4, 5, 3)), r"an array of shape \(4, 5, 3\) could be a picture, samples or vectors"),
        (torch.zeros(512), r"an array of shape \(512,\)"),
        ([1.0, 2.0], "input 0: cannot embed float"),
        (["a", None], "input 1: cannot embed NoneType"),
        ({"a", "b"}, "a set has no order"),
        (pandas.DataFrame({"caption": ["a"]}), r"a DataFrame is a table: give one column, such as table\['caption'\]"),
        (datasets.Dataset.from_dict({"caption": ["a"]}), r"a Dataset is a table.*table\['caption'\]"),
    ],
)
def test_what_could_be_anything_is_refused_with_the_way_out(value: Any, told: str, embedder: Embedder) -> None:
    with pytest.raises(TypeError, match=told):
        embedder.encode(value)


def test_a_wrapper_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match=r"input 1 is Audio\('a.wav'\), wanted Image: `encode` takes mixed inputs"):
        wrapped(Image, ["a.jpg", Audio("a.wav")])
