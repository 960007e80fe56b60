"""Our pixels and samples against the official ones, from the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from parity_figures import Figures

from encoders.audio import AudioPreprocess, AudioPreprocessor
from encoders.audio.adapter import frame_count
from encoders.image import ImagePreprocess, ImagePreprocessor
from encoders.media import Audio

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture
def official(figures: Callable[[str], Figures]) -> Figures:
    return figures("misc/preprocessing")


@pytest.mark.parametrize("number", [0, 1])
def test_a_picture_gives_the_official_pixels(goldens: Path, official: Figures, number: int) -> None:
    config = ImagePreprocess()
    pixels = ImagePreprocessor(config)(goldens / "misc" / f"image{number}.png")
    torch.testing.assert_close(pixels[:, ::16], official["hub_image_every_16th_row"][number], **TOLERANCE)
    unnormalised = pixels * torch.tensor(config.std)[:, None, None] + torch.tensor(config.mean)[:, None, None]
    assert torch.equal((unnormalised * 255).round().to(torch.uint8), official["hub_image_as_uint8"][number])


@pytest.mark.parametrize("name", ["short", "sr44", "sr8", "stereo"])
def test_a_sound_gives_the_official_samples(goldens: Path, official: Figures, name: str) -> None:
    preprocess = AudioPreprocessor(AudioPreprocess())
    (window,) = preprocess(goldens / "misc" / f"audio_{name}.wav")
    samples, lengths = preprocess.collate([window.samples])
    torch.testing.assert_close(window.samples, official[f"audio.{name}.wav"], **TOLERANCE)
    assert samples.shape == tuple(official[f"audio.{name}.shape"])
    assert frame_count(lengths).tolist() == [(~official[f"audio.{name}.pad"]).sum() - 1]  # less the class token


def test_a_long_sound_gives_windows_of_the_official_length(official: Figures) -> None:
    # The reference keeps every hundredth sample, and not the sound they come from: only lengths can be compared.
    rng = np.random.default_rng(0)
    preprocess = AudioPreprocessor(AudioPreprocess())
    first, second = preprocess(Audio(rng.normal(size=20 * 16_000), 16_000))
    samples, lengths = preprocess.collate([first.samples])
    assert samples.shape == tuple(official["audio.long.shape"])
    assert samples[0, ::100].shape == official["audio.long.wav"].shape
    assert frame_count(lengths).tolist() == [len(official["audio.long.pad"]) - 1]
    assert (second.start, second.end) == (15.0, 20.0)


def test_a_batch_is_padded_as_the_official_one(goldens: Path, official: Figures) -> None:
    preprocess = AudioPreprocessor(AudioPreprocess())
    windows = [preprocess(goldens / "misc" / f"audio_{name}.wav")[0] for name in ("short", "stereo")]
    samples, lengths = preprocess.collate([window.samples for window in windows])
    assert samples.shape == tuple(official["audio.batch.shape"])
    assert not samples[0, lengths[0] :].any()
    assert frame_count(lengths).tolist() == ((~official["audio.batch.pad"]).sum(dim=1) - 1).tolist()


@pytest.mark.filterwarnings("ignore:.*slated for removal:DeprecationWarning")  # librosa's imports
def test_the_whole_sound_is_normalised_before_it_is_cut(tmp_path: Path) -> None:
    import soundfile

    loud_then_quiet = np.random.default_rng(0).normal(size=(22_050 * 20,)) * np.linspace(0.3, 0.001, 22_050 * 20)
    soundfile.write(tmp_path / "long.wav", loud_then_quiet, 22_050)
    samples, _ = librosa.load(tmp_path / "long.wav", sr=16_000, mono=True)
    expected = (samples - samples.mean()) / np.sqrt(samples.astype(np.float64).var() + 1e-5)
    first = AudioPreprocessor(AudioPreprocess())(tmp_path / "long.wav")[0]
    np.testing.assert_allclose(first.samples.numpy(), expected[: 15 * 16_000], atol=1e-4)
