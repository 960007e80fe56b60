"""Readers: the bytes of one medium -> what its adapter takes, plain as at inference or altered at random for training.

Chance comes from a generator that the caller seeds for each item, so a view never depends on order or threads.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from torchvision.transforms.v2 import functional as F

from encoders.audio import AudioConfig
from encoders.image import ImageConfig, ImagePreprocessor
from encoders.media import open_audio, open_image
from encoders.modality import Modality
from onepeace.model.config import ModelConfig

MIN_ASPECT = 0.7  # of a random crop, against the picture's own
MOST_HIDDEN = 0.5  # share of a sound that time masks hide together
SILENCE = 1e-6  # loudness (root mean square, full scale 1) below which a sound has none to compare


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly training media are altered."""

    # Pixels a side of training pictures; None: the model's own. Random crops show things larger than they are at
    # inference, so a model does best at more pixels than it was trained at (Touvron et al., 2019, arXiv:1906.06423).
    size: int | None = None
    min_area: float = 0.45  # of the picture that a random crop keeps at least
    flip: float = 0.5  # share of pictures that are mirrored
    colour: float = 0.3  # brightness, contrast and saturation change by up to this factor
    speed: float = 0.12  # sounds are played up to so much faster or slower
    min_length: float = 0.5  # share of a sound that a random cut keeps at least; short sounds are shifted instead
    noise: float = 0.6  # share of sounds that get white noise, -80 to -40 dB of full scale
    gain: float = 8.0  # dB, up or down
    mix_level: float = 5.0  # dB; where sounds are mixed (streams.mix) the other is up to so much louder or quieter
    # SpecAugment: spans hidden from each sound, their lengths drawn from 0 to the longest. A log-mel adapter sees its
    # picture's mean there; one that looks at samples hears silence, and has no frequencies to hide.
    time_masks: int = 0  # spans of time; together they hide at most half of a sound
    time_mask_seconds: float = 0.5  # the longest
    frequency_masks: int = 0  # bands of the log-mel picture
    frequency_mask_bins: int = 16  # the widest, in mel bins of 128

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.size is not None and self.size < 1:
            raise ValueError(f"augment.size must be positive, got {self.size}")
        for name in ("min_area", "min_length"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"augment.{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("flip", "colour", "speed", "noise"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"augment.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("mix_level", "time_masks", "time_mask_seconds", "frequency_masks", "frequency_mask_bins"):
            if getattr(self, name) < 0:
                raise ValueError(f"augment.{name} must not be negative, got {getattr(self, name)}")


# What every cached view's key holds. Later fields count only where they are set and the reader uses them, so that a new
# one leaves the views good that were cached before it.
_FIRST_FIELDS = ("min_area", "flip", "colour", "speed", "min_length", "noise", "gain")


class Reader(ABC):
    """Turns the bytes of one medium into a tensor, and tensors into the batch that an adapter takes."""

    later_fields: ClassVar[tuple[str, ...]] = ()  # of AugmentConfig, that change what an altered item is

    def __init__(self, config: Any, augment: AugmentConfig) -> None:
        self.preprocessor: Any = config.preprocessor(None)
        self.augment = augment

    @abstractmethod
    def __call__(self, data: bytes, rng: np.random.Generator | None = None) -> Tensor:
        """Return one item: plain, or altered by chance where there is a generator. Raises MediaError."""

    def mix(self, first: Tensor, second: Tensor, rng: np.random.Generator) -> Tensor:
        """Return an item that shows both."""
        raise NotImplementedError

    def masked(self, item: Tensor, rng: np.random.Generator) -> Any:
        """Return an altered item with parts hidden: what `collate` takes, too."""
        return item

    def collate(self, items: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return a batch of items."""
        batch: tuple[Tensor, ...] = self.preprocessor.collate(items)
        return batch

    def key(self) -> dict[str, Any]:
        """Return what an altered item depends on, beside its bytes and the generator."""
        values, defaults = dataclasses.asdict(self.augment), AugmentConfig()
        later = (name for name in self.later_fields if values[name] != getattr(defaults, name))
        return {name: values[name] for name in (*_FIRST_FIELDS, *later)}


class ImageReader(Reader):
    """Pictures: random crop resized to a square, mirrored, colours changed."""

    def __init__(self, config: ImageConfig, augment: AugmentConfig) -> None:
        super().__init__(config, augment)
        if augment.size is not None:
            self.preprocessor = ImagePreprocessor(dataclasses.replace(config.preprocess, size=augment.size))

    def __call__(self, data: bytes, rng: np.random.Generator | None = None) -> Tensor:
        """Return normalised pixels (3, S, S)."""
        picture = open_image(data)
        pixels: Tensor = self.preprocessor(picture if rng is None else self._alter(picture, rng))
        return pixels

    def _alter(self, picture: PIL.Image.Image, rng: np.random.Generator) -> PIL.Image.Image:
        config, size = self.augment, self.preprocessor.config.size
        area = rng.uniform(config.min_area, 1.0)
        stretch = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)) / 2)
        if config.min_area == 1.0:  # nothing is cut off, so that places stay where they are
            area, stretch = 1.0, 1.0
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


class MaskedSound(NamedTuple):
    """Samples and what the adapter hides of their log-mel picture: spans, each its first place and the one behind."""

    samples: Tensor  # (N,)
    times: Tensor  # (K, 2) int64, in samples
    bins: Tensor  # (K, 2) int64, mel bins


class AudioReader(Reader):
    """Sounds: faster or slower, cut or shifted, louder or quieter, with noise; one window of the model's length."""

    later_fields = ("time_masks", "time_mask_seconds", "frequency_masks", "frequency_mask_bins")

    def __init__(self, config: AudioConfig, augment: AugmentConfig) -> None:
        super().__init__(config, augment)
        self.mel_bins = config.mel_bins
        if augment.frequency_masks and not self.mel_bins:
            raise ValueError(
                "augment.frequency_masks hide bands of a log-mel picture, but this model's audio adapter looks at "
                "samples: set it to 0 and use augment.time_masks"
            )

    def __call__(self, data: bytes, rng: np.random.Generator | None = None) -> Tensor:
        """Return the samples (N,) of the first window, or of a random one."""
        rate = self.preprocessor.config.sample_rate
        if rng is None:
            plain: Tensor = self.preprocessor(data)[0].samples
            return plain
        samples = self._alter(open_audio(data, rate), rate, rng)
        windows = self.preprocessor({"array": samples, "sampling_rate": rate})
        window: Tensor = windows[int(rng.integers(len(windows)))].samples
        return window

    def mix(self, first: Tensor, second: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the sum of two sounds at a random ratio of loudness; the shorter begins anywhere in the longer."""
        level = 10.0 ** (rng.uniform(-self.augment.mix_level, self.augment.mix_level) / 20.0)
        loudness = [float(sound.square().mean().sqrt()) for sound in (first, second)]
        if min(loudness) > SILENCE:
            level *= loudness[0] / loudness[1]
        length = max(len(first), len(second))
        starts = [int(rng.integers(length - len(sound) + 1)) for sound in (first, second)]
        mixed = torch.zeros(length)
        for sound, start, factor in zip((first, second), starts, (1.0, level), strict=True):
            mixed[start : start + len(sound)] += factor * sound
        return layer_norm(mixed, mixed.shape) if self.preprocessor.config.layer_norm else mixed

    def masked(self, item: Tensor, rng: np.random.Generator) -> Tensor | MaskedSound:
        """Return a sound with spans hidden: silent where the adapter looks at samples, else for it to hide."""
        config = self.augment
        if not config.time_masks + config.frequency_masks:
            return item
        longest = config.time_mask_seconds * self.preprocessor.config.sample_rate
        longest = min(longest, MOST_HIDDEN * len(item) / max(1, config.time_masks))
        times = _spans(config.time_masks, int(longest), len(item), rng)
        bins = _spans(config.frequency_masks, min(config.frequency_mask_bins, self.mel_bins), self.mel_bins, rng)
        if self.mel_bins:
            return MaskedSound(item, times, bins)
        silenced = item.clone()
        for start, end in times.tolist():
            silenced[start:end] = 0.0
        return silenced

    def collate(self, items: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return samples and lengths, and where sounds are masked the spans."""
        if not isinstance(items[0], MaskedSound):
            return super().collate(items)
        samples, times, bins = zip(*items, strict=True)
        return (*super().collate(samples), torch.stack(times), torch.stack(bins))

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


def _spans(count: int, longest: int, places: int, rng: np.random.Generator) -> Tensor:
    """Return random spans of 0 to `longest` places, (count, 2) int64."""
    lengths = rng.integers(longest + 1, size=count)
    starts = rng.integers(places - lengths + 1)
    return torch.from_numpy(np.stack([starts, starts + lengths], axis=1))


_READERS: dict[Modality, type[Reader]] = {Modality.IMAGE: ImageReader, Modality.AUDIO: AudioReader}


def build_reader(model: ModelConfig, modality: Modality, augment: AugmentConfig) -> Reader:
    """Return the reader of a modality's media for this model.

    Raises:
        ValueError: the model does not read the modality, or `augment` asks for what its adapter cannot do.
    """
    if modality not in model.adapters:
        raise ValueError(f"this model reads {', '.join(model.adapters)}, not {modality}")
    return _READERS[modality](model.adapters[modality], augment)


def collate_features(items: Sequence[Tensor]) -> tuple[Tensor | list[Tensor]]:
    """Return cached features as `from_features` takes them: one tensor where all have the same shape, else a list."""
    if len({item.shape for item in items}) == 1:
        return (torch.stack(list(items)),)
    return (list(items),)
