"""What drawings of answers and explanations share: fonts, colours, waveforms, spectrograms, rulers of seconds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

Colour = tuple[int, int, int]

INK, PAPER, LINE = (30, 30, 30), (255, 255, 255), (90, 90, 90)
SHOWN = 512  # pixels of a picture's longer side, at least
WIDTH, WAVE, CAPTION = 900, 90, 30  # pixels of a sound's drawing
LOUDNESS = 80.0  # dB below the loudest that a spectrogram shows
HIGHEST = 8_000.0  # Hz that a spectrogram shows
WINDOW = 1024  # samples of a spectrum
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)  # seconds between the marks of a ruler


def font(size: int = 16) -> Any:
    """Return PIL's own font, so many pixels high."""
    return PIL.ImageFont.load_default(size)


def enlarged(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return a picture large enough to be looked at, and to be written on."""
    scale = max(1.0, SHOWN / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, PIL.Image.Resampling.BICUBIC)


def waveform(pen: PIL.ImageDraw.ImageDraw, samples: NDArray[np.float32], top: int) -> None:
    """Draw samples over the whole width, from `top` on, the loudest as high as there is room."""
    edges = np.linspace(0, len(samples), WIDTH + 1).astype(int)
    loudest = float(np.abs(samples).max()) or 1.0
    middle = top + WAVE // 2
    for place, (start, end) in enumerate(pairwise(edges)):
        part = samples[start : max(end, start + 1)] / loudest * (WAVE // 2 - 3)
        if len(part):
            pen.line((place, middle - round(float(part.max())), place, middle - round(float(part.min()))), LINE)


def ruler(pen: PIL.ImageDraw.ImageDraw, seconds: float, top: int) -> None:
    """Draw marks over the whole width, of up to twelve equal stretches of time."""
    step = next((step for step in STEPS if seconds / step <= 12), STEPS[-1])
    for number in range(int(seconds / step) + 1):
        place = round(number * step / seconds * WIDTH)
        pen.line((place, top, place, top + 5), LINE)
        anchor = "ra" if place > WIDTH - 20 else "la" if place < 20 else "ma"
        pen.text((place, top + 7), f"{number * step:g} s", LINE, font(13), anchor=anchor)


def spectrogram(samples: NDArray[np.float32], rate: int) -> NDArray[np.uint8]:
    """Return power in dB, the loudest dark, as grey values (frequencies from high to low, times)."""
    count = min(WIDTH, max(1, len(samples) // 64))
    padded = np.pad(samples, WINDOW // 2)
    starts = np.linspace(0, max(0, len(samples) - 1), count).astype(int)
    frames = np.stack([padded[start : start + WINDOW] for start in starts]) * np.hanning(WINDOW)
    power_TF = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    shown = power_TF[:, : max(2, round(HIGHEST / rate * WINDOW))]
    decibels = 10 * np.log10(np.maximum(shown, 1e-12) / max(float(shown.max()), 1e-12))
    grey: NDArray[np.uint8] = (255 * np.clip(-decibels / LOUDNESS, 0, 1)).astype(np.uint8).T[::-1]
    return np.ascontiguousarray(grey)
