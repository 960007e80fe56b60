"""Sounds -> windows of samples that an audio adapter takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from encoders.media import DEFAULT_LIMITS, Audio, Limits, audio_parts, open_audio

if TYPE_CHECKING:
    from encoders.media import AudioSource


@dataclass(frozen=True, kw_only=True)
class AudioPreprocess:
    """How a sound becomes windows of samples. The defaults are the official ones."""

    sample_rate: int = 16_000  # Hz
    max_seconds: float = 15.0  # of a window; a longer sound is cut into several
    min_seconds: float = 1.0  # of a window; a shorter sound is repeated
    layer_norm: bool = True  # whole sound to mean 0, variance 1; else the amplitudes stay
    pad_multiple_seconds: float = 0.0  # zeros at the end of each window, up to a multiple of this; 0: none
    max_windows: int | None = None  # the first so many are kept; None: all
    overlap: float = 0.0  # share of a window that the next one hears again

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.sample_rate < 1:
            raise ValueError(f"audio.sample_rate must be positive, got {self.sample_rate}")
        if not 1 / self.sample_rate <= self.min_seconds <= self.max_seconds:
            raise ValueError(
                "audio.min_seconds must lie between one sample and audio.max_seconds, "
                f"got {self.min_seconds} and {self.max_seconds}"
            )
        if self.pad_multiple_seconds and self.pad_multiple_seconds * self.sample_rate < 1:
            raise ValueError(f"audio.pad_multiple_seconds must be 0 or a sample long, got {self.pad_multiple_seconds}")
        if self.max_windows is not None and self.max_windows < 1:
            raise ValueError(f"audio.max_windows must be positive or none, got {self.max_windows}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"audio.overlap must be at least 0 and less than 1, got {self.overlap}")


@dataclass(frozen=True, eq=False)
class AudioWindow:
    """A stretch of a sound, ready for the model."""

    samples: Tensor  # (N,) float32
    start: float  # seconds from the beginning of the sound
    end: float  # seconds; what was repeated or padded does not count


class AudioPreprocessor:
    """Opens, normalises and cuts sounds. Holds no state: one may serve many threads."""

    def __init__(self, config: AudioPreprocess, limits: Limits = DEFAULT_LIMITS) -> None:
        self.config = config
        self.limits = limits
        self._longest = round(config.max_seconds * config.sample_rate)  # all three in samples
        self._shortest = round(config.min_seconds * config.sample_rate)
        self._hop = max(1, round(self._longest * (1 - config.overlap)))

    def __call__(self, source: AudioSource | Audio) -> list[AudioWindow]:
        """Return the windows of a sound, first to last; together they cover all of it, up to `max_windows`.

        The order is the official one: normalise the whole sound, cut it, repeat what is too short; so the first
        window equals the official input. Where less than `min_seconds` is left for the last window, it starts earlier
        and hears the end of the one before again.

        Raises:
            MediaError: the sound cannot be read.
        """
        rate = self.config.sample_rate
        samples = torch.from_numpy(open_audio(source, rate, self.limits, self._needed_seconds()))
        total = len(samples)
        if self.config.layer_norm:
            samples = F.layer_norm(samples, samples.shape)
        if total < self._shortest:
            return [self._repeated(samples)]
        windows = []
        for start in self._starts(total):
            end = min(start + self._longest, total)
            windows.append(AudioWindow(self._pad(samples[start:end]), start / rate, end / rate))
        return windows

    def stream(self, source: AudioSource | Audio) -> Iterator[AudioWindow]:
        """Yield the same windows as they are decoded, so that memory does not grow with the length of the sound.

        Where the whole sound is to be normalised, all of it is needed first.

        Raises:
            MediaError: the sound cannot be read.
        """
        if self.config.layer_norm:
            yield from self(source)
            return
        rate, most = self.config.sample_rate, self.config.max_windows
        kept, first, count = np.empty(0, np.float32), 0, 0  # samples, the number of the first, windows so far
        for part in audio_parts(source, rate, self.limits):
            kept = np.concatenate([kept, part])
            while first + len(kept) >= (start := count * self._hop) + self._longest:
                if count == most:
                    return
                yield self._window(kept, first, start, start + self._longest)
                count += 1
                behind = max(first, count * self._hop - self._shortest)  # as far back as the last window may start
                kept, first = kept[behind - first :], behind
        total = first + len(kept)
        if total < self._shortest:
            yield self._repeated(torch.from_numpy(kept))
            return
        for start in self._starts(total)[count:]:
            yield self._window(kept, first, start, total)

    def collate(self, items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the batch as (samples (B, N), zeros behind shorter ones; lengths (B,) int64)."""
        return pad_sequence(list(items), batch_first=True), torch.tensor([len(item) for item in items])

    def length(self, item: Tensor) -> int:
        """Return the number of samples: what a batch's cost grows with."""
        return len(item)

    def _repeated(self, samples: Tensor) -> AudioWindow:
        window = samples.repeat(ceil(self._shortest / len(samples)))[: self._shortest]
        return AudioWindow(self._pad(window), 0.0, len(samples) / self.config.sample_rate)

    def _window(self, kept: np.ndarray, first: int, start: int, end: int) -> AudioWindow:
        """Return samples `start` to `end` of a sound, of which those from `first` on are kept."""
        samples = torch.from_numpy(kept[start - first : end - first].copy())
        return AudioWindow(self._pad(samples), start / self.config.sample_rate, end / self.config.sample_rate)

    def _needed_seconds(self) -> float | None:
        if self.config.max_windows is None or self.config.layer_norm:  # the norm is that of the whole sound
            return None
        return ((self.config.max_windows - 1) * self._hop + self._longest) / self.config.sample_rate

    def _starts(self, total: int) -> list[int]:
        """Return where the windows of a sound of `total` samples start, in samples."""
        count = 1 + max(0, ceil((total - self._longest) / self._hop))
        starts = [min(index * self._hop, total - self._shortest) for index in range(count)]
        return starts[: self.config.max_windows]

    def _pad(self, window: Tensor) -> Tensor:
        if not self.config.pad_multiple_seconds:
            return window
        multiple = round(self.config.pad_multiple_seconds * self.config.sample_rate)
        return F.pad(window, (0, -len(window) % multiple))
