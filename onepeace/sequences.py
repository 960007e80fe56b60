"""Albums, videos, documents, recordings: items in order, each embedded once. N: items, D: embedding dimension."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from encoders.media import Audio, Image, MediaError
from encoders.modality import Modality
from encoders.pages import Pages, page_pictures
from encoders.video import Video, video_frames, video_info
from onepeace.clock import clock
from onepeace.inputs import Compose, parts_of
from onepeace.progress import progress_bar
from onepeace.reader import FloatMatrix, mean, unit_row

if TYPE_CHECKING:
    from onepeace.embedder import Embedder
    from onepeace.model.onepeace import OnePeace
    from onepeace.model.sequence import SequenceTower

AT_ONCE = 64  # items whose media are held together
WINDOWS_AT_ONCE = 16  # of a sound


class Sequence:
    """Several inputs in order, as one: the pictures of an album, with sounds and words among them if you like.

    Raises:
        TypeError: an item of a type that `encode` does not take.
        ValueError: no items.

    >>> Sequence([Image("dog.jpg"), "rain", Audio("rain.ogg")])
    Sequence(3 items: Image('dog.jpg'), 'rain', ...)
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = list(items)
        if not self.items:
            raise ValueError("a Sequence needs at least one item")
        for number, item in enumerate(self.items, start=1):
            if isinstance(item, Compose):
                raise TypeError(f"item {number} is a Compose: give its parts as items of their own")
            try:
                parts_of(item)
            except TypeError as error:
                raise TypeError(f"item {number}: {error}") from None

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.items[:2])) + (", ..." if len(self.items) > 2 else "")
        return f"Sequence({len(self.items)} {'item' if len(self.items) == 1 else 'items'}: {shown})"


SequenceInput = Sequence | Video | Pages | Audio


@dataclass(frozen=True, eq=False)
class Segment:
    """One item of a sequence and its vector.

    A frame or a stretch of sound has a `start` and an `end`, a page of a document a `page`; an item of an album has
    only its number.
    """

    number: int  # 1 is the first
    modality: str
    vector: FloatMatrix  # (D,) float32, length one
    start: float | None = None  # seconds from the beginning
    end: float | None = None  # seconds
    page: int | None = None  # 1 is the first

    @property
    def place(self) -> str:
        """Where it is, in words.

        >>> Segment(3, "image", np.ones(1), start=65.0, end=66.5).place, Segment(2, "image", np.ones(1), page=2).place
        ('1:05 to 1:06.5', 'page 2')
        """
        if self.page is not None:
            return f"page {self.page}"
        if self.start is None or self.end is None:
            return f"item {self.number}"
        return f"{clock(self.start)} to {clock(self.end)}"

    def __repr__(self) -> str:
        return f"Segment({self.number}, {self.modality!r}, {self.place!r})"


@dataclass(frozen=True, eq=False)
class SequenceEmbedding:
    """A sequence, embedded: a vector for each of its items, in order, and one for all of it.

    >>> album = model.encode_sequence(Sequence(["a dog", "rain"]))
    >>> album.vectors.shape, album.vector.shape, album.nearest(model.encode("a barking dog")).place
    ((2, 512), (512,), 'item 1')
    """

    segments: list[Segment]

    @property
    def vectors(self) -> FloatMatrix:
        """The items' vectors (N, D)."""
        return np.stack([segment.vector for segment in self.segments])

    @property
    def vector(self) -> FloatMatrix:
        """The mean of the items' vectors (D,), at length one: that of a sequence of one is its item's."""
        return mean(self.vectors)

    def __len__(self) -> int:
        return len(self.segments)

    def __repr__(self) -> str:
        ends = self.segments[:: max(1, len(self) - 1)]
        return (
            f"SequenceEmbedding({len(self)} items of {len(ends[0].vector)} numbers: {', '.join(e.place for e in ends)})"
        )

    def nearest(self, vector: FloatMatrix) -> Segment:
        """Return the item whose vector is nearest to a unit vector (D,)."""
        return self.segments[int(np.argmax(self.vectors @ vector))]


@dataclass(frozen=True, eq=False)
class SequenceAnswer:
    """What a sequence says to a text.

    >>> album = model.encode_sequence(Sequence(["a dog", "rain", "a cat"]))
    >>> answer = model.ask("what is in item 2?", album)
    >>> answer.segment.number, answer.vector.shape, answer.weights.shape
    (2, (512,), (3,))
    """

    segments: list[Segment]  # of the sequence
    vector: FloatMatrix  # (D,), length one: what the text asks for, to be compared as an item's would be
    weights: FloatMatrix  # (N,), how likely each item is meant; they add up to one
    match: float  # higher where what the text states is so; to compare sequences by, or statements about one
    absent: float  # 0 to 1: how likely a number is meant that no item has ("page 4" of three); from 0.5 on it is
    counted: FloatMatrix | None = None  # (N,), 0 to 1: how likely each is one of what a text counts ("how many dogs?")

    def __repr__(self) -> str:
        count = f", count={self.count}" if self.count is not None else ""
        absent = f", absent={self.absent:.2f}" if self.absent >= 0.5 else ""
        return (
            f"SequenceAnswer({self.segment.place!r}, {self.weights.max():.1%}, match={self.match:.2f}{count}{absent})"
        )

    @property
    def count(self) -> int | None:
        """How many pictures or sounds are likelier what the text counts than not; None where it counts nothing.

        >>> album = model.encode_sequence(Sequence([Image("dog.jpg"), Audio("rain.ogg"), Audio("rain.ogg")]))
        >>> model.ask("how often is there rain?", album).count, model.ask("rain", album).count
        (2, None)
        """
        return None if self.counted is None else count_of(self.counted)

    @property
    def segment(self) -> Segment:
        """The likeliest item, of those that are there."""
        return self.segments[int(self.weights.argmax())]


