"""Embeds each picture, sound and text of an evaluation once, and remembers what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.media import Audio, Image
from encoders.modality import Modality
from onepeace.embedder import CHUNK, Embedder
from onepeace.evaluate.rows import Medium
from onepeace.manifest import ManifestError
from onepeace.progress import progress_bar
from onepeace.reader import shortened

WRAPPERS: dict[Modality, Callable[[Any], Any]] = {Modality.IMAGE: Image, Modality.AUDIO: Audio}

Vector = NDArray[np.float32]


class Encoder:
    """A model, with the vectors it has made so far."""

    def __init__(self, model: Embedder, batch_size: int, show_progress_bar: bool | None) -> None:
        self.model = model
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.failures: list[tuple[str, str]] = []  # (what, why)
        self._media: dict[Medium, Vector | None] = {}
        self._texts: dict[str, Vector | None] = {}

    def embed(self, modality: Modality, media: Iterable[tuple[str, Medium]]) -> None:
        """Embed media, each with the name of its row, that are not embedded yet; a part of them is held at a time."""
        wanted = {medium: name for name, medium in media if medium not in self._media}
        waiting, step = list(wanted), CHUNK * self.batch_size
        with progress_bar(len(waiting), f"embedding {modality}", self.show_progress_bar) as advance:
            for start in range(0, len(waiting), step):
                part = waiting[start : start + step]
                opened: list[tuple[Medium, Any]] = []
                for medium in part:
                    try:
                        opened.append((medium, WRAPPERS[modality](medium.open())))
                    except ManifestError as error:
                        self._fail(self._media, medium, wanted[medium], str(error))
                result = self.model.encode_many(
                    [value for _, value in opened], batch_size=self.batch_size, show_progress_bar=False
                )
                for i, vector in zip(result.kept, self._kept(result.vectors), strict=True):
                    self._media[opened[i][0]] = vector
                for i, reason in result.failures:
                    self._fail(self._media, opened[i][0], wanted[opened[i][0]], reason)
                advance(len(part))

    def has(self, medium: Medium) -> bool:
        """Return whether a medium could be read; False for one that was never to be embedded."""
        return self._media.get(medium) is not None

    def media(self, media: Sequence[Medium]) -> Vector:
        """Return the vectors, (N, D), of media that could be read."""
        return np.stack([vector for medium in media if (vector := self._media[medium]) is not None])

    def readable_texts(self, texts: Iterable[str]) -> set[str]:
        """Embed texts that are not embedded yet, and return those of all that could be."""
        asked = list(dict.fromkeys(texts))
        wanted = [text for text in asked if text not in self._texts]
        result = self.model.encode_many(wanted, batch_size=self.batch_size, show_progress_bar=self.show_progress_bar)
        for i, vector in zip(result.kept, self._kept(result.vectors), strict=True):
            self._texts[wanted[i]] = vector
        for i, reason in result.failures:
            self._fail(self._texts, wanted[i], "a text", reason)
        return {text for text in asked if self._texts[text] is not None}

    def texts(self, texts: Sequence[str]) -> Vector:
        """Return the vectors, (N, D), of texts that could be read."""
        return np.stack([vector for text in texts if (vector := self._texts[text]) is not None])

    def _kept(self, vectors: Vector) -> Vector:
        """Return as many numbers of each vector as the model is to be measured with."""
        return shortened(vectors, self.model.truncate_dim)

    def _fail(self, vectors: dict[Any, Vector | None], key: Any, name: str, reason: str) -> None:
        vectors[key] = None
        self.failures.append((name, reason))
