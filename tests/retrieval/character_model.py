"""A tiny model that really embeds: characters of texts, bytes of files. Processes of their own import it too."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval import unit_rows

DIMENSION = 16


@dataclass(frozen=True)
class Encoded:
    vectors: npt.NDArray[np.float32]
    kept: list[int]
    failures: list[tuple[int, str]]


class CharacterModel:
    """Counts hashed pairs of characters. A str or `Text` is text; anything else names a file, read as bytes."""

    name = "characters"
    fingerprint = "c0ffee" * 4
    dimension = DIMENSION
    modalities = ("text", "image", "audio")

    def encode(self, inputs: Any) -> npt.NDArray[np.float32]:
        return unit_rows(np.stack([self._counts(one) for one in inputs]), DIMENSION)

    def encode_many(
        self, inputs: Sequence[Any], *, batch_size: int = 32, show_progress_bar: bool | None = None
    ) -> Encoded:
        vectors, kept, failures = [np.empty((0, DIMENSION), np.float32)], [], []
        for place, one in enumerate(inputs):
            try:
                vectors.append(self.encode([one]))
                kept.append(place)
            except (OSError, ValueError) as error:
                failures.append((place, str(error)))
        return Encoded(np.concatenate(vectors), kept, failures)

    def _counts(self, one: Any) -> npt.NDArray[np.float32]:
        if isinstance(one, str):
            content = one.encode()
        else:
            value = dataclasses.astuple(one)[0]
            content = value.encode() if type(one).__name__ == "Text" else Path(value).read_bytes()
        counts = np.zeros(DIMENSION, dtype=np.float32)
        for pair in itertools.pairwise(content):
            counts[zlib.crc32(bytes(pair)) % DIMENSION] += 1
        return counts


class Interrupted(BaseException):
    """As Ctrl-C, or worse."""


class InterruptedModel(CharacterModel):
    """Counts how often it embeds each file, and is interrupted when none is `left` that it may embed."""

    def __init__(self) -> None:
        self.embedded: Counter[str] = Counter()
        self.left = 0

    def encode_many(self, inputs: Sequence[Any], **options: Any) -> Encoded:
        for one in inputs:
            if self.left == 0:
                raise Interrupted
            self.left -= 1
            self.embedded[Path(one.source).name] += 1
        return super().encode_many(inputs, **options)
