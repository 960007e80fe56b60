"""What drove a decision, as numbers and as a picture: a map over a picture, a line under a sound, marked words."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

from encoders.modality import Modality
from onepeace.drawing import CAPTION, INK, LINE, PAPER, WAVE, WIDTH, enlarged, font, ruler, spectrogram, waveform

Weights = NDArray[np.float32]
Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the picture's sides

FOR, AGAINST = (214, 60, 20), (20, 90, 200)  # what speaks for the label, and against it
STRONGEST = 0.75  # opacity of the largest weight
SPECTRUM, BAND = 130, 60  # pixels of a sound's drawing


@dataclass(frozen=True)
class Explanation:
    """How much each part of an input speaks for a label.

    A part's weight is what the label's log-odds lose, in nats, when that part is taken away: above zero it speaks for
    the label, below zero against it. Weights of parts of pictures and of sounds are means over windows that hide
    neighbours too, so they do not add up to the whole.

    >>> classifier = onepeace.ZeroShotClassifier(model, ["a cat", "an apple"])
    >>> why = classifier.explain("a cat on the grass")
    >>> why.label, max(why.words, key=lambda pair: pair[1])[0]
    ('a cat', 'cat')
    >>> why.save("why.png").name, why.draw().mode
    ('why.png', 'RGB')
    """

    label: str
    probability: float  # of the label, for the whole input
    modality: Modality
    tokens: Weights  # (rows, columns) of a picture, (T,) stretches of a sound, (W,) words of a text
    words: list[tuple[str, float]]  # of a text; of the label's prompt for a picture or sound
    times: list[tuple[float, float, float]] = field(default_factory=list)  # of a sound: start, end in seconds, weight
    source: Any = field(default=None, repr=False)  # RGB picture, or (samples, rate)

    @cached_property
    def regions(self) -> list[tuple[Box, float]]:
        """The cells of a picture with their weights, the strongest first; empty for what is no picture."""
        if self.modality is not Modality.IMAGE:
            return []
        rows, columns = self.tokens.shape
        return [
            (
                (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows),
                float(self.tokens[row, column]),
            )
            for row, column in (divmod(int(i), columns) for i in np.argsort(-self.tokens, axis=None, kind="stable"))
        ]

    def draw(self) -> PIL.Image.Image:
        """Return the picture under its map, the sound over its time line, or the words of a text."""
        draw = {Modality.IMAGE: self._picture, Modality.AUDIO: self._sound}.get(self.modality, self._text)
        return draw()

    def save(self, path: str | Path) -> Path:
        """Write the drawing as PNG and return where.

        Raises:
            ValueError: a name that does not end in .png.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"an explanation is saved as .png, got {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.draw().save(path, "PNG", optimize=True)
        return path

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        buffer = BytesIO()
        words = "" if self.modality is Modality.TEXT else f"<p>{marked_words(self.words)}</p>"
        if self.modality is Modality.TEXT:
            shown = f"<p>{marked_words(self.words)}</p>"
        else:
            self.draw().save(buffer, "PNG")
            shown = f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
        title = f"<b>{html.escape(self.label)}</b> {100 * self.probability:.1f} %"
        return f"<figure><figcaption>{title}</figcaption>{shown}{words}</figure>"

    @property
    def _title(self) -> str:
        return f"{self.label}  {100 * self.probability:.1f} %"

    def _picture(self) -> PIL.Image.Image:
        picture = enlarged(self.source)
        size = picture.size
        drawn = tinted(picture, self.tokens)
        out = PIL.Image.new("RGB", (size[0], size[1] + CAPTION), PAPER)
        out.paste(drawn, (0, CAPTION))
        PIL.ImageDraw.Draw(out).text((6, 6), self._title, INK, font())
        return out

    def _sound(self) -> PIL.Image.Image:
        samples, rate = self.source
        seconds = len(samples) / rate
        out = PIL.Image.new("RGB", (WIDTH, CAPTION + WAVE + SPECTRUM + BAND + CAPTION), PAPER)
        pen = PIL.ImageDraw.Draw(out)
        pen.text((6, 6), self._title, INK, font())
        waveform(pen, samples, CAPTION)
        spectrum = PIL.Image.fromarray(spectrogram(samples, rate)).resize((WIDTH, SPECTRUM))
        out.paste(spectrum.convert("RGB"), (0, CAPTION + WAVE))
        middle = CAPTION + WAVE + SPECTRUM + BAND // 2
        largest = float(np.abs(self.tokens).max()) or 1.0
        for start, end, weight in self.times:
            left, right = round(start / seconds * WIDTH), round(end / seconds * WIDTH) - 2
            height = round(weight / largest * (BAND // 2 - 3))
            box = (left, min(middle, middle - height), max(left, right), max(middle, middle - height))
            pen.rectangle(box, FOR if weight > 0 else AGAINST)
        pen.line((0, middle, WIDTH, middle), LINE)
        ruler(pen, seconds, CAPTION + WAVE + SPECTRUM + BAND)
        return out

    def _text(self) -> PIL.Image.Image:
        words_font = font(18)
        largest = max((abs(weight) for _, weight in self.words), default=0.0) or 1.0
        places: list[tuple[int, int, str, float]] = []
        left, top = 8, CAPTION + 8
        for word, weight in self.words:
            width = round(words_font.getlength(word)) + 8
            if left + width > WIDTH - 8 and left > 8:
                left, top = 8, top + 32
            places.append((left, top, word, weight))
            left += width + 4
        out = PIL.Image.new("RGB", (WIDTH, top + 40), PAPER)
        pen = PIL.ImageDraw.Draw(out)
        pen.text((6, 6), self._title, INK, font())
        for left, top, word, weight in places:
            share = STRONGEST * abs(weight) / largest
            colour = tuple(
                round((1 - share) * paper + share * ink)
                for paper, ink in zip(PAPER, FOR if weight > 0 else AGAINST, strict=True)
            )
            pen.rectangle((left, top, left + round(words_font.getlength(word)) + 8, top + 28), colour)
            pen.text((left + 4, top + 3), word, INK, words_font)
        return out


def tinted(picture: PIL.Image.Image, weights: Weights) -> PIL.Image.Image:
    """Return a grey picture with a colour over it, the stronger the larger a cell's weight."""
    largest = float(np.abs(weights).max()) or 1.0
    smooth = PIL.Image.fromarray(weights / largest).resize(picture.size, PIL.Image.Resampling.BILINEAR)
    share_HW = np.asarray(smooth)
    grey_HW3 = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float32)
    pixels_HW3 = 0.35 * np.asarray(picture, dtype=np.float32) + 0.65 * grey_HW3
    for colour, part_HW in ((FOR, share_HW.clip(0)), (AGAINST, (-share_HW).clip(0))):
        opacity_HW1 = STRONGEST * part_HW[:, :, None]
        pixels_HW3 = (1 - opacity_HW1) * pixels_HW3 + opacity_HW1 * np.array(colour, dtype=np.float32)
    return PIL.Image.fromarray(pixels_HW3.clip(0, 255).astype(np.uint8))


def marked_words(words: Sequence[tuple[str, float]]) -> str:
    """Return words as HTML, each on a colour as strong as its weight."""
    largest = max((abs(weight) for _, weight in words), default=0.0) or 1.0
    return " ".join(
        f'<span title="{weight:+.3f}" style="background: rgba({red}, {green}, {blue}, '
        f'{STRONGEST * abs(weight) / largest:.2f})">{html.escape(word)}</span>'
        for word, weight in words
        for red, green, blue in [FOR if weight > 0 else AGAINST]
    )
