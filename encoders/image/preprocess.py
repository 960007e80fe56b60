"""Pictures -> pixels that an image adapter takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from encoders.media import DEFAULT_LIMITS, Image, Limits, open_sized_image

if TYPE_CHECKING:
    from encoders.media import ImageSource, Size


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """How a picture becomes pixels. The defaults are the official ones."""

    size: int = 256  # pixels a side; the picture is resized to a square, whatever its shape
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of red, green, blue in 0..1
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"  # both antialiased

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.size < 1:
            raise ValueError(f"image.size must be positive, got {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"image.mean and image.std need three numbers, std positive; got {self.mean}, {self.std}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"image.interpolation must be bicubic or bilinear, got {self.interpolation!r}")


class ImagePreprocessor:
    """Opens, resizes and normalises pictures. Holds no state: one may serve many threads.

    `draft_size` is that of `open_image`: faster JPEGs, slightly different pixels.
    """

    def __init__(self, config: ImagePreprocess, limits: Limits = DEFAULT_LIMITS, draft_size: int | None = None) -> None:
        self.config = config
        self.limits = limits
        self.draft_size = draft_size
        self._resampling = Resampling[config.interpolation.upper()]
        self._mean = np.array(config.mean, dtype=np.float32)[:, None, None]
        self._std = np.array(config.std, dtype=np.float32)[:, None, None]

    def __call__(self, source: ImageSource | Image) -> Tensor:
        """Return normalised pixels, float32 (3, S, S). S: the config's size.

        Raises:
            MediaError: the picture cannot be read.
        """
        return self.sized(source)[0]

    def sized(self, source: ImageSource | Image) -> tuple[Tensor, Size]:
        """Return the same, and the width and height of the upright picture: a share of S is one of these.

        Raises:
            MediaError: the picture cannot be read.
        """
        size = self.config.size
        picture, whole = open_sized_image(source, self.limits, self.draft_size)
        # Widths first, then heights, as the official figures were made. The order changes pixels by up to 5 of 255,
        # as 8 bits are kept in between; asked for both at once, Pillow's versions order them differently.
        picture = picture.resize((size, picture.height), self._resampling).resize((size, size), self._resampling)
        # In numpy and in place: torch would wake all its threads for so little, and they get into each other's way.
        pixels = np.asarray(picture).transpose(2, 0, 1).astype(np.float32, order="C")
        pixels /= 255
        pixels -= self._mean
        pixels /= self._std
        return torch.from_numpy(pixels), whole

    def collate(self, items: Sequence[Tensor]) -> tuple[Tensor]:
        """Return the batch as (pixels (B, 3, S, S),)."""
        return (torch.stack(list(items)),)

    def length(self, item: Tensor) -> int:
        """Return the number of pixels: what a batch's cost grows with."""
        return item.shape[-2] * item.shape[-1]
