"""Readers: the bytes of one medium -> what its adapter takes, plain as at inference or altered at random for training.

Chance comes from a generator that the caller seeds for each item, so a view never depends on order or threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from encoders.audio import AudioPreprocessor
from encoders.image import ImagePreprocessor
from encoders.media import open_audio, open_image
from encoders.tokens import Modality
from onepeace.model.config import ModelConfig

MIN_ASPECT = 0.7  # of a random crop, against the picture's own


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly training media are altered."""

    min_area: float = 0.45  # of the picture that a random crop keeps at least
    flip: float = 0.5  # share of pictures that are mirrored
    colour: float = 0.3  # brightness, contrast and saturation change by up to this factor
    speed: float = 0.12  # sounds are played up to so much faster or slower
    min_length: float = 0.5  # share of a sound that a random cut keeps at least; short sounds are shifted instead
    noise: float = 0.6  # share of sounds that get white noise, -80 to -40 dB of full scale
    gain: float = 8.0  # dB, up or down

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("min_area", "min_length"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"augment.{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("flip", "colour", "speed", "noise"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"augment.{name} must be in [0, 1], got {getattr(self, name)}")


class Reader(Protocol):
    """Turns the bytes of one medium into a tensor, and tensors into the batch that an adapter takes."""

    preprocessor: Any

    def __call__(self, data: bytes, rng: np.random.Generator | None = None) -> Tensor:
        """Return one item: plain, or altered by chance where there is a generator. Raises MediaError."""

    def collate(self, items: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return a batch of items."""


class ImageReader:
    """Pictures: random crop resized to the model's square, mirrored, colours changed."""

    def __init__(self, preprocessor: ImagePreprocessor, augment: AugmentConfig) -> None:
        self.preprocessor = preprocessor
        self.augment = augment
        self.collate = preprocessor.collate

    def __call__(self, data: bytes, rng: np.random.Generator | None = None) -> Tensor:
        """Return normalised pixels (3, S, S)."""
        picture = open_image(data)
        return self.preprocessor(picture if rng is None else self._alter(picture, rng))

    def _alter(self, picture: PIL.Image.Image, rng: np.random.Generator) -> PIL.Image.Image:
        config, size = self.augment, self.preprocessor.config.size
        area = rng.uniform(config.min_area, 1.0)
        stretch = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)) / 2)
        width = max(1, round(picture.width * min(1.0, math.sqrt(area) * stretch)))
        height = max(1, round(picture.height * min(1.0, math.sqrt(area) / stretch)))
        left = int(rng.integers(picture.width - width + 1))
        top = int(rng.integers(picture.height - height + 1))
        picture = picture.resize((size, size), PIL.Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        if rng.random() < config.flip:
            picture = F.horizontal_flip(picture)
        for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
            picture = adjust(picture, float(rng.uniform(1.0 - config.colour, 1.0 + config.colour)))
        return picture


class AudioReader:
    """Sounds: faster or slower, cut or shifted, louder or quieter, with noise; one window of the model's length."""

    def __init__(self, preprocessor: AudioPreprocessor, augment: AugmentConfig) -> None:
        self.preprocessor = preprocessor
        self.augment = augment
        self.collate = preprocessor.collate

    def __call__(self, data: bytes, rng: np.random.Generator | None = None) -> Tensor:
        """Return the samples (N,) of the first window, or of a random one."""
        rate = self.preprocessor.config.sample_rate
        if rng is None:
            return self.preprocessor(data)[0].samples
        samples = self._alter(open_audio(data, rate), rate, rng)
        windows = self.preprocessor({"array": samples, "sampling_rate": rate})
        return windows[int(rng.integers(len(windows)))].samples

    def _alter(self, samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        import soxr

        config = self.augment
        speed = rng.uniform(1.0 - config.speed, 1.0 + config.speed)
        samples = soxr.resample(samples, rate, rate / speed)
        if len(samples) > 2 * rate:
            length = int(len(samples) * rng.uniform(config.min_length, 1.0))
            start = int(rng.integers(len(samples) - length + 1))
            samples = samples[start : start + length]
        else:
            samples = np.pad(samples, tuple(rng.integers(rate // 8, size=2)))
        if rng.random() < config.noise:
            noise = rng.standard_normal(len(samples), dtype=np.float32)
            samples = samples + noise * 10.0 ** rng.uniform(-4.0, -2.0)
        samples = samples * 10.0 ** (rng.uniform(-config.gain, config.gain) / 20.0)
        return samples.astype(np.float32)


_READERS = {Modality.IMAGE: ImageReader, Modality.AUDIO: AudioReader}


def build_reader(model: ModelConfig, modality: Modality, augment: AugmentConfig) -> Reader:
    """Return the reader of a modality's media for this model.

    Raises:
        ValueError: the model does not read the modality.
    """
    if modality not in model.adapters:
        raise ValueError(f"this model reads {', '.join(model.adapters)}, not {modality}")
    reader: Reader = _READERS[modality](model.adapters[modality].preprocessor(None), augment)
    return reader


def collate_features(items: Sequence[Tensor]) -> tuple[Tensor | list[Tensor]]:
    """Return cached features as `from_features` takes them: one tensor where all have the same shape, else a list."""
    if len({item.shape for item in items}) == 1:
        return (torch.stack(list(items)),)
    return (list(items),)
