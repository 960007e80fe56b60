"""Pictures and sounds of a few kilobytes, each of its own seed, and a decoder like torchcodec's."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import soundfile


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).resize((60, 60)).save(out, "PNG")
    return out.getvalue()


def sound(seed: int) -> bytes:
    out = io.BytesIO()
    samples = np.sin(np.arange(16_000) * (0.01 + 0.04 * seed)) * 0.3
    soundfile.write(out, samples.astype(np.float32), 16_000, format="FLAC")
    return out.getvalue()


class Decoder:
    """What torchcodec's AudioDecoder has."""

    def __init__(self, data: Any, rate: int, seconds: float | None = None) -> None:
        self.samples = SimpleNamespace(data=data, sample_rate=rate)
        self.metadata = SimpleNamespace(duration_seconds=seconds)

    def get_all_samples(self) -> SimpleNamespace:
        return self.samples