class Reading(NamedTuple):
    """What a `SequenceAnswer` holds beside the sequence: vector (D,), weights (N,), match, absent, counted (N,)."""

    vector: FloatMatrix
    weights: FloatMatrix
    match: float
    absent: float
    counted: FloatMatrix | None


def count_of(counted: FloatMatrix) -> int:
    """Return how many of items (N,) are counted: sums of small chances would grow with the length of an album.

    >>> count_of(np.array([0.9, 0.2, 0.5]))
    2
    """
    return int((counted >= 0.5).sum())


def read_sequence(
    embedder: Embedder, model: OnePeace, tower: SequenceTower, texts: Iterable[Tensor], vectors_ND: Tensor
) -> list[Reading]:
    """Let texts, as their preprocessor makes them, read the items with these unit vectors."""
    device = model.logit_scale.log.device
    (ids,) = embedder.reader.preprocessors[Modality.TEXT].collate(list(texts))
    with torch.inference_mode():
        tokens = model.tokens(Modality.TEXT, ids.to(device))
        items = tower.read(model, vectors_ND.to(device)[None])
        asked = tower(model, tokens, items.of(torch.zeros(len(ids), dtype=torch.long, device=device)))
        matches = tower.scores(model.embed_tokens(tokens), asked.vectors, asked.matches).tolist()
    rows, weights = asked.vectors.cpu().numpy(), asked.weights.cpu().numpy()
    counted: list[FloatMatrix | None] = [None] * len(rows)
    if asked.counted is not None:
        chances, logits = asked.counted.chances.cpu().numpy(), asked.counted.counts.tolist()
        counted = [each if logit > 0 else None for each, logit in zip(chances, logits, strict=True)]
    absent = [0.0 if some is not None else part for part, some in zip(asked.absent.tolist(), counted, strict=True)]
    return [Reading(*one) for one in zip(rows, weights, matches, absent, counted, strict=True)]


def encode_sequence(
    embedder: Embedder, source: SequenceInput, batch_size: int, show_progress_bar: bool | None
) -> SequenceEmbedding:
    """Embed the items of a sequence, some at a time, so that memory does not grow with its media.

    Raises:
        MediaError: it cannot be read, or it has no items.
        TypeError: no sequence.
    """
    show = sys.stderr.isatty() if show_progress_bar is None else show_progress_bar
    info = video_info(source, embedder.reader.limits) if isinstance(source, Video) else None
    extent = ceil(info.seconds or 0) if info else len(source) if isinstance(source, Sequence) else 0
    found: list[Segment] = []
    with progress_bar(extent, "embedding", show and extent > AT_ONCE) as advance:
        items = _items(source, embedder)
        while some := list(islice(items, AT_ONCE)):
            result = embedder.encode_many([item for item, _ in some], batch_size=batch_size, show_progress_bar=False)
            for i, reason in result.failures:
                raise MediaError(f"item {len(found) + i + 1}: {reason}")
            found += [replace(segment, vector=row) for (_, segment), row in zip(some, result.vectors, strict=True)]
            advance(int((some[-1][1].end or 0) - (some[0][1].start or 0)) if info else len(some))
    if isinstance(source, Audio) or (info and info.sound and cast(Video, source).sound):
        sound = source if isinstance(source, Audio) else Audio(cast(Video, source).source)
        windows = embedder.reader.sound_windows(sound)
        while heard := list(islice(windows, WINDOWS_AT_ONCE)):
            rows = embedder.embed_windows("audio", [window for window, _ in heard])
            found += [Segment(0, "audio", unit_row(row), *span) for (_, span), row in zip(heard, rows, strict=True)]
    if not found:
        raise MediaError(f"cannot read {source!r}: it holds neither pictures nor sound; leave it out")
    found.sort(key=lambda segment: segment.start or 0.0)  # sounds stand behind the frame that they begin with
    return SequenceEmbedding([replace(segment, number=number) for number, segment in enumerate(found, start=1)])


def _items(source: SequenceInput, embedder: Embedder) -> Iterator[tuple[Any, Segment]]:
    """Yield what is embedded one by one, with where it is."""
    nothing = np.empty(0, np.float32)
    limits = embedder.reader.limits
    if isinstance(source, Sequence):
        for item in source.items:
            yield item, Segment(0, str(parts_of(item)[0].modality), nothing)
    elif isinstance(source, Video):
        for frame in video_frames(source, limits):
            yield Image(frame.picture), Segment(0, "image", nothing, start=frame.start, end=frame.end)
    elif isinstance(source, Pages):
        for page, picture in enumerate(page_pictures(source, limits), start=1):
            yield Image(picture), Segment(0, "image", nothing, page=page)
    elif not isinstance(source, Audio):
        raise TypeError(
            f"cannot read {type(source).__name__} as a sequence: give onepeace.Sequence([...]), Video(...), Pages(...) "
            "or Audio(...)"
        )
