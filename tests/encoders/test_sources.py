"""Sources with a shape or a state of their own: decoders, matrices of samples, one file given to several threads."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch
from little_media import Decoder

from encoders.media import Audio, Image, Limits, MediaError, image_size, open_audio, open_image

NOISE = (np.random.default_rng(1).normal(size=(2, 8_000)) * 0.1).astype(np.float32)


def test_a_decoder_is_read_as_its_samples() -> None:
    expected = open_audio(Audio(NOISE, 22_050), 16_000)
    np.testing.assert_array_equal(open_audio(Audio(Decoder(torch.from_numpy(NOISE), 22_050)), 16_000), expected)
    short = torch.from_numpy(NOISE[:, :1])  # one sample of two channels: a decoder says which is which
    assert open_audio(Audio(Decoder(short, 16_000)), 16_000) == pytest.approx(NOISE[:, 0].mean())


def test_a_decoder_that_cannot_be_read_is_refused() -> None:
    data = torch.from_numpy(NOISE)
    for audio, message in (
        (Audio(Decoder(data, 16_000), 8_000), "leave sampling_rate out"),
        (Audio(Decoder(data[0], 16_000)), r"shape \(C, N\)"),
        (Audio(Decoder(data, 16_000, seconds=61.0)), "limit of 60 s"),
    ):
        with pytest.raises(MediaError, match=message):
            open_audio(audio, 16_000, Limits(max_seconds=60))


def test_torchcodecs_own_decoder_gives_the_sound_of_its_file() -> None:
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:  # it is there and finds no FFmpeg: RuntimeError
        pytest.skip(f"torchcodec cannot be loaded: {str(error).splitlines()[0]}")
    file = BytesIO()
    soundfile.write(file, NOISE.T, 16_000, format="FLAC", subtype="PCM_24")
    decoded = open_audio(Audio(AudioDecoder(file.getvalue())), 16_000)
    np.testing.assert_allclose(decoded, open_audio(Audio(file.getvalue()), 16_000), atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_shorter_side_of_samples_is_their_channels(kind: Any) -> None:
    expected = open_audio(Audio(NOISE.mean(0), 16_000), 16_000)
    for samples in (NOISE, np.ascontiguousarray(NOISE.T)):
        np.testing.assert_allclose(open_audio(Audio(kind(samples), 16_000), 16_000), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 2), "a square of samples"), ((65, 900), "no sound of 64 channels"), ((2, 3, 4), "one or two dimensions")],
)
def test_samples_of_no_clear_shape_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        open_audio(Audio(np.zeros(shape, np.float32), 16_000), 16_000)


def test_one_source_may_be_opened_by_many_threads() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    encoded = BytesIO()
    PIL.Image.fromarray(picture).save(encoded, "PNG")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for source in (encoded, PIL.Image.open(BytesIO(encoded.getvalue()))):
                for found in pool.map(open_image, [Image(source)] * 12):
                    np.testing.assert_array_equal(np.asarray(found), picture)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_of_a_picture_is_that_of_the_opened_one(suffix: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    PIL.Image.new("RGB", (30, 20)).save(file, suffix, **({} if suffix in ("BMP", "GIF") else {"exif": exif}))
    assert image_size(file.getvalue()) == open_image(file.getvalue()).size


def test_the_size_of_what_is_no_picture_is_refused() -> None:
    assert image_size(Image(np.zeros((4, 6), np.uint8))) == (6, 4)
    for source, message in ((b"nothing", "no JPEG"), ("missing.png", "No such file")):
        with pytest.raises(MediaError, match=message):
            image_size(source)
