"""Videos: frames at even times or where the scene changes, upright and small, in bounded memory (PyAV)."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import PIL.Image

from .media import DEFAULT_LIMITS, Limits, _name, _opened, _Refusal, _telling

if TYPE_CHECKING:
    from .media import FileSource

# As for sounds: FFmpeg opens a file only under the name of one of these formats, never what it guesses. An AVI that was
# cut short cannot be told from a whole one.
_FORMATS = {
    re.compile(rb"....(?:ftyp|moov|mdat|wide|free|skip)", re.DOTALL): "mov",
    re.compile(rb"\x1aE\xdf\xa3"): "matroska",
}
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
SIDE = 512  # pixels of a frame's longer side; what the models read is smaller
SCENE_SIDE = 16  # pixels a side of what is compared to find a change of scene
SCENE_CHANGE = 0.12  # mean difference of those pixels, of full scale
MOST_KEPT = 16  # frames of a scene that wait to be the one in its middle
LOST = 0.5  # seconds of a stated length that may be missing at the end
MOMENT = 1e-6  # seconds

Shown = tuple[float, float, Any]  # from, until, and the decoder's frame


@dataclass(frozen=True, eq=False, repr=False)
class Video:
    """A video: a path, encoded bytes or a binary file: mp4, mov, mkv or webm.

    Frames are taken `fps` times a second; with `fps=None` where the scene changes. With `sound` its first sound track
    is heard too. Nothing is opened before it is embedded, and what cannot be read raises MediaError then.

    Raises:
        ValueError: `fps` is not positive.

    >>> Video("holiday.mp4", fps=0.5)
    Video('holiday.mp4', fps=0.5)
    """

    source: FileSource
    fps: float | None = 1.0
    sound: bool = True

    def __post_init__(self) -> None:
        """Refuse a rate that takes no frames."""
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps must be positive, or None for one frame a scene, got {self.fps}")

    def __repr__(self) -> str:
        """Name the source in a few words, never in full."""
        rate = "" if self.fps == 1.0 else f", fps={self.fps}"
        return f"Video({_name(self.source)}{rate}{'' if self.sound else ', sound=False'})"


@dataclass(frozen=True)
class Frame:
    """A picture of a video and the stretch that it stands for, in seconds from the beginning."""

    start: float
    end: float
    picture: PIL.Image.Image


def video_frames(video: Video, limits: Limits = DEFAULT_LIMITS, side: int = SIDE) -> Iterator[Frame]:
    """Yield the frames of a video in order, RGB and upright, `side` pixels on the longer side at most.

    The frame of a time is the one that a player shows then, whatever the distance between frames. One is decoded at a
    time, so memory does not grow with the length. A file without pictures yields nothing.

    Raises:
        MediaError: missing, damaged, cut short, empty, beyond the limits, or none of the formats.
    """
    name = _name(video.source)
    with _telling("video", name), _opened(video.source, limits) as file, closing(_shown(file, limits)) as shown:
        chosen = _at_changes(shown) if video.fps is None else _at_times(shown, video.fps)
        for start, end, frame in chosen:
            yield Frame(start, end, _picture(frame, side))


def frame_at(video: Video, seconds: float, limits: Limits = DEFAULT_LIMITS, side: int = SIDE) -> PIL.Image.Image:
    """Return the picture that a player shows at a time, of which `video_frames` would give the same.

    Only what lies behind the key frame before is decoded; a time behind the end gives the last picture.

    Raises:
        MediaError: missing, damaged, empty, beyond the limits, without pictures, or none of the formats.
    """
    name = _name(video.source)
    with _telling("video", name), _opened(video.source, limits) as file, _container(file) as container:
        if not container.streams.video:
            raise _Refusal("it holds no pictures", "leave it out")
        stream = container.streams.video[0]
        _check(stream, container, limits)
        stream.thread_type = "AUTO"
        held = next(container.decode(stream), None)
        if held is None:
            raise _Refusal("it holds no frame that can be decoded", "replace it")
        time = (held.time or 0.0) + seconds + MOMENT
        container.seek(int(time / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if (frame.time or 0.0) > time:
                break
            held = frame
        return _picture(held, side)


@dataclass(frozen=True)
class VideoInfo:
    """What a video's file says of itself."""

    seconds: float | None  # None where it does not say
    sound: bool  # whether there is any


