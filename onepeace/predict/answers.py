"""What the kinds of tasks answer, a class each: plain values that print, draw and write themselves."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import PIL.Image

TOLD = 3  # probabilities that a `repr` names
DIGITS = 6  # behind the point, of a probability that is written

Size: TypeAlias = tuple[int, int]  # width and height in pixels


class Box(NamedTuple):
    """A box in pixels of the upright picture, as viewers show it; right and bottom are behind the last pixel.

    >>> Box(10.0, 20.0, 40.0, 60.0).width
    30.0
    >>> Box(10.0, 20.0, 40.0, 60.0).height
    40.0
    """

    left: float
    top: float
    right: float
    bottom: float

    def __repr__(self) -> str:
        """Tell tenths of pixels: no model knows better."""
        return f"Box({', '.join(f'{number:.1f}' for number in self)})"

    @property
    def width(self) -> float:
        """Pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels."""
        return self.bottom - self.top


class Span(NamedTuple):
    """A stretch of a sound, in seconds from its beginning.

    >>> Span(1.5, 2.0).end
    2.0
    """

    start: float
    end: float

    def __repr__(self) -> str:
        """Tell hundredths of seconds."""
        return f"Span({self.start:.2f}, {self.end:.2f})"


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a classifier says of one input: its best label, and every label's probability.

    `label` is `onepeace.zero_shot.OTHER` where no label fits and a `ZeroShotClassifier` was made with `other`;
    `probability` is then the probability that none does.

    >>> Prediction("cat", 0.7, {"dog": 0.2, "cat": 0.7, "fox": 0.1})
    Prediction('cat', 0.7, {'cat': 0.7, 'dog': 0.2, 'fox': 0.1})
    """

    label: str
    probability: float
    probabilities: dict[str, float]

    def __repr__(self) -> str:
        """Name the best labels only: there may be thousands."""
        return f"{type(self).__name__}({self.label!r}, {self.probability:.3g}, {_likeliest(self.probabilities)})"

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the `k` likeliest labels with their probabilities, the likeliest first.

        >>> Prediction("cat", 0.7, {"dog": 0.2, "cat": 0.7, "fox": 0.1}).top(2)
        [('cat', 0.7), ('dog', 0.2)]
        """
        return sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:k]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return plain values, ready for JSON; with `top`, the probabilities of the `top` likeliest labels only.

        >>> Prediction("cat", 0.7, {"dog": 0.3, "cat": 0.7}).to_dict()
        {'label': 'cat', 'probability': 0.7, 'probabilities': {'dog': 0.3, 'cat': 0.7}}
        """
        return {
            "label": self.label,
            "probability": round(self.probability, DIGITS),
            "probabilities": _rounded(self.probabilities if top is None else dict(self.top(top))),
        }


@dataclass(frozen=True, repr=False)
class Tags(Prediction):
    """What a task that tags says of one input: the labels that fit, each on its own; and the likeliest of all.

    Where a question has one answer, as in visual question answering, that is `label`.

    >>> tags = Tags("rain", 0.9, {"thunder": 0.6, "rain": 0.9, "a dog": 0.1}, ["rain", "thunder"])
    >>> tags
    Tags(['rain', 'thunder'], {'rain': 0.9, 'thunder': 0.6, 'a dog': 0.1})
    >>> tags.to_dict()["labels"]
    ['rain', 'thunder']
    """

    labels: list[str]  # those whose probability reaches the threshold, the likeliest first

    def __repr__(self) -> str:
        """Name the best labels only."""
        return f"Tags({self.labels}, {_likeliest(self.probabilities)})"

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return plain values, as `Prediction.to_dict` does, with the labels that fit."""
        return {"labels": self.labels} | super().to_dict(top)


@dataclass(frozen=True, repr=False)
class Choice:
    """Which of the given texts is right, with the probability of each.

    >>> choice = Choice("a dog", 0.8, {"a cat": 0.2, "a dog": 0.8})
    >>> choice, choice.index
    (Choice('a dog', 0.8, {'a dog': 0.8, 'a cat': 0.2}), 1)
    >>> choice.to_dict()
    {'choice': 'a dog', 'index': 1, 'probability': 0.8, 'probabilities': {'a cat': 0.2, 'a dog': 0.8}}
    """

    choice: str
    probability: float
    probabilities: dict[str, float]  # of the given texts, in their order

    def __repr__(self) -> str:
        """Name the likeliest texts only."""
        return f"Choice({self.choice!r}, {self.probability:.3g}, {_likeliest(self.probabilities)})"

    @property
    def index(self) -> int:
        """The place of the chosen text among those that were given."""
        return list(self.probabilities).index(self.choice)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "choice": self.choice,
            "index": self.index,
            "probability": round(self.probability, DIGITS),
            "probabilities": _rounded(self.probabilities),
        }


class Drawn:
    """An answer that can be drawn over what it is about. A notebook shows it so."""

    def draw(self) -> PIL.Image.Image:
        """Return the drawing."""
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Write the drawing as PNG and return where.

        Raises:
            MediaError: what it is about cannot be read any more.
            ValueError: a name that does not end in .png.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"an answer is saved as .png, got {path}")
        drawing = self.draw()
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.save(path, "PNG")
        return path

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the drawing, or the values where there is nothing to draw on."""
        out = BytesIO()
        try:
            self.draw().save(out, "PNG")
        except ValueError as error:
            return f"<p>{escape(repr(self))}: {escape(str(error))}</p>"
        data = base64.b64encode(out.getvalue()).decode()
        return f'<img alt="{escape(repr(self), quote=True)}" src="data:image/png;base64,{data}">'


