"""Boxes over a picture, and spans under a sound. Colours can be told apart by whoever sees no red or no green."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from encoders.media import MediaError, open_audio, open_image
from onepeace.drawing import CAPTION, INK, LINE, PAPER, WAVE, WIDTH, Colour, enlarged, font, ruler, waveform
from onepeace.predict.answers import Box, Span

# Okabe and Ito's colours that stand out of most pictures, in the order they are used.
COLOURS: tuple[Colour, ...] = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (213, 94, 0))
SPAN: Colour = (0, 114, 178)
SHADE: Colour = (204, 226, 240)  # behind the waveform, where there is something
TAG, TEXT = 15, 16  # pixels of letters: a box's tag, the caption
BAND = 34  # pixels of a time line
HEARD = 16_000  # Hz of the waveform that is drawn
ABSENT = "not present"

Scored = tuple[Box, float | None]


def picture_with_boxes(source: Any, text: str, boxes: Sequence[Scored]) -> PIL.Image.Image:
    """Return a picture with boxes in its pixels, numbered where there are several, under what they are of.

    Raises:
        MediaError: the picture cannot be read.
    """
    whole = open_image(_there(source, "picture"))
    picture = enlarged(whole)
    scale = picture.width / whole.width, picture.height / whole.height
    pen = PIL.ImageDraw.Draw(picture)
    thick = max(2, max(picture.size) // 250)
    letters = font(max(TAG, max(picture.size) // 45))
    corners = [
        (box.left * scale[0], box.top * scale[1], box.right * scale[0], box.bottom * scale[1]) for box, _ in boxes
    ]
    for number, place in reversed(list(enumerate(corners))):  # the surest on top
        colour = COLOURS[number % len(COLOURS)]
        left, top, right, bottom = place
        around = left - thick, top - thick, right + thick, bottom + thick
        pen.rectangle(around, outline=INK, width=3 * thick)  # dark on both sides, so that it shows on any ground
        pen.rectangle(place, outline=colour, width=thick)
    for number, (place, (_, score)) in enumerate(zip(corners, boxes, strict=True)):
        told = [f"{number + 1}:"] if len(boxes) > 1 and score is not None else []
        told += [] if score is None else [f"{100 * score:.0f} %"]
        if told:
            _tag(pen, picture.size, place, " ".join(told), COLOURS[number % len(COLOURS)], letters)
    caption = text if boxes or not text else f"{text}: {ABSENT}"
    return _under(caption or ("" if boxes else ABSENT), picture)


def sound_with_spans(source: Any, text: str, spans: Sequence[tuple[Span, float]]) -> PIL.Image.Image:
    """Return a sound's waveform, below it the time line of the spans with their scores.

    Raises:
        MediaError: the sound cannot be read.
    """
    samples = open_audio(_there(source, "sound"), HEARD)
    seconds = len(samples) / HEARD
    out = PIL.Image.new("RGB", (WIDTH, WAVE + BAND + CAPTION), PAPER)
    pen = PIL.ImageDraw.Draw(out)
    edges = [(round(span.start / seconds * WIDTH), round(span.end / seconds * WIDTH)) for span, _ in spans]
    for left, right in edges:
        pen.rectangle((left, 0, max(left, right - 1), WAVE), SHADE)
    waveform(pen, np.asarray(samples, np.float32), 0)
    pen.line((0, WAVE + BAND, WIDTH, WAVE + BAND), LINE)
    letters = font(13)
    for (left, right), (_, score) in zip(edges, spans, strict=True):
        pen.rectangle((left, WAVE + 4, max(left + 1, right - 1), WAVE + BAND - 4), SPAN)
        told = f"{100 * score:.0f} %"
        if letters.getlength(told) + 6 <= right - left:
            pen.text(((left + right) / 2, WAVE + BAND / 2), told, PAPER, letters, anchor="mm")
    ruler(pen, seconds, WAVE + BAND)
    caption = f"{text}: {ABSENT}" if text and not spans else text
    return _under(caption or ("" if spans else ABSENT), out)


def _there(source: Any, kind: str) -> Any:
    if source is None:
        raise MediaError(
            f"the {kind} of this answer is not at hand: give it with dataclasses.replace(answer, source=...)"
        )
    return source


def _tag(
    pen: PIL.ImageDraw.ImageDraw,
    size: tuple[int, int],
    place: tuple[float, ...],
    told: str,
    colour: Colour,
    letters: Any,
) -> None:
    """Write dark letters on a plate of the box's colour, above its corner, or in it where there is no room."""
    width, height = letters.getlength(told) + 10, letters.size + 8
    left = min(max(0.0, place[0]), size[0] - width)
    top = place[1] - height if place[1] >= height else min(max(0.0, place[1]), size[1] - height)
    pen.rectangle((left, top, left + width, top + height), colour, INK)
    pen.text((left + 5, top + height / 2), told, INK, letters, anchor="lm")


def _under(caption: str, picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return a picture below its caption, in as many lines as it takes."""
    if not caption:
        return picture
    letters = font(max(TEXT, max(picture.size) // 45))
    columns = max(8, int((picture.width - 12) / letters.getlength("n")))
    lines = textwrap.wrap(caption, columns) or [""]
    height = (letters.size + 6) * len(lines) + 8
    out = PIL.Image.new("RGB", (picture.width, picture.height + height), PAPER)
    out.paste(picture, (0, height))
    pen = PIL.ImageDraw.Draw(out)
    for number, line in enumerate(lines):
        pen.text((6, 4 + (letters.size + 6) * number), line, INK, letters)
    return out
