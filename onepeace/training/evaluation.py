"""Recall while training: sets of media and texts, the batches they are embedded in, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from encoders.modality import Modality
from onepeace.evaluate.search import Side, search_both_ways
from onepeace.training.augment import collate_features
from onepeace.training.data import Source, check_media
from onepeace.training.rows import SourceConfig
from onepeace.training.texts import TextBank

KS = (1, 5)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """A set to retrieve in, both ways. Rows and texts match where their source's `positives` column is equal."""

    name: str  # in the logs
    modality: str  # image or audio
    sources: list[SourceConfig]
    manifests: tuple[Path, ...] = (Path("manifest-val.parquet"),)
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        check_media(self.modality, f"evaluations.{self.name}.modality")
        if self.batch_size < 1 or not self.sources or not self.manifests:
            raise ValueError(f"evaluations.{self.name} needs a positive batch_size, a source and a manifest")


@dataclass  # not frozen: Lightning moves the tensors of a batch in place
class EvaluationBatch:
    """A part of an evaluation set: some of its media and some of its texts."""

    number: int  # of the set
    modality: Modality
    media: tuple[Any, ...]
    cached: bool
    ids: Tensor  # (N, L)
    media_concepts: Tensor  # (B,)
    text_concepts: Tensor  # (N,)


class EvaluationBatches(Dataset[EvaluationBatch]):
    """All batches of one evaluation set; media are plain, never altered."""

    def __init__(self, number: int, config: EvaluationConfig, sources: Sequence[Source], bank: TextBank) -> None:
        self.number, self.config, self.bank = number, config, bank
        self.media = [(source, row) for source in sources for row in source.members]
        self.concepts: dict[str, int] = {}
        for source, row in self.media:
            self.concepts.setdefault(source.rows[row].concept, len(self.concepts))
        pairs = dict.fromkeys(  # a text that several rows of a concept share counts once
            (text, self.concepts[source.rows[row].concept])
            for source, row in self.media
            for text in source.rows[row].texts
        )
        self.texts = [(bank.numbers[text], concept) for text, concept in pairs]

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.media) // self.config.batch_size)

    def __getitem__(self, index: int) -> EvaluationBatch:
        """Return a batch: the next media, and an equal share of the texts."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        media = self.media[index * self.config.batch_size : (index + 1) * self.config.batch_size]
        first, last = (len(self.texts) * i // len(self) for i in (index, index + 1))
        texts = self.texts[first:last]
        rng = np.random.default_rng(0)
        items, concepts = [], []
        for source, row in media:
            item, read, _ = source.read(row, rng)
            items.append(item)
            concepts.append(self.concepts[source.rows[read].concept])
        cached = bool(source.views)
        return EvaluationBatch(
            self.number,
            Modality(self.config.modality),
            collate_features(items) if cached else source.reader.collate(items),
            cached,
            self.bank.batch(number for number, _ in texts),
            torch.tensor(concepts),
            torch.tensor([concept for _, concept in texts]),
        )


class Recall:
    """Collects the embeddings of one evaluation set, and says how well media find texts and texts media."""

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config
        self.media: list[tuple[Tensor, Tensor]] = []
        self.texts: list[tuple[Tensor, Tensor]] = []

    def add(self, batch: EvaluationBatch, media_BD: Tensor, text_ND: Tensor) -> None:
        """Take the embeddings of a batch."""
        self.media.append((media_BD.float().cpu(), batch.media_concepts.cpu()))
        self.texts.append((text_ND.float().cpu(), batch.text_concepts.cpu()))

    def figures(self) -> dict[str, float]:
        """Return recall in percent by name, and forget what was collected."""
        media, texts = (
            Side(*(torch.cat(parts).numpy() for parts in zip(*batches, strict=True)))
            for batches in (self.media, self.texts)
        )
        self.media, self.texts = [], []
        to_text, to_media = search_both_ways(media, texts)
        name, modality = self.config.name, self.config.modality
        return {f"{name}/{modality}_to_text_r{k}": to_text.recall(k) for k in KS} | {
            f"{name}/text_to_{modality}_r{k}": to_media.recall(k) for k in KS
        }