@dataclass(frozen=True)
class Grounding(Drawn):
    """Where in a picture that lies which a text speaks of.

    >>> box = Box(30.0, 20.0, 90.0, 60.0)
    >>> found = Grounding(box, (120, 80), "the cat", onepeace.Image("cat.jpg"))
    >>> found
    Grounding(box=Box(30.0, 20.0, 90.0, 60.0), size=(120, 80), text='the cat')
    >>> found.save("found.png").name, found.draw().mode
    ('found.png', 'RGB')
    >>> found.to_dict()
    {'box': [30.0, 20.0, 90.0, 60.0], 'size': [120, 80]}
    """

    box: Box  # pixels
    size: Size  # of the picture
    text: str = ""  # what was asked for
    source: Any = field(default=None, repr=False, compare=False)  # the picture, as it was given

    def draw(self) -> PIL.Image.Image:
        """Return the picture with the box. Raises MediaError."""
        from onepeace.predict.drawing import picture_with_boxes

        return picture_with_boxes(self.source, self.text, [(self.box, None)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"box": _numbers(self.box), "size": list(self.size)}


@dataclass(frozen=True, repr=False)
class FoundBox:
    """A box, and how sure it is.

    >>> FoundBox(Box(0.0, 0.0, 8.0, 8.0), 0.9)
    FoundBox(Box(0.0, 0.0, 8.0, 8.0), 0.900)
    """

    box: Box  # pixels
    score: float  # probability that what was asked for is there

    def __repr__(self) -> str:
        return f"FoundBox({self.box}, {self.score:.3f})"


@dataclass(frozen=True)
class Detection(Drawn):
    """All boxes of a picture that a text fits, the surest first; none where what was asked for is not present.

    >>> found = Detection([FoundBox(Box(3.0, 2.0, 9.0, 6.0), 0.9)], 0.9, (96, 64), "a cat", onepeace.Image("cat.jpg"))
    >>> found.present, len(found.boxes), found.draw().mode
    (True, 1, 'RGB')
    >>> found.to_dict()
    {'present': True, 'presence': 0.9, 'boxes': [{'box': [3.0, 2.0, 9.0, 6.0], 'score': 0.9}], 'size': [96, 64]}
    >>> Detection([], 0.1, (96, 64), "a dog")
    Detection(boxes=[], presence=0.1, size=(96, 64), text='a dog')
    """

    boxes: list[FoundBox]  # whose score reaches the threshold, the surest first
    presence: float  # probability that there is any: the highest score of all
    size: Size  # of the picture
    text: str = ""  # what was asked for
    source: Any = field(default=None, repr=False, compare=False)  # the picture, as it was given

    @property
    def present(self) -> bool:
        """Whether there is any."""
        return bool(self.boxes)

    def draw(self) -> PIL.Image.Image:
        """Return the picture with the boxes. Raises MediaError."""
        from onepeace.predict.drawing import picture_with_boxes

        return picture_with_boxes(self.source, self.text, [(found.box, found.score) for found in self.boxes])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        boxes = [{"box": _numbers(found.box), "score": round(found.score, DIGITS)} for found in self.boxes]
        told = {"present": self.present, "presence": round(self.presence, DIGITS)}
        return told | {"boxes": boxes, "size": list(self.size)}


@dataclass(frozen=True, repr=False)
class FoundSpan:
    """A span, and how sure it is.

    >>> FoundSpan(Span(0.5, 2.0), 0.9)
    FoundSpan(Span(0.50, 2.00), 0.900)
    """

    span: Span  # seconds
    score: float  # probability that what was asked for is heard there

    def __repr__(self) -> str:
        return f"FoundSpan({self.span}, {self.score:.3f})"


@dataclass(frozen=True)
class Moments(Drawn):
    """When in a sound that is heard which a text speaks of, in order; never, where it is not present.

    >>> found = Moments([FoundSpan(Span(0.5, 2.0), 0.9)], 0.9, 5.0, "rain", onepeace.Audio("rain.ogg"))
    >>> found.present, found.draw().mode
    (True, 'RGB')
    >>> found.to_dict()
    {'present': True, 'presence': 0.9, 'spans': [{'start': 0.5, 'end': 2.0, 'score': 0.9}], 'seconds': 5.0}
    """

    spans: list[FoundSpan]  # whose score reaches the threshold, the earliest first
    presence: float  # probability that there is any: the highest score of all
    seconds: float  # of the whole sound
    text: str = ""  # what was asked for
    source: Any = field(default=None, repr=False, compare=False)  # the sound, as it was given

    @property
    def present(self) -> bool:
        """Whether there is any."""
        return bool(self.spans)

    def draw(self) -> PIL.Image.Image:
        """Return the sound's waveform over a time line of the spans. Raises MediaError."""
        from onepeace.predict.drawing import sound_with_spans

        return sound_with_spans(self.source, self.text, [(found.span, found.score) for found in self.spans])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        spans = [
            dict(zip(("start", "end"), _numbers(found.span), strict=True)) | {"score": round(found.score, DIGITS)}
            for found in self.spans
        ]
        told = {"present": self.present, "presence": round(self.presence, DIGITS)}
        return told | {"spans": spans, "seconds": round(self.seconds, 3)}


Answer: TypeAlias = Prediction | Tags | Choice | Grounding | Detection | Moments


def answer_from_dict(data: Mapping[str, Any], text: str = "", source: Any = None) -> Answer:
    """Return the answer that `to_dict` wrote, with what was asked for and what it was asked of.

    >>> answer_from_dict(Choice("a dog", 0.8, {"a cat": 0.2, "a dog": 0.8}).to_dict()).index
    1
    """
    if "choice" in data:
        return Choice(data["choice"], data["probability"], dict(data["probabilities"]))
    if "spans" in data:
        spans = [FoundSpan(Span(one["start"], one["end"]), one["score"]) for one in data["spans"]]
        return Moments(spans, data["presence"], data["seconds"], text, source)
    if "boxes" in data:
        boxes = [FoundBox(Box(*one["box"]), one["score"]) for one in data["boxes"]]
        return Detection(boxes, data["presence"], _size(data), text, source)
    if "box" in data:
        return Grounding(Box(*data["box"]), _size(data), text, source)
    told = data["label"], data["probability"], dict(data["probabilities"])
    return Tags(*told, list(data["labels"])) if "labels" in data else Prediction(*told)


def _size(data: Mapping[str, Any]) -> Size:
    width, height = data["size"]
    return width, height


def _likeliest(probabilities: Mapping[str, float]) -> str:
    best = sorted(probabilities.items(), key=lambda pair: -pair[1])
    told = ", ".join(f"{label!r}: {probability:.3g}" for label, probability in best[:TOLD])
    more = "" if len(best) <= TOLD else f", {len(best) - TOLD} more"
    return f"{{{told}{more}}}"


def _rounded(probabilities: Mapping[str, float]) -> dict[str, float]:
    return {label: round(probability, DIGITS) for label, probability in probabilities.items()}


def _numbers(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]
