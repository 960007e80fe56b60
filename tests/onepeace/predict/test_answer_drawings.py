"""Drawings of answers: boxes lie where they are said to, and words are there."""

from __future__ import annotations

import html
import io

import numpy as np
import PIL.Image
import pytest
import soundfile

import onepeace
from onepeace.predict.drawing import COLOURS, SPAN

GREY = (128, 128, 128)
CAPTION = 30  # pixels of a line of words above a picture of 600 pixels


def columns_and_rows(drawing: PIL.Image.Image, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where a colour is."""
    there = (np.asarray(drawing) == colour).all(axis=2)
    return there.any(axis=0).nonzero()[0], there.any(axis=1).nonzero()[0]


def test_a_box_is_drawn_where_it_is() -> None:
    picture = PIL.Image.new("RGB", (600, 400), GREY)
    box = onepeace.Box(100, 50, 300, 250)
    drawing = onepeace.Grounding(box, picture.size, "", onepeace.Image(picture)).draw()
    assert drawing.size == picture.size
    columns, rows = columns_and_rows(drawing, COLOURS[0])
    assert (columns[0], columns[-1], rows[0], rows[-1]) == (100, 300, 50, 250)
    with_words = onepeace.Grounding(box, picture.size, "a dog", onepeace.Image(picture)).draw()
    assert with_words.size == (600, 400 + CAPTION)
    assert columns_and_rows(with_words, COLOURS[0])[1][0] == 50 + CAPTION


def test_a_box_of_a_small_turned_picture_grows_with_it() -> None:
    out = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (64, 32), GREY).save(out, "PNG", exif=exif)
    found = onepeace.Grounding(onepeace.Box(8, 16, 24, 48), (32, 64), "", onepeace.Image(out.getvalue()))
    drawing = found.draw()
    assert drawing.size == (256, 512)
    columns, rows = columns_and_rows(drawing, COLOURS[0])
    assert (columns[0], columns[-1], rows[0], rows[-1]) == (64, 192, 128, 384)


def test_each_box_has_a_colour_of_its_own_and_a_plate() -> None:
    picture = onepeace.Image(PIL.Image.new("RGB", (600, 400), GREY))
    boxes = [onepeace.FoundBox(onepeace.Box(20 + 150 * n, 100, 120 + 150 * n, 300), 0.9 - 0.1 * n) for n in range(3)]
    drawing = onepeace.Detection(boxes, 0.9, (600, 400), "", picture).draw()
    for number in range(3):
        columns, rows = columns_and_rows(drawing, COLOURS[number])
        assert columns[0] == 20 + 150 * number
        assert rows[0] < 100  # the plate with its score lies above it
    nothing = onepeace.Detection([], 0.1, (600, 400), "a dog", picture).draw()
    for colour in COLOURS:
        assert len(columns_and_rows(nothing, colour)[0]) == 0
    assert nothing.height == 400 + CAPTION  # "a dog: not present"


def test_spans_lie_under_the_waveform_where_they_are() -> None:
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(32_000) / 9).astype(np.float32), 8_000, format="WAV")  # 4 s
    spans = [onepeace.FoundSpan(onepeace.Span(1.0, 2.0), 0.9), onepeace.FoundSpan(onepeace.Span(3.0, 4.0), 0.8)]
    drawing = onepeace.Moments(spans, 0.9, 4.0, "rain", onepeace.Audio(out.getvalue())).draw()
    columns, _ = columns_and_rows(drawing, SPAN)
    assert columns[0] == pytest.approx(drawing.width / 4, abs=1)
    assert columns[-1] == drawing.width - 1
    gaps = columns[:-1][np.diff(columns) > 5]
    assert gaps == pytest.approx([drawing.width / 2 - 1], abs=1)


def test_a_notebook_shows_the_drawing_or_why_there_is_none() -> None:
    found = onepeace.Grounding(onepeace.Box(1, 2, 3, 4), (6, 6), "<b>", onepeace.Image(PIL.Image.new("RGB", (6, 6))))
    shown = found._repr_html_()
    assert shown.startswith('<img alt="Grounding(box=Box(1.0, 2.0, 3.0, 4.0)')
    assert "<b>" not in shown
    gone = onepeace.Grounding(onepeace.Box(1, 2, 3, 4), (6, 6), "a", onepeace.Image("gone.png"))._repr_html_()
    assert "cannot read image" in html.unescape(gone)
    assert "is not at hand" in onepeace.Grounding(onepeace.Box(1, 2, 3, 4), (6, 6), "a")._repr_html_()
    with pytest.raises(ValueError, match=r"saved as \.png"):
        found.save("found.jpg")
