"""From manifests to training batches: sources, the streams that mix them, and the batch of each step.

A batch is a pure function of (seed, step): a run that goes on from a checkpoint, on any number of processes, sees what
an uninterrupted one would have seen. B: rows of this process, N: texts, D: width of the teacher's vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from encoders.tokens import Modality
from onepeace.manifest import ManifestError, Shards, read_manifest
from onepeace.training.augment import Reader, collate_features
from onepeace.training.features import Features
from onepeace.training.texts import TextBank, fill

log = logging.getLogger(__name__)

Values = str | int | list[str] | list[int]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Rows of a manifest that train together, and the texts they are paired with."""

    source: str | None = None  # value of the manifest's column `source`; None: every row
    manifest: Path | None = None  # another than the data's own
    columns: Mapping[str, str] = field(default_factory=dict)  # our name of a column -> the manifest's own
    where: Mapping[str, Values] = field(default_factory=dict)  # column -> value or values that are kept
    exclude: Mapping[str, Values] = field(default_factory=dict)  # column -> value or values that are left out
    weight: float = 1.0  # share of the stream's batch, relative to its other sources
    languages: tuple[str, ...] = ("en",)
    own_texts: int | None = None  # how many of a row's own texts; None: all
    templates: tuple[str, ...] = ()  # further texts: "{}" stands for the row's label
    articles: bool = False  # fill each template with "a" or "an" in front of the label too
    positives: str = "id"  # column whose equal values make rows and texts match: id, label, ...
    views: int = 1  # cached views: the plain one and altered ones
    # The longest text of a row that is used, in characters: lists of keywords run long.
    max_characters: int = 220

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.weight <= 0.0:
            raise ValueError(f"sources.weight must be positive, got {self.weight}")
        if self.views < 1:
            raise ValueError(f"sources.views must be at least 1, got {self.views}")
        if unfilled := [template for template in self.templates if "{}" not in template]:
            raise ValueError(f"sources.templates need {{}} for the label, got {unfilled[0]!r}")

    @property
    def name(self) -> str:
        """Return what logs and caches call it."""
        return self.source or (self.manifest.stem if self.manifest else "all")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Pairs of one modality and text: every step takes one batch of every stream."""

    modality: str  # image or audio
    batch_size: int  # over all processes
    sources: list[SourceConfig]
    every_label: bool = False  # one text of each label of the stream joins the keys of every batch
    train_text: bool = True  # False: the texts of this stream are fixed targets

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        check_media(self.modality, "streams.modality")
        if self.batch_size < 2 or not self.sources:
            raise ValueError(f"streams: {self.modality} needs a batch_size of at least 2 and at least one source")


def check_media(modality: str, where: str) -> None:
    """Refuse what no text can be paired with.

    Raises:
        ValueError: not the name of a modality, or text itself.
    """
    known = [name for name in Modality if name is not Modality.TEXT]
    if modality not in known:
        raise ValueError(f"{where} must be one of {', '.join(known)}, got {modality!r}")


@dataclass(frozen=True)
class Row:
    """One medium and the texts that fit it."""

    id: str
    media: str  # `SHARD.tar/MEMBER` or a path, below the manifest's folder
    concept: str  # rows and texts of one concept match
    texts: tuple[str, ...]
    licence: str = ""


@dataclass  # not frozen: Lightning moves the tensors of a batch in place
class PairBatch:
    """Media and texts of one step, of one process. The first B texts belong to the media, row by row."""

    modality: Modality
    media: tuple[Any, ...]  # arguments of the adapter, or of its `from_features`
    cached: bool  # media are features
    ids: Tensor  # (N, L) token ids
    media_concepts: Tensor  # (B,)
    text_concepts: Tensor  # (N,)
    train_text: bool = True
    media_teacher: Tensor | None = None  # (B, D)
    text_teacher: Tensor | None = None  # (N, D)
    tags: Tensor | None = None  # (B, M) soft labels, rows adding up to one
    tag_ids: Tensor | None = None  # (M, L) token ids of what each label says

    def __len__(self) -> int:
        """Return B."""
        return len(self.media_concepts)


@dataclass
class StepBatch:
    """Everything of one step."""

    step: int
    pairs: tuple[PairBatch, ...]
    ids: Tensor | None = None  # (N, L) of texts that only learn from the teacher
    text_teacher: Tensor | None = None  # (N, D)


def load_rows(config: SourceConfig, modality: Modality, manifest: Path) -> list[Row]:
    """Return the rows of a source that have the modality and a text.

    Raises:
        ManifestError: an unreadable manifest, an unknown column, or no row is left.
    """
    path = config.manifest or manifest
    table = read_manifest(path)
    columns = set(table[0]) if table else set()
    if unknown := sorted(set(config.columns.values()) - columns):
        raise ManifestError(f"{path} lacks column {', '.join(unknown)}; it has {', '.join(sorted(columns))}")
    table = [{**row, **{ours: row[theirs] for ours, theirs in config.columns.items()}} for row in table]
    columns |= set(config.columns)
    filters = [*config.where, *config.exclude, *(["source"] if config.source else [])]
    if missing := sorted({*filters, str(modality)} - columns):
        raise ManifestError(f"{path} lacks column {', '.join(missing)}; it has {', '.join(sorted(columns))}")
    rows = []
    for number, row in enumerate(table):
        wanted = config.source is None or row["source"] == config.source
        wanted = wanted and all(row[name] in _listed(values) for name, values in config.where.items())
        if not wanted or any(row[name] in _listed(values) for name, values in config.exclude.items()):
            continue
        texts = _texts(row, config)
        if row[modality] and texts:
            name = str(row.get("id") or f"{path.stem}/{number}")
            concept = name if config.positives == "id" else str(row.get(config.positives) or name).casefold()
            rows.append(Row(name, row[modality], concept, texts, str(row.get("licence") or "")))
    if not rows:
        raise ManifestError(f"{path}: no row of source {config.name} has {modality} and text")
    return rows


def _listed(values: Values) -> Sequence[Any]:
    return values if isinstance(values, list) else [values]


def _texts(row: Mapping[str, Any], config: SourceConfig) -> tuple[str, ...]:
    own = [row["text"]] if row.get("text") else []
    own += [text["text"] for text in row.get("texts") or () if text["lang"] in config.languages]
    texts = own[: config.own_texts]
    if row.get("label"):
        texts += fill(config.templates, row["label"], config.articles)
    cleaned = (" ".join(text.split()) for text in texts)
    return tuple(dict.fromkeys(text for text in cleaned if 1 < len(text) <= config.max_characters))


class Source:
    """Rows of one source with their media: cached features of several views, or files read anew each time."""

    def __init__(
        self,
        config: SourceConfig,
        rows: Sequence[Row],
        shards: Shards,
        reader: Reader,
        views: Sequence[Features] = (),
        augment: bool = True,
    ) -> None:
        self.config = config
        self.shards = shards
        self.reader = reader
        self.views = views
        self.augment = augment
        self.media_teacher: list[Tensor] = []  # (rows, D) a view
        self.tags: list[Tensor] = []  # (rows, M) a view
        self.skipped: dict[str, str] = {}  # row id -> why it could not be read
        readable = np.all([view.readable for view in views], axis=0) if views else np.ones(len(rows), bool)
        self.members: list[int] = np.flatnonzero(readable).tolist()  # rows that can be drawn
        self.rows = rows
        if not self.members:
            raise ManifestError(f"no medium of source {config.name} can be read")
        if len(self.members) < len(rows):
            log.warning("%s: %d of %d rows cannot be read", config.name, len(rows) - len(self.members), len(rows))

    def draws(self, first: int, count: int, seed: int) -> list[int]:
        """Return the rows of draws `first` to `first + count`: all rows in random order, again and again."""
        rows = []
        for draw in range(first, first + count):
            epoch, place = divmod(draw, len(self.members))
            rows.append(self.members[_permutation(len(self.members), seed, epoch)[place]])
        return rows

    def read(self, row: int, rng: np.random.Generator) -> tuple[Tensor, int, int]:
        """Return a row's medium, the row it is of, and the view.

        A file that cannot be read is counted, reported once, and the next row that can be takes its place.
        """
        if self.views:
            view = int(rng.integers(len(self.views)))
            return self.views[view][row], row, view
        for turn in range(len(self.rows)):
            candidate = (row + turn) % len(self.rows)
            try:
                data = self.shards.read(self.rows[candidate].media)
                return self.reader(data, rng if self.augment else None), candidate, 0
            except ValueError as error:  # ManifestError, MediaError
                name = self.rows[candidate].id
                if name not in self.skipped:
                    log.warning("skipped %s: %s", name, error)
                    self.skipped[name] = str(error)
        raise ManifestError(f"no medium of source {self.config.name} can be read")


@lru_cache(maxsize=64)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, count, epoch]).permutation(count)


class Stream:
    """Sources of one modality, mixed in fixed shares."""

    def __init__(
        self, config: StreamConfig, sources: Sequence[Source], bank: TextBank, concepts: dict[str, int]
    ) -> None:
        self.config = config
        self.sources = sources
        self.bank = bank
        self.shares = shares([source.config.weight for source in sources], config.batch_size)
        self.concepts = [[concepts.setdefault(row.concept, len(concepts)) for row in source.rows] for source in sources]
        self.texts = [[[bank.numbers[text] for text in row.texts] for row in source.rows] for source in sources]
        self.tag_ids: Tensor | None = None
        self.label_texts: dict[int, list[int]] = {}  # concept -> texts
        if config.every_label:
            for row_concepts, row_texts in zip(self.concepts, self.texts, strict=True):
                for concept, numbers in zip(row_concepts, row_texts, strict=True):
                    known = self.label_texts.setdefault(concept, [])
                    known.extend(number for number in numbers if number not in known)

    @property
    def pass_steps(self) -> int:
        """Return how many steps it takes until the source that takes longest has shown every row."""
        return max(-(-len(s.members) // share) for s, share in zip(self.sources, self.shares, strict=True))

    def batch(self, step: int, seed: int, rank: int, processes: int) -> PairBatch:
        """Return this process's part of the batch of a step."""
        drawn = [
            (number, row)
            for number, (source, share) in enumerate(zip(self.sources, self.shares, strict=True))
            for row in source.draws(step * share, share, seed + number)
        ]
        order = np.random.default_rng([seed, step]).permutation(len(drawn))
        mine = order[rank::processes]
        items, texts, concepts, teachers, tags = [], [], [], [], []
        for place in mine.tolist():
            number, row = drawn[place]
            source = self.sources[number]
            rng = np.random.default_rng([seed, step, place])
            item, row, view = source.read(row, rng)
            items.append(item)
            choices = self.texts[number][row]
            texts.append(choices[int(rng.integers(len(choices)))])
            concepts.append(self.concepts[number][row])
            if source.media_teacher:
                teachers.append(source.media_teacher[view][row])
            if source.tags:
                tags.append(source.tags[view][row])
        label_concepts = list(self.label_texts)
        rng = np.random.default_rng([seed, step, len(drawn)])
        texts += [numbers[int(rng.integers(len(numbers)))] for numbers in self.label_texts.values()]
        cached = bool(self.sources[0].views)
        return PairBatch(
            modality=Modality(self.config.modality),
            media=collate_features(items) if cached else self.sources[0].reader.collate(items),
            cached=cached,
            ids=self.bank.batch(texts),
            media_concepts=torch.tensor(concepts),
            text_concepts=torch.tensor(concepts + label_concepts),
            train_text=self.config.train_text,
            media_teacher=torch.stack(teachers).float() if len(teachers) == len(items) else None,
            text_teacher=self.bank.teacher(texts),
            tags=torch.stack(tags).float() if len(tags) == len(items) else None,
            tag_ids=self.tag_ids,
        )


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Return whole numbers in proportion to the weights that add up to `total` (largest remainder), each at least 1.

    Raises:
        ValueError: a weight is too small for one row a batch.
    """
    exact = [weight / sum(weights) * total for weight in weights]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    if 0 in whole:
        raise ValueError(
            f"weights {list(weights)} leave a source without a row in a batch of {total}: raise one of them"
        )
    return whole


class TrainingSteps(Dataset[StepBatch]):
    """Maps a step to its batch."""

    def __init__(
        self,
        streams: Sequence[Stream],
        bank: TextBank,
        distilled_texts: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        for stream in streams:
            if stream.config.batch_size % processes:
                raise ValueError(
                    f"streams: the {stream.config.modality} batch_size {stream.config.batch_size} "
                    f"cannot be divided among {processes} processes"
                )
        if distilled_texts % processes:
            raise ValueError(f"distilled_texts {distilled_texts} cannot be divided among {processes} processes")
        self.streams = streams
        self.bank = bank
        self.distilled_texts = distilled_texts
        self.seed, self.rank, self.processes = seed, rank, processes

    def __getitem__(self, step: int) -> StepBatch:
        """Return the batch of a step."""
        pairs = tuple(
            stream.batch(step, self.seed + 1000 * number, self.rank, self.processes)
            for number, stream in enumerate(self.streams)
        )
        if not self.distilled_texts:
            return StepBatch(step, pairs)
        rng = np.random.default_rng([self.seed, step, 7])
        numbers = rng.integers(len(self.bank), size=self.distilled_texts)[self.rank :: self.processes]
        return StepBatch(step, pairs, self.bank.batch(numbers), self.bank.teacher(numbers))
