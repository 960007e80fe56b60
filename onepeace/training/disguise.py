"""Media in disguise: other colours, another pitch, so that what sees them learns neither."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from encoders.modality import Modality

MOST_BINS = 40  # of 128, that a sound in disguise is higher or lower by: some two octaves


def disguised(batch: tuple[Tensor, ...], modality: Modality, keys: Sequence[str]) -> tuple[Tensor | None, ...]:
    """Return what an adapter takes, of the same pictures in other colours, or of the same sounds at another pitch.

    What is drawn for a medium depends on its key alone: an order of red, green and blue; mel bins up or down.

    >>> (pixels,) = disguised((torch.arange(3.0).view(1, 3, 1, 1),), Modality.IMAGE, ["dog.jpg"])
    >>> sorted(pixels.flatten().tolist())
    [0.0, 1.0, 2.0]
    """
    seeds = [int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) for key in keys]
    generators = [np.random.default_rng(seed) for seed in seeds]
    if modality is Modality.IMAGE:
        (pixels_BCHW,) = batch
        rows = zip(pixels_BCHW, generators, strict=True)
        return (torch.stack([pixels[rng.permutation(3).tolist()] for pixels, rng in rows]),)
    shifts_B = torch.tensor(
        [int(rng.integers(-MOST_BINS, MOST_BINS + 1)) for rng in generators], device=batch[0].device
    )
    return (*batch[:2], None, None, shifts_B)  # no spans are hidden
