"""What the report draws, as plain numbers: curves of recall, and confusion matrices as heat maps.

Lengths are units of an SVG's view box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onepeace.evaluate.classification import Classification
from onepeace.evaluate.retrieval import Retrieval

WIDTH, HEIGHT = 360, 200  # of the field of a curve
LAST = 50  # k of a curve
TOPS = (5, 10, 20, 40, 60, 80, 100)  # where the axis of a curve may end, percent
MATRIX = 620  # the least side of a heat map that cells are made to fill
CELLS = (4, 44)  # the least and the greatest side of a cell
NAMED = 45  # classes whose names still fit beside their rows
COUNTED = 16  # classes whose counts still fit into cells
LARGEST = 200  # classes of a matrix that is drawn at all


@dataclass(frozen=True)
class Curve:
    """Recall over k, and what chance would reach."""

    name: str
    line: str  # SVG points
    chance: str
    hue: int  # 0 to 5


@dataclass(frozen=True)
class CurveChart:
    """The curves of one source in one language."""

    title: str
    curves: Sequence[Curve]
    across: Sequence[tuple[float, int]]  # ticks: (place, k)
    up: Sequence[tuple[float, float]]  # (place, percent)


@dataclass(frozen=True)
class Cell:
    """Rows of one class that were taken for one class."""

    x: float
    y: float
    true: str
    predicted: str
    count: int
    share: float  # of the true class's rows, 0 to 1
    right: bool


@dataclass(frozen=True)
class HeatMap:
    """A confusion matrix: a row for each true class, a column for each predicted one."""

    cell: float
    side: float
    cells: Sequence[Cell]
    names: Sequence[str]  # empty where they would not fit
    counted: bool


DIRECTIONS = ("text to image", "image to text", "text to audio", "audio to text", "audio to image", "image to audio")


def curve_charts(retrievals: Sequence[Retrieval]) -> list[CurveChart]:
    """Return one chart for each source and language."""
    groups: dict[tuple[str, str | None], list[Retrieval]] = {}
    for retrieval in retrievals:
        groups.setdefault((retrieval.source, retrieval.language), []).append(retrieval)
    return [
        curve_chart(source + (f", {language}" if language else ""), members)
        for (source, language), members in groups.items()
    ]


def curve_chart(title: str, retrievals: Sequence[Retrieval]) -> CurveChart:
    """Return recall at 1 to 50, or to the number of candidates."""
    last = max(2, min(LAST, max(retrieval.ranking.keys for retrieval in retrievals)))
    ks = list(range(1, last + 1))
    values = [([r.ranking.recall(k) for k in ks], [r.ranking.chance(k) for k in ks]) for r in retrievals]
    greatest = max(max(recalls + chances) for recalls, chances in values)
    top = next(top for top in TOPS if top >= min(greatest, 100.0))

    def points(line: Sequence[float]) -> str:
        return " ".join(
            f"{WIDTH * (k - 1) / (last - 1):.1f},{HEIGHT * (1 - value / top):.1f}"
            for k, value in zip(ks, line, strict=True)
        )

    marks = sorted({1, last} | {k for k in (5, 10, 20, 30, 40) if k < last - 2})
    return CurveChart(
        title,
        [
            Curve(r.task, points(recalls), points(chances), DIRECTIONS.index(r.task))
            for r, (recalls, chances) in zip(retrievals, values, strict=True)
        ],
        [(WIDTH * (k - 1) / (last - 1), k) for k in marks],
        [(HEIGHT * (1 - quarter / 4), top * quarter / 4) for quarter in range(5)],
    )


def heat_map(classification: Classification) -> HeatMap | None:
    """Return the confusion matrix as cells, those without rows left out; None for more classes than can be seen."""
    names, counts_LL = classification.classes, classification.confusion
    if len(names) > LARGEST:
        return None
    cell = float(min(max(MATRIX / len(names), CELLS[0]), CELLS[1]))
    rows_L = counts_LL.sum(axis=1)
    cells = [
        Cell(j * cell, i * cell, names[i], names[j], int(counts_LL[i, j]), float(counts_LL[i, j] / rows_L[i]), i == j)
        for i, j in np.argwhere(counts_LL).tolist()
    ]
    return HeatMap(cell, cell * len(names), cells, names if len(names) <= NAMED else (), len(names) <= COUNTED)
