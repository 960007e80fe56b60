"""Scenes of a few things that do not overlap, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from onepeace.scenes.combinations import Combination

SIZE = 256  # pixels a side
SMALL, LARGE = (50, 64), (84, 104)  # pixels a side of a thing, at least and less than
GAP = 6  # pixels between things, and to the edge
FINER = 3  # a thing is drawn so many times larger, then made smaller: smooth edges

RGB = {
    "red": (214, 30, 34),
    "orange": (245, 135, 20),
    "yellow": (250, 222, 40),
    "green": (30, 150, 60),
    "blue": (35, 75, 205),
    "purple": (135, 45, 165),
    "white": (250, 250, 250),
    "black": (12, 12, 12),
}

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Thing:
    """A coloured shape at its place."""

    what: Combination
    box: Box

    @property
    def large(self) -> bool:
        """Tell whether it is one of the large ones."""
        return self.box[2] - self.box[0] >= (SMALL[1] + LARGE[0]) // 2

    @property
    def centre(self) -> tuple[float, float]:
        """Return its middle, in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def placed(whats: Sequence[Combination], rng: np.random.Generator) -> tuple[Thing, ...]:
    """Return the things at random places and sizes, none of which overlap."""
    while True:
        boxes: list[Box] = []
        for _ in whats:
            for _ in range(100):
                side = int(rng.integers(*(LARGE if rng.random() < 0.4 else SMALL)))
                left, top = (int(place) for place in rng.integers(GAP, SIZE - GAP - side, 2))
                box = (left, top, left + side, top + side)
                if all(apart(box, other) for other in boxes):
                    boxes.append(box)
                    break
        if len(boxes) == len(whats):
            return tuple(Thing(what, box) for what, box in zip(whats, boxes, strict=True))


def apart(one: Box, other: Box) -> bool:
    """Tell whether two boxes have a gap between them."""
    return any(one[axis + 2] + GAP <= other[axis] or other[axis + 2] + GAP <= one[axis] for axis in (0, 1))


def drawn(things: Sequence[Thing], rng: np.random.Generator) -> Image.Image:
    """Return the picture, (256, 256) RGB: the things on a plain, shaded, striped, chequered or noisy grey."""
    picture = Image.fromarray(background(rng))
    for thing in things:
        side = thing.box[2] - thing.box[0]
        mask = Image.new("L", (side * FINER, side * FINER))
        DRAWERS[thing.what.noun](ImageDraw.Draw(mask), side * FINER - 1)
        shade = np.array(RGB[thing.what.adjective]) + rng.integers(-8, 9, 3)
        colour = tuple(int(value) for value in shade.clip(0, 255))
        tight = mask.crop(mask.getbbox()).resize((side, side), Image.Resampling.BOX)
        picture.paste(colour, thing.box[:2], tight)
    return picture


def background(rng: np.random.Generator) -> np.ndarray:
    """Return (256, 256, 3) bytes of some grey with a hint of a colour."""
    base = rng.integers(105, 185) + rng.integers(-12, 13, 3)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.06, 0.25)
    along = x * math.cos(angle) + y * math.sin(angle)
    textures: list[Callable[[], np.ndarray]] = [
        lambda: np.zeros_like(x),
        lambda: along - along.mean(),
        lambda: np.sign(np.sin(2 * math.pi * along / period)) / 2,
        lambda: np.sign(np.sin(2 * math.pi * x / period) * np.sin(2 * math.pi * y / period)) / 2,
        lambda: rng.normal(size=x.shape) / 2,
    ]
    texture = textures[rng.integers(len(textures))]() * rng.uniform(10, 40)
    out: np.ndarray = (base + texture[..., None]).clip(0, 255).astype(np.uint8)
    return out


def _polygon(*points: tuple[float, float]) -> Callable[[ImageDraw.ImageDraw, int], None]:
    def draw(on: ImageDraw.ImageDraw, side: int) -> None:
        on.polygon([(x * side, y * side) for x, y in points], fill=255)

    return draw


def _star(on: ImageDraw.ImageDraw, side: int) -> None:
    turns = [math.pi * (i / 5 - 0.5) for i in range(10)]
    radii = [0.5 if i % 2 == 0 else 0.2 for i in range(10)]
    points = [(0.5 + r * math.cos(t), 0.5 + r * math.sin(t)) for r, t in zip(radii, turns, strict=True)]
    _polygon(*points)(on, side)


def _circle(on: ImageDraw.ImageDraw, side: int) -> None:
    on.ellipse((0, 0, side, side), fill=255)


def _ring(on: ImageDraw.ImageDraw, side: int) -> None:
    _circle(on, side)
    on.ellipse((0.27 * side, 0.27 * side, 0.73 * side, 0.73 * side), fill=0)


def _moon(on: ImageDraw.ImageDraw, side: int) -> None:
    on.ellipse((0, 0, 1.25 * side, side), fill=255)
    on.ellipse((0.42 * side, -0.08 * side, 1.7 * side, 1.08 * side), fill=0)


def _heart(on: ImageDraw.ImageDraw, side: int) -> None:
    on.ellipse((0, 0, 0.54 * side, 0.54 * side), fill=255)
    on.ellipse((0.46 * side, 0, side, 0.54 * side), fill=255)
    _polygon((0.04, 0.4), (0.5, 0.2), (0.96, 0.4), (0.5, 1.0))(on, side)


DRAWERS: dict[str, Callable[[ImageDraw.ImageDraw, int], None]] = {
    "circle": _circle,
    "triangle": _polygon((0.5, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "square": _polygon((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "star": _star,
    "cross": _polygon(
        *((1 / 3, 0.0), (2 / 3, 0.0), (2 / 3, 1 / 3), (1.0, 1 / 3), (1.0, 2 / 3), (2 / 3, 2 / 3)),
        *((2 / 3, 1.0), (1 / 3, 1.0), (1 / 3, 2 / 3), (0.0, 2 / 3), (0.0, 1 / 3), (1 / 3, 1 / 3)),
    ),
    "ring": _ring,
    "heart": _heart,
    "moon": _moon,
}
