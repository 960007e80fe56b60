"""What the shared Transformer makes of each part of an input: words of a text, places in a picture, times of a sound.

B: windows of a sound (else 1), L: tokens of the longest, class token first, W: width, T: tokens that lie somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from encoders.image import ImagePreprocessor
from encoders.media import image_size
from encoders.text import TextPreprocessor
from onepeace.reader import FloatMatrix, mean

if TYPE_CHECKING:
    from onepeace.inputs import Part
    from onepeace.model.onepeace import OnePeace
    from onepeace.reader import InputReader, Prepared

Place = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class TokenFeatures:
    """The tokens of one input, in order. T: tokens that lie somewhere, W: width of the Transformer, D: dimension.

    A place is, of a text, the first character and the one behind the last; of a picture, (left, top, right, bottom) in
    pixels of the upright picture at its own size; of a sound, start and end in seconds. Tokens that lie nowhere are
    left out: the class token, what begins and ends a text, a prefix, silence that a sound was filled up with.

    Features are what leaves the Transformer, in front of the head. They are no vectors of the shared space: the head
    learns from class tokens only, and what it makes of others finds hardly more than chance.

    >>> tokens = model.encode_tokens("two dogs")
    >>> tokens.places, tokens.features.shape
    ([(0, 3), (4, 8)], (2, 384))
    """

    modality: str
    features: FloatMatrix  # (T, W) float32
    places: list[Place]  # T of them
    vector: FloatMatrix  # (D,) float32, of the whole input: what `encode` returns in float32

    def __len__(self) -> int:
        return len(self.places)


def token_features(model: OnePeace, reader: InputReader, part: Part) -> TokenFeatures:
    """Return the tokens of one input, from a plain model. Raises MediaError when it cannot be read."""
    prepared = reader.read(part)
    preprocessor = reader.preprocessors[part.modality]
    device = model.logit_scale.log.device
    head: Any = model.heads[part.modality]
    with torch.inference_mode():
        batch = preprocessor.collate([item for item, _ in prepared])
        (sequence,) = model.features([model.tokens(part.modality, *(tensor.to(device) for tensor in batch))])
        vector_BD = head(sequence).cpu().numpy()
        present_BL = ~sequence.padding.cpu()
        rows = [row_LW[present_L][1:] for row_LW, present_L in zip(sequence.embeddings.cpu(), present_BL, strict=True)]
        places, kept = _places(reader, part, prepared, [len(row) for row in rows])
        features_TW = torch.cat(rows)[kept]
    return TokenFeatures(str(part.modality), features_TW.numpy(), places, mean(np.asarray(vector_BD)))


def _places(
    reader: InputReader, part: Part, prepared: Prepared, counts: Sequence[int]
) -> tuple[list[Place], list[int]]:
    """Return where tokens lie, and which these are of all that each window has behind its class token."""
    preprocessor = reader.preprocessors[part.modality]
    places: list[Place]
    if isinstance(preprocessor, TextPreprocessor):
        places = [(0, 0) for _ in preprocessor.config.begin_ids]
        places += [*preprocessor.spans(part.source)]
    elif isinstance(preprocessor, ImagePreprocessor):
        (width, height), side = image_size(part.source, preprocessor.limits), isqrt(counts[0])
        x, y = width / side, height / side
        places = [(c * x, r * y, (c + 1) * x, (r + 1) * y) for r in range(side) for c in range(side)]
    else:
        config: Any = reader.folder.config.adapters[part.modality]
        step = config.token_samples / config.preprocess.sample_rate
        places = []
        for (_, span), count in zip(prepared, counts, strict=True):
            assert span is not None
            starts = [span[0] + token * step for token in range(count)]
            places += [(start, max(start, min(start + step, span[1]))) for start in starts]
    kept = [token for token, place in enumerate(places) if place[0] < place[-len(place) // 2]]
    return [places[token] for token in kept], kept
