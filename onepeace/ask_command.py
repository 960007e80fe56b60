"""What `onepeace ask` does: files as one sequence, and its answers in lines or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encoders.media import Audio, Image
from encoders.pages import Pages, tiff_pages
from encoders.video import SUFFIXES, Video
from onepeace.classify import media_files
from onepeace.inputs import media_kind
from onepeace.sequences import Sequence as Album
from onepeace.sequences import SequenceAnswer, SequenceInput


def sequence_of(paths: Sequence[Path], fps: float | None) -> tuple[SequenceInput, list[str]]:
    """Return files as one sequence, and the name of each item where items are files.

    Raises:
        ValueError: no such file, or several where one of them is a sequence itself.

    >>> sequence_of([Path("dog.jpg"), Path("rain.ogg")], 1.0)
    (Sequence(2 items: Image('dog.jpg'), Audio('rain.ogg')), ['dog.jpg', 'rain.ogg'])
    """
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(f"no such file or folder: {missing[0]}")
    wholes = [path for path in paths if path.suffix.lower() in (*SUFFIXES, ".pdf") or tiff_pages(path) > 1]
    if wholes and len(paths) > 1:
        raise ValueError(f"{wholes[0]} is a sequence of its own: ask it alone, or give pictures and sounds only")
    if wholes:
        (path,) = wholes
        return (Video(path, fps=fps) if path.suffix.lower() in SUFFIXES else Pages(path)), []
    if len(paths) == 1 and media_kind(paths[0]) == "audio":
        return Audio(paths[0]), []
    files, failures = media_files(paths)
    if failures:
        raise ValueError(f"{failures[0][0]}: {failures[0][1]}")
    if not files:
        inside = asked_alone(paths)
        way = f"; a video or a document is asked alone: {inside[0]}" if inside else ""
        raise ValueError(f"no picture and no sound in {', '.join(map(str, paths))}{way}")
    wrap: Mapping[str, Any] = {"image": Image, "audio": Audio}
    return Album([wrap[str(media_kind(file))](file) for file in files]), [str(file) for file in files]


def asked_alone(paths: Sequence[Path]) -> list[Path]:
    """Return the videos and documents in folders, which are no items of an album.

    >>> asked_alone([Path("."), Path("dog.jpg")])
    []
    """
    return [file for path in paths for file in sorted(path.rglob("*")) if file.suffix.lower() in (*SUFFIXES, ".pdf")]


def as_lines(answer: SequenceAnswer, names: Sequence[str], top: int) -> list[str]:
    """Return the likeliest items of an answer, a line each, behind how many are counted; or that it is not there."""
    if answer.absent >= 0.5:
        return [f"{answer.absent:6.1%}  not there: the last one is {answer.segments[-1].place}"]
    lines = [] if answer.count is None else [f"about {answer.count} of {len(answer.segments)} items; the likeliest:"]
    for row in told(answer, names, top):
        lines.append(f"{row['probability']:6.1%}  {row['place']}" + (f"  {row['path']}" if "path" in row else ""))
    return lines


def told(answer: SequenceAnswer, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return the likeliest items of an answer, or of what it counts, as plain data, the likeliest first."""
    rows, likely = [], answer.weights if answer.counted is None else answer.counted
    for at in likely.argsort()[::-1][:top].tolist():
        segment = answer.segments[at]
        row = {"probability": round(float(likely[at]), 4), "place": segment.place, "item": segment.number}
        row |= {"path": names[at]} if names else {}
        row |= {key: value for key in ("start", "end", "page") if (value := getattr(segment, key)) is not None}
        rows.append(row)
    return rows
