"""The kinds of input, for whoever needs no more than their names."""

from __future__ import annotations

from enum import StrEnum


class Modality(StrEnum):
    """A kind of input. Its value names the folder of `encoders` that reads it.

    >>> [str(modality) for modality in Modality]
    ['text', 'image', 'audio']
    >>> Modality("audio") is Modality.AUDIO
    True
    """

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
