"""From a sound to windows of samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import media
from encoders.audio import AudioPreprocess, AudioPreprocessor, AudioWindow
from encoders.media import Audio, Limits, MediaError

RATE = 1_000  # Hz: keeps the tests small


def windows_of(count: int, **config: Any) -> list[AudioWindow]:
    """The windows of a sound whose samples count up: 0, 1, 2, ... thousandths."""
    preprocess = AudioPreprocessor(AudioPreprocess(sample_rate=RATE, layer_norm=False, **config))
    return preprocess(Audio(np.arange(count) / 1_000, RATE))


def numbers(window: AudioWindow) -> list[int]:
    return (window.samples * 1_000).round().int().tolist()


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 5_000),
    longest=st.integers(2, 900),
    shortest_share=st.floats(0.01, 1),
    overlap=st.floats(0, 0.9),
)
def test_windows_cover_the_sound_in_order(count: int, longest: int, shortest_share: float, overlap: float) -> None:
    shortest = max(1, int(longest * shortest_share))
    windows = windows_of(count, max_seconds=longest / RATE, min_seconds=shortest / RATE, overlap=overlap)
    spans = [(round(window.start * RATE), round(window.end * RATE)) for window in windows]
    assert set().union(*(range(*span) for span in spans)) == set(range(count))
    assert spans == sorted(set(spans))
    if count >= shortest:
        assert [numbers(window) for window in windows] == [list(range(*span)) for span in spans]
        assert all(shortest <= len(window.samples) <= longest for window in windows)
    else:
        assert numbers(windows[0]) == [sample % count for sample in range(shortest)]


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 5_000),
    block=st.sampled_from([7, 100, 10_000]),
    rate=st.sampled_from([RATE, 1_600, 441]),
    longest=st.integers(10, 900),
    overlap=st.sampled_from([0.0, 0.5, 0.8]),
    most=st.sampled_from([None, 2]),
)
def test_windows_that_are_streamed_are_the_same(
    count: int, block: int, rate: int, longest: int, overlap: float, most: int | None
) -> None:
    config = AudioPreprocess(
        sample_rate=RATE,
        layer_norm=False,
        max_seconds=longest / RATE,
        min_seconds=longest / RATE / 3,
        overlap=overlap,
        max_windows=most,
    )
    preprocess = AudioPreprocessor(config)
    noise = Audio(np.random.default_rng(count).normal(size=count) / 10, rate)
    whole = preprocess(noise)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(media, "_BLOCK_SAMPLES", block)
        streamed = list(preprocess.stream(noise))
    assert [(one.start, one.end) for one in streamed] == [(one.start, one.end) for one in whole]
    for one, other in zip(streamed, whole, strict=True):
        torch.testing.assert_close(one.samples, other.samples, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "spans"),
    [
        (10, [(0, 10)]),  # repeated, but only this much was heard
        (1_000, [(0, 1_000)]),
        (2_000, [(0, 2_000)]),
        (2_001, [(0, 2_000), (1_001, 2_001)]),  # the rest is too short: its window starts earlier
        (3_000, [(0, 2_000), (2_000, 3_000)]),
        (4_500, [(0, 2_000), (2_000, 4_000), (3_500, 4_500)]),
    ],
)
def test_windows_lie_where_expected(count: int, spans: list[tuple[int, int]]) -> None:
    windows = windows_of(count, max_seconds=2.0, min_seconds=1.0)
    assert [(round(window.start * RATE), round(window.end * RATE)) for window in windows] == spans


def test_a_window_hears_the_overlap_again() -> None:
    windows = windows_of(5_000, max_seconds=2.0, overlap=0.25)
    assert [(window.start, window.end) for window in windows] == [(0.0, 2.0), (1.5, 3.5), (3.0, 5.0)]


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("count", [10, 900, 2_000, 2_100, 4_400, 9_990])
def test_fewer_windows_are_the_first_of_all_windows(count: int, layer_norm: bool) -> None:
    sound = Audio(np.random.default_rng(0).normal(size=count), RATE)
    config = {"sample_rate": 2 * RATE, "max_seconds": 2.0, "overlap": 0.1, "layer_norm": layer_norm}
    whole = AudioPreprocessor(AudioPreprocess(**config))(sound)
    first = AudioPreprocessor(AudioPreprocess(**config, max_windows=2))(sound)
    assert len(first) == min(2, len(whole))
    for ours, expected in zip(first, whole, strict=False):
        assert torch.equal(ours.samples, expected.samples)
        assert (ours.start, ours.end) == (expected.start, expected.end)


@pytest.mark.parametrize("count", [5, 250, 251, 1_999, 4_100])
def test_padding_is_behind_the_sound_and_does_not_move_its_end(count: int) -> None:
    options = {"max_seconds": 2.0, "min_seconds": 0.01}
    for padded, plain in zip(
        windows_of(count, **options, pad_multiple_seconds=0.25), windows_of(count, **options), strict=True
    ):
        assert len(padded.samples) % 250 == 0
        assert len(padded.samples) - len(plain.samples) < 250
        assert torch.equal(padded.samples[: len(plain.samples)], plain.samples)
        assert not padded.samples[len(plain.samples) :].any()
        assert (padded.start, padded.end) == (plain.start, plain.end)


@pytest.mark.parametrize(
    "samples", [np.zeros(9), np.zeros(40_000), np.full(40_000, 0.7), np.array([1.0]), np.array([1e9, -1e9])]
)
def test_a_sound_without_shape_gives_finite_samples(samples: np.ndarray) -> None:
    windows = AudioPreprocessor(AudioPreprocess())(Audio(samples, 16_000))
    assert all(torch.isfinite(window.samples).all() for window in windows)


def test_twenty_minutes_are_normalised_as_in_double_precision() -> None:
    samples = (0.3 + 1e-3 * np.random.default_rng(0).normal(size=1_200 * RATE)).astype(np.float32)
    windows = AudioPreprocessor(AudioPreprocess(sample_rate=RATE))(Audio(samples, RATE))
    exact = (samples.astype(np.float64) - samples.mean(dtype=np.float64)) / np.sqrt(
        samples.var(dtype=np.float64) + 1e-5
    )
    assert len(windows) == 80
    np.testing.assert_allclose(torch.cat([window.samples for window in windows]).numpy(), exact, atol=1e-4)


def test_a_batch_pads_with_zeros_and_keeps_the_lengths() -> None:
    preprocess = AudioPreprocessor(AudioPreprocess())
    samples, lengths = preprocess.collate([torch.ones(3), torch.ones(5)])
    assert samples.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert lengths.dtype == torch.int64
    assert lengths.tolist() == [3, 5] == [preprocess.length(torch.ones(3)), preprocess.length(torch.ones(5))]


def test_what_cannot_be_read_is_a_media_error() -> None:
    preprocess = AudioPreprocessor(AudioPreprocess(), limits=Limits(max_seconds=1.0))
    for source, message in (
        (b"noise", "none of wav, flac"),
        (Audio(np.zeros(17_000), 16_000), "longer than the limit of 1 s"),
    ):
        with pytest.raises(MediaError, match=message):
            preprocess(source)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"sample_rate": 0},
        {"max_seconds": 0.5},
        {"min_seconds": 0.0},
        {"min_seconds": 1e-6},
        {"pad_multiple_seconds": -1.0},
        {"pad_multiple_seconds": 1e-6},
        {"max_windows": 0},
        {"overlap": 1.0},
        {"overlap": -0.1},
    ],
)
def test_a_config_that_cannot_work_is_refused_by_name(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"audio.*{next(iter(nonsense))}"):
        AudioPreprocess(**nonsense)
