from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_model import MODEL

from encoders.audio import AudioConfig, LogMelConfig, WaveformConfig
from encoders.modality import Modality
from onepeace.manifest import Shards
from onepeace.model.config import ModelConfig
from onepeace.training.augment import AudioReader, AugmentConfig, MaskedSound, build_reader

MASKS = AugmentConfig(time_masks=2, time_mask_seconds=0.3, frequency_masks=3, frequency_mask_bins=12)


def reader(config: AudioConfig, augment: AugmentConfig = AugmentConfig()) -> AudioReader:  # noqa: B008 - frozen
    return AudioReader(config, augment)


def decibels(one: Tensor, other: Tensor) -> float:
    return float(20 * torch.log10(one.square().mean().sqrt() / other.square().mean().sqrt()))


def test_a_mix_is_the_sum_of_both_with_the_second_up_to_so_much_louder_or_quieter(rng: np.random.Generator) -> None:
    first, second = torch.randn(3200), 20.0 * torch.randn(1000)
    levels, starts = [], []
    for _ in range(50):
        mixed = reader(LogMelConfig()).mix(first, second, rng)
        rest = mixed - first
        start = int(rest.abs().gt(1e-6).nonzero()[0])
        part = rest[start : start + 1000]
        factor = float(part @ second / (second @ second))
        torch.testing.assert_close(part, factor * second, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed[:start], first[:start], rtol=0, atol=0)
        levels.append(decibels(part, first))
        starts.append(start)
    assert -5.1 < min(levels) < -3.0
    assert 3.0 < max(levels) < 5.1
    assert max(starts) - min(starts) > 1000


def test_a_mix_for_an_adapter_that_takes_normalised_sounds_is_normalised(rng: np.random.Generator) -> None:
    mixed = reader(WaveformConfig()).mix(torch.randn(800), torch.randn(1600), rng)
    assert mixed.shape == (1600,)
    assert float(mixed.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(mixed.var(correction=0)) == pytest.approx(1.0, abs=1e-3)


def test_silence_mixes_with_anything(rng: np.random.Generator) -> None:
    for pair in ((torch.zeros(500), torch.randn(300)), (torch.randn(300), torch.zeros(500))):
        mixed = reader(LogMelConfig()).mix(*pair, rng)
        assert mixed.isfinite().all()
        assert mixed.abs().max() > 0.0


def test_masks_are_as_long_and_wide_as_asked(rng: np.random.Generator) -> None:
    samples = torch.randn(64_000)  # 2 s
    drawn = [reader(LogMelConfig(), MASKS).masked(samples, rng) for _ in range(200)]
    assert all(isinstance(sound, MaskedSound) and sound.samples is samples for sound in drawn)
    for name, count, longest, places in (("times", 2, 9600, 64_000), ("bins", 3, 12, 128)):
        spans = torch.stack([getattr(sound, name) for sound in drawn])
        lengths = spans[..., 1] - spans[..., 0]
        assert spans.shape == (200, count, 2)
        assert 0.9 * longest < int(lengths.max()) <= longest
        assert int(lengths.min()) >= 0
        assert 0 <= int(spans.min()) <= int(spans.max()) <= places
        assert float(lengths.float().mean()) == pytest.approx(longest / 2, rel=0.15)


def test_time_masks_hide_at_most_half_of_a_short_sound(rng: np.random.Generator) -> None:
    for _ in range(50):
        spans = reader(LogMelConfig(), MASKS).masked(torch.randn(3200), rng).times  # type: ignore[union-attr]
        assert int((spans[:, 1] - spans[:, 0]).sum()) <= 1600


def test_an_adapter_that_looks_at_samples_hears_silence_and_has_no_bands(rng: np.random.Generator) -> None:
    config = dataclasses.replace(MASKS, frequency_masks=0)
    samples = torch.randn(16_000)
    masked = reader(WaveformConfig(), config).masked(samples, rng)
    silent = masked == 0.0  # type: ignore[operator]
    assert 0 < int(silent.sum()) <= 8000
    assert int((silent.int().diff() == 1).sum()) <= 2  # spans, not single samples
    torch.testing.assert_close(masked[~silent], samples[~silent], rtol=0, atol=0)  # type: ignore[index]
    with pytest.raises(ValueError, match=r"augment\.frequency_masks .*augment\.time_masks"):
        reader(WaveformConfig(), MASKS)


def test_masks_are_off_unless_asked_for(rng: np.random.Generator) -> None:
    samples, before = torch.randn(3200), rng.bit_generator.state
    assert reader(LogMelConfig()).masked(samples, rng) is samples
    assert rng.bit_generator.state == before


def test_masked_sounds_are_batched_with_their_spans(rng: np.random.Generator) -> None:
    read = reader(LogMelConfig(), MASKS)
    items = [read.masked(torch.randn(length), rng) for length in (3200, 6400)]
    samples_BN, lengths_B, times_BK2, bins_BK2 = read.collate(items)
    assert (samples_BN.shape, lengths_B.tolist()) == ((2, 6400), [3200, 6400])
    assert (times_BK2.shape, bins_BK2.shape) == ((2, 2, 2), (2, 3, 2))


def test_what_views_depend_on_grows_only_by_what_is_set_for_their_modality(small_pack: Path) -> None:
    # The key of views that were cached before masks existed.
    first = {"min_area": 0.45, "flip": 0.5, "colour": 0.3, "speed": 0.12, "min_length": 0.5, "noise": 0.6, "gain": 8.0}
    model = ModelConfig.from_dict(
        MODEL | {"adapters": MODEL["adapters"] | {"audio": {"kind": "log_mel_cnn", "width_multiplier": 0.1}}}
    )
    for modality in (Modality.IMAGE, Modality.AUDIO):
        assert build_reader(model, modality, AugmentConfig()).key() == first
    assert build_reader(model, Modality.IMAGE, MASKS).key() == first
    later = {"time_masks": 2, "time_mask_seconds": 0.3, "frequency_masks": 3, "frequency_mask_bins": 12}
    assert build_reader(model, Modality.AUDIO, MASKS).key() == first | later


def test_a_plain_item_is_never_masked(small_pack: Path) -> None:
    config = ModelConfig.from_dict(MODEL)
    masks = dataclasses.replace(MASKS, frequency_masks=0)
    data = Shards(small_pack).read("audio.tar/0.wav")
    plain, same = (build_reader(config, Modality.AUDIO, augment)(data) for augment in (AugmentConfig(), masks))
    torch.testing.assert_close(plain, same, rtol=0, atol=0)


def test_training_pictures_may_be_smaller_than_those_of_inference(small_pack: Path, rng: np.random.Generator) -> None:
    model = ModelConfig.from_dict(MODEL)
    config = model.adapters[Modality.IMAGE]
    small = dataclasses.replace(config, preprocess=dataclasses.replace(config.preprocess, size=48))
    data = Shards(small_pack).read("image.tar/0.png")
    own = build_reader(model, Modality.IMAGE, AugmentConfig())
    fixed = build_reader(model, Modality.IMAGE, AugmentConfig(size=48))
    assert (own(data).shape[-1], fixed(data).shape[-1], fixed(data, rng).shape[-1]) == (config.preprocess.size, 48, 48)
    torch.testing.assert_close(fixed(data), small.preprocessor(None)(data), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"augment\.size must be positive"):
        AugmentConfig(size=0)