def video_info(video: Video, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Return what the head of a video's file says.

    Raises:
        MediaError: missing, damaged, empty, or none of the formats.
    """
    name = _name(video.source)
    with _telling("video", name), _opened(video.source, limits) as file, _container(file) as container:
        seconds = None if container.duration is None else container.duration / 1_000_000
        return VideoInfo(seconds, bool(container.streams.audio))


def _format_of(file: BinaryIO) -> str:
    start = file.read(16)
    file.seek(0)
    found = next((name for pattern, name in _FORMATS.items() if pattern.match(start)), None)
    if found is None:
        raise _Refusal("it is no mp4, mov, mkv or webm", "convert it to one of them")
    return found


def _container(file: BinaryIO) -> Any:
    container_format = _format_of(file)
    try:
        import av
    except ImportError as error:
        raise _Refusal("videos need one more package", "pip install 'onepeace[sequences]'") from error
    return av.open(file, mode="r", format=container_format)


def _shown(file: BinaryIO, limits: Limits) -> Generator[Shown]:
    """Yield every frame with the time that it is shown, from the first one on."""
    with _container(file) as container:
        if not container.streams.video:
            return
        stream = container.streams.video[0]
        _check(stream, container, limits)
        stream.thread_type = "AUTO"
        usual = float(1 / (stream.average_rate or Fraction(25)))
        first, waiting = None, None
        for frame in container.decode(stream):
            time = frame.time if frame.time is not None else 0.0
            first = time if first is None else first
            time -= first
            if time > limits.max_seconds:
                raise _Refusal(_too_long(limits), "cut it or raise the limit")
            if waiting is not None and time > waiting[0]:
                yield waiting[0], time, waiting[1]
            waiting = (time, frame)
        if waiting is None:
            raise _Refusal("it holds no frame that can be decoded", "replace it")
        end = waiting[0] + float((waiting[1].duration or 0) * (waiting[1].time_base or 0) or usual)
        stated = _stated_seconds(stream, container)
        if stated is not None and end < stated - LOST - usual:
            raise _Refusal(f"it ends after {end:.1f} s and says that it lasts {stated:.1f} s", "replace it")
        yield waiting[0], end, waiting[1]


def _check(stream: Any, container: Any, limits: Limits) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.max_pixels:
        why = f"{width} x {height} is more than the limit of {limits.max_pixels:,} pixels"
        raise _Refusal(why, "shrink it or raise the limit")
    if (_stated_seconds(stream, container) or 0.0) > limits.max_seconds:
        raise _Refusal(_too_long(limits), "cut it or raise the limit")


def _too_long(limits: Limits) -> str:
    return f"it lasts longer than the limit of {limits.max_seconds:g} s"


def _stated_seconds(stream: Any, container: Any) -> float | None:
    """Return the length of the pictures as the file states it, if it does; a whole file may have a longer sound."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and not container.streams.audio:
        # Matroska counts from 0, wherever the first picture stands.
        return float((container.duration - (container.start_time or 0)) / 1_000_000)
    return None


def _picture(frame: Any, side: int) -> PIL.Image.Image:
    """Return a frame small, with square pixels, and turned as a player turns it."""
    aspect = frame.sample_aspect_ratio if hasattr(frame, "sample_aspect_ratio") else None
    width = frame.width * (float(aspect) if aspect else 1.0)
    scale = min(1.0, side / max(width, frame.height))
    size = max(1, round(width * scale)), max(1, round(frame.height * scale))
    picture = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="AREA").to_ndarray()
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return PIL.Image.fromarray(np.ascontiguousarray(np.rot90(picture, turns)))


def _at_times(shown: Iterator[Shown], fps: float) -> Iterator[Shown]:
    """Yield the frame of each time 0, 1 / fps, 2 / fps, ...; each stands until the next, the last until the end."""
    count, held = 0, None
    for _, end, frame in shown:
        while count / fps < end - MOMENT:
            if held is not None:
                yield held[0], count / fps, held[1]
            held = (count / fps, frame)
            count += 1
        last = end
    if held is not None:
        yield held[0], max(last, held[0] + MOMENT), held[1]


def _at_changes(shown: Iterator[Shown]) -> Iterator[Shown]:
    """Yield the frame in the middle of each scene, which ends where much of the picture changes at once."""
    began, before = 0.0, None
    some: list[tuple[float, Any]] = []
    every = 1  # of so many frames one is kept, so that a scene of any length holds few
    for number, (start, end, frame) in enumerate(shown):
        small = frame.reformat(SCENE_SIDE, SCENE_SIDE, "rgb24", interpolation="AREA").to_ndarray().astype(np.int16)
        if before is not None and np.abs(small - before).mean() > SCENE_CHANGE * 255:
            yield began, start, _nearest(some, (began + start) / 2)
            began, some, every = start, [], 1
        if number % every == 0 or not some:
            some.append((start, frame))
        if len(some) > MOST_KEPT:
            some, every = some[::2], every * 2
        before, last = small, end
    if some:
        yield began, last, _nearest(some, (began + last) / 2)


def _nearest(some: list[tuple[float, Any]], time: float) -> Any:
    return min(some, key=lambda kept: abs(kept[0] - time))[1]
