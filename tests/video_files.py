"""Little videos, written with PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image


def solid(colour: tuple[int, int, int], width: int = 96, height: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def write_video(path: Path, frames: Iterable[np.ndarray], times: Iterable[float], codec: str = "libx264") -> Path:
    frames = list(frames)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        samples = np.sin(np.arange(32_000) / 8).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_shots(
    path: Path, shots: Iterable[tuple[PIL.Image.Image, float]], sound: np.ndarray | None = None, rate: int = 4
) -> Path:
    """Write pictures, each for so many seconds, with a sound track of 16 kHz if there is one."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width = video.height = 256
        video.pix_fmt = "yuv420p"
        audio = None if sound is None else container.add_stream("aac", rate=16_000, layout="mono")
        for picture, seconds in shots:
            small = picture.convert("RGB").resize((256, 256))
            for _ in range(round(seconds * rate)):
                container.mux(video.encode(av.VideoFrame.from_image(small)))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path
