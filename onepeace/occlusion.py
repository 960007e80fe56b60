"""Which parts of an input matter, by hiding them one after the other (Zeiler and Fergus, 2014, arXiv:1311.2901).

Nothing but inputs and scores of a model is used, so this holds for every model folder. P: parts, M: masks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Scores = Callable[[Sequence[Array]], NDArray[np.floating]]  # windows of one input -> what each of them scores

GRID = 8  # cells a side of a picture; the shipped model's tokens are as many
WINDOW = 3  # cells a side that are hidden together
BLUR = 1 / 8  # of a picture's side: the deviation of the blur that hides a part
EDGE = 1 / 32  # of a picture's side: the softness of a window's edge, so that it draws no line of its own
BATCH = 32  # windows that are scored together
STEP = 0.32  # seconds of sound hidden at a time, unless the sound is long: a token of the shipped model
MOST_STEPS = 64
NEIGHBOURS = 1  # steps on each side that are hidden with one
FADE = 0.01  # seconds in which a sound fades out and in again around a hidden part


def picture_weights(pixels_CHW: Array, scores: Scores) -> Array:
    """Return what each cell of a picture adds to its score, (`GRID`, `GRID`).

    Windows of `WINDOW` x `WINDOW` cells are blurred, wherever they reach into the picture; a cell's weight is the mean
    loss of the windows over it. Blurred rather than grey, since a grey square is something to be seen itself.
    """
    from scipy.ndimage import gaussian_filter

    _, height, width = pixels_CHW.shape
    blurred_CHW = gaussian_filter(pixels_CHW, (0, BLUR * height, BLUR * width), mode="nearest")
    masks_MGG = window_masks(GRID, WINDOW)

    def hidden() -> Iterator[Array]:
        for mask_GG in masks_MGG:
            mask_HW = resized(mask_GG, height, width)
            mask_HW = gaussian_filter(mask_HW, (EDGE * height, EDGE * width), mode="nearest")
            yield (pixels_CHW + mask_HW * (blurred_CHW - pixels_CHW)).astype(np.float32)

    whole = float(scores([pixels_CHW])[0])
    losses_M = whole - _scored(hidden(), scores)
    return credited(masks_MGG.reshape(len(masks_MGG), -1), losses_M).reshape(GRID, GRID)


def sound_weights(samples_N: Array, bounds: Sequence[tuple[int, int]], rate: int, scores: Scores) -> Array:
    """Return what each stretch of a sound, from one sample to another, adds to its score, (P,).

    A stretch is silenced together with its neighbours; its weight is the mean loss of the windows over it.
    """
    count = len(bounds)
    centres_M1 = np.arange(-NEIGHBOURS, count + NEIGHBOURS)[:, None]
    masks_MP: Array = (np.abs(np.arange(count) - centres_M1) <= NEIGHBOURS).astype(np.float32)
    fade = max(1, round(FADE * rate))

    def hidden() -> Iterator[Array]:
        for mask_P in masks_MP:
            covered = np.flatnonzero(mask_P)
            first, last = bounds[covered[0]][0], bounds[covered[-1]][1]
            places = np.arange(len(samples_N))
            volume_N = np.clip(np.maximum(first - places, places - last + 1) / fade, 0, 1).astype(np.float32)
            yield samples_N * volume_N

    whole = float(scores([samples_N])[0])
    return credited(masks_MP, whole - _scored(hidden(), scores))


def word_weights(text: str, scores: Callable[[Sequence[str]], NDArray[np.floating]]) -> list[tuple[str, float]]:
    """Return the words of a text with what each adds to its score: what the score loses when the word is left out."""
    words = re.findall(r"\S+", text)
    if len(words) < 2:
        return [(word, 0.0) for word in words]
    shorter = [" ".join([*words[:i], *words[i + 1 :]]) for i in range(len(words))]
    whole, *rest = scores([text, *shorter]).tolist()
    return [(word, whole - score) for word, score in zip(words, rest, strict=True)]


def window_masks(grid: int, window: int) -> Array:
    """Return all masks (M, grid, grid) with ones where a square of `window` cells a side covers part of the grid."""
    offsets = range(1 - window, grid)
    masks_MGG = np.zeros((len(offsets) ** 2, grid, grid), np.float32)
    for number, (row, column) in enumerate((row, column) for row in offsets for column in offsets):
        masks_MGG[number, max(0, row) : row + window, max(0, column) : column + window] = 1
    return masks_MGG


def credited(masks_MP: Array, losses_M: NDArray[np.floating]) -> Array:
    """Return each part's weight (P,): the mean loss of the masks that hide it.

    >>> credited(np.array([[1, 0], [1, 1]], np.float32), np.array([1.0, 3.0])).tolist()
    [2.0, 3.0]
    """
    out: Array = ((masks_MP * losses_M[:, None]).sum(axis=0) / masks_MP.sum(axis=0)).astype(np.float32)
    return out


def resized(mask_GG: Array, height: int, width: int) -> Array:
    """Return the mask at the size of a picture, each cell a rectangle."""
    rows_H = np.arange(height) * len(mask_GG) // height
    columns_W = np.arange(width) * len(mask_GG) // width
    out: Array = mask_GG[rows_H[:, None], columns_W]
    return out


def stretches(samples: int, rate: int) -> list[tuple[int, int]]:
    """Return the bounds of the parts of a sound that are hidden, in samples: `MOST_STEPS` at most."""
    step = max(round(STEP * rate), -(-samples // MOST_STEPS))
    return [(start, min(start + step, samples)) for start in range(0, samples, step)]


def _scored(inputs: Iterator[Array], scores: Scores) -> NDArray[np.float64]:
    found: list[NDArray[np.floating]] = []
    batch: list[Array] = []
    for one in inputs:
        batch.append(one)
        if len(batch) == BATCH:
            found.append(scores(batch))
            batch = []
    if batch:
        found.append(scores(batch))
    return np.concatenate(found).astype(np.float64)
