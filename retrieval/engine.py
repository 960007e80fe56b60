"""Where a model runs while a store is built: in this process, or elsewhere (`ray_engine`)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onepeace.progress import is_shown

from .arrow import MARKS, Cell
from .build_config import BuildConfig, BuildReport
from .catalog import Item
from .found import Failure, printable
from .manifest import NamedModel
from .parts import SEQUENCES, Place, part
from .sequences import opened


class Encoded(Protocol):
    """What became of a list of inputs."""

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """Unit rows (M, D) of those that could be read."""

    @property
    def kept(self) -> Sequence[int]:
        """Their places in the list (M,)."""

    @property
    def failures(self) -> Sequence[tuple[int, str]]:
        """Place and reason of the others."""

    @property
    def spans(self) -> Sequence[tuple[float, float] | None]:
        """Start and end in seconds of the window that a row is for (M,); None where it is for the whole."""


class EncodedSequence(Protocol):
    """What became of a video or a document."""

    @property
    def segments(self) -> Sequence[Any]:
        """Its frames, stretches of sound or pages: `modality`, `vector` (D,), and `start` and `end`, or `page`."""


class EmbeddingModel(NamedModel, Protocol):
    """What building needs of a model; `onepeace.Embedder` has it.

    >>> model.modalities
    ('text', 'image', 'audio')
    >>> encoded = model.encode_many([onepeace.Image("dog.jpg"), onepeace.Image("gone.jpg")])
    >>> encoded.vectors.shape, encoded.kept, [place for place, reason in encoded.failures]
    ((1, 512), [0], [1])
    >>> [segment.modality for segment in model.encode_sequence(onepeace.Sequence(["a dog", "rain"])).segments]
    ['text', 'text']
    """

    @property
    def modalities(self) -> Sequence[str]:
        """What it embeds: "text", "image", "audio"."""

    def encode_many(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        windows: bool = False,
    ) -> Encoded:
        """Embed a mixed list, leaving out what cannot be read; with `windows` long sounds give a row a window."""

    def encode_sequence(
        self, source: Any, *, batch_size: int = 32, show_progress_bar: bool | None = None
    ) -> EncodedSequence:
        """Embed what a video or document consists of. Raises ValueError where it cannot be read."""


class Engine(ABC):
    """Where a model runs.

    >>> engine, report = LocalEngine(model), BuildReport()
    >>> engine.items_at_once(BuildConfig())
    512
    >>> [(items, vectors)] = engine.embed([Item("dog.jpg", "image", "dog.jpg")], BuildConfig(), report)
    >>> items[0].id, vectors.shape, report.failed
    ('dog.jpg', (1, 512), [])
    """

    name: str  # of the model, with its fingerprint and dimension
    fingerprint: str
    dimension: int
    modalities: Sequence[str]

    @abstractmethod
    def items_at_once(self, config: BuildConfig) -> int:
        """How many items `embed` should be given; bounds memory."""

    @abstractmethod
    def embed(
        self, items: list[Item], config: BuildConfig, report: BuildReport
    ) -> Iterator[tuple[list[Item], npt.NDArray[np.float32]]]:
        """Yield every item that can be embedded once, in any order, some at a time, with unit rows (N, D).

        Of a video or document there is an item for each part, all of them together, and with `config.windows` of a long
        sound. Why others cannot be embedded is written into `report`.
        """


class LocalEngine(Engine):
    """A model in this process.

    >>> build_store(["dog.jpg"], "my-store", LocalEngine(model)).added  # what a model alone stands for
    1
    """

    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model
        self.name, self.fingerprint, self.dimension = model.name, model.fingerprint, model.dimension
        self.modalities = model.modalities

    def items_at_once(self, config: BuildConfig) -> int:
        """As many as the model sorts by length together."""
        return config.items_at_once

    def embed(
        self, items: list[Item], config: BuildConfig, report: BuildReport
    ) -> Iterator[tuple[list[Item], npt.NDArray[np.float32]]]:
        """Yield all of them together, but for videos and documents: these one by one."""
        yield from embedded(items, self.model, config, report)


def embedded(
    items: list[Item], model: EmbeddingModel, config: BuildConfig, report: BuildReport
) -> Iterator[tuple[list[Item], npt.NDArray[np.float32]]]:
    """Yield the items that could be embedded with their unit rows, and write into `report` why others could not."""
    single = [item for item in items if item.modality not in SEQUENCES]
    if single:
        yield _embedded_singly(single, model, config, report)
    for item in items:
        if item.modality in SEQUENCES:
            try:
                yield _embedded_parts(item, model, config)
            except ValueError as error:
                report.failed.append(Failure(printable(item.uri), str(error)))


def _embedded_singly(
    items: list[Item], model: EmbeddingModel, config: BuildConfig, report: BuildReport
) -> tuple[list[Item], npt.NDArray[np.float32]]:
    asked = {"windows": True} if config.windows else {}
    inputs = [model_input(item) for item in items]
    encoded = model.encode_many(inputs, batch_size=config.batch_size, show_progress_bar=False, **asked)
    report.failed += [Failure(printable(items[place].uri), reason) for place, reason in encoded.failures]
    counts = Counter(encoded.kept)
    spans = encoded.spans if config.windows else [None] * len(encoded.kept)
    found = [
        items[place] if span is None else part(items[place], "audio", Place(*span), counts[place])
        for place, span in zip(encoded.kept, spans, strict=True)
    ]
    return found, encoded.vectors


def _embedded_parts(
    item: Item, model: EmbeddingModel, config: BuildConfig
) -> tuple[list[Item], npt.NDArray[np.float32]]:
    """Return all parts of a file, whose media are not all there at once. Raises ValueError where it cannot be read."""
    source = opened(item, config, sound="audio" in model.modalities)
    found = model.encode_sequence(source, batch_size=config.batch_size, show_progress_bar=is_shown()).segments
    parts = [part(item, str(one.modality), Place(one.start, one.end, one.page), len(found)) for one in found]
    return parts, np.stack([one.vector for one in found])


def model_input(item: Item) -> Any:
    """An item as the model's `encode` takes it."""
    import onepeace

    if item.modality == "text":
        return onepeace.Text(item.metadata["text"])
    wrap = {"image": onepeace.Image, "audio": onepeace.Audio}
    return wrap[item.modality](source_of(item.uri))


def source_of(uri: str) -> Any:
    """A path, a member of a tar shard, or a cell of an Arrow or Parquet file."""
    inside = any(mark in uri for mark in MARKS)
    if (not inside and ".tar/" not in uri) or os.path.exists(uri):
        return uri
    if inside:
        return Cell(uri)
    from .shards import ShardMember

    return ShardMember(uri)
