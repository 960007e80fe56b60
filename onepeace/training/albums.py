"""Albums under Lightning: items that a frozen model embedded once, put together anew for every step, and questions."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from encoders.modality import Modality
from onepeace.embedder import Embedder
from onepeace.manifest import Shards
from onepeace.training.album_counts import CountBatch, counted_batch
from onepeace.training.album_questions import Pointed, Stated, pointed, stated
from onepeace.training.features import build_features, cache_key
from onepeace.training.item_set import Items
from onepeace.training.rows import Row, SourceConfig, load_rows

NUMBERED = 400  # the highest number that an item is given
MEASURED = 20  # items of an album that is measured on
OTHER_ALBUMS = 3  # beside the right one, that a text is to be told from


@dataclass(frozen=True, kw_only=True)
class ItemsConfig:
    """Pictures or sounds that albums are made of."""

    modality: Literal["image", "audio"]
    sources: tuple[SourceConfig, ...]


class AlbumBatch(NamedTuple):
    """Albums and what is asked of them. B: albums, N: items of the longest one."""

    vectors: Tensor  # (B, N, D)
    numbers: Tensor  # (B, N)
    padding: Tensor  # (B, N) bool
    pointed: list[tuple[int, Pointed]]  # the number of an album, and what is asked of it
    stated: list[tuple[int, Stated]]  # true and false in turn
    others: list[tuple[int, list[int]]]  # which of `pointed` tells albums apart, and the albums that it is not about
    counting: CountBatch | None = None  # other albums


class AlbumData(L.LightningDataModule):
    """Albums drawn from the rows of a manifest: pictures and sounds, half of them of one source alone.

    Args:
        items: what they are made of.
        root: folder of the manifests; None: ONEPEACE_DATA, or ../shared/data.
        manifest: the training rows, below `root`.
        validation: the rows of albums to measure on.
        cache: folder that keeps the items' vectors.
        albums: of a step.
        most: items of an album at most.
        steps_per_epoch: between checkpoints and measurements.
        validation_albums: that are measured on, of 20 items each.
        seed: of all that is drawn.
    """

    def __init__(
        self,
        items: list[ItemsConfig],
        root: Path | None = None,
        manifest: Path = Path("manifest-train.parquet"),
        validation: Path = Path("manifest-val.parquet"),
        cache: Path = Path("runs/features"),
        albums: int = 32,
        most: int = 16,
        steps_per_epoch: int = 100,
        validation_albums: int = 64,
        seed: int = 3407,
    ) -> None:
        super().__init__()
        if not items:
            raise ValueError("data.items is empty: name at least one modality")
        if most < 2 or albums <= OTHER_ALBUMS:
            raise ValueError(
                f"data.most must be at least 2 and data.albums above {OTHER_ALBUMS}, got {most} and {albums}"
            )
        self.items_configs, self.cache = items, cache
        self.root = root or Path(os.environ.get("ONEPEACE_DATA", "../shared/data"))
        self.manifests = {"train": self.root / manifest, "validation": self.root / validation}
        self.albums, self.most, self.steps_per_epoch, self.seed = albums, most, steps_per_epoch, seed
        self.validation_albums = validation_albums
        self._rows: dict[str, list[list[Row]]] = {}
        self._items: dict[str, Items] = {}

    def check(self) -> None:
        """Read all manifests.

        Raises:
            ManifestError: one cannot be read, or lacks what its source asks for.
        """
        for split, manifest in self.manifests.items():
            self._rows[split] = [
                load_rows(source, Modality(config.modality), source.manifest or manifest)
                for config in self.items_configs
                for source in config.sources
            ]

    def setup(self, stage: str) -> None:
        """Embed the items, or read their vectors from the cache."""
        if self._items:
            return
        self.check()
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        self._items = {split: self._embedded(module, split) for split in self.manifests}

    @property
    def train_items(self) -> Items:
        """What albums that train are made of."""
        return self._items["train"]

    def _embedded(self, module: Any, split: str) -> Items:
        sources = [(config.modality, source) for config in self.items_configs for source in config.sources]
        vectors: list[Tensor] = []
        kept: list[Row] = []
        members: list[list[int]] = []
        for (modality, source), rows in zip(sources, self._rows[split], strict=True):
            shards = Shards((source.manifest or self.manifests[split]).parent)
            found, readable = embedded_rows(
                module.embedder,
                Modality(modality),
                rows,
                shards,
                self.cache,
                f"{split} {source.name} {modality} vectors",
            )
            members.append(list(range(len(kept), len(kept) + len(found))))
            vectors.append(found)
            kept += [rows[i] for i in readable]
        weights = [len(listed) ** 0.5 for listed in members]
        return Items(torch.cat(vectors), [row.texts for row in kept], [row.concept for row in kept], members, weights)

    def train_dataloader(self) -> DataLoader[AlbumBatch]:
        """Return an epoch of batches, drawn anew in each."""
        return DataLoader(_Steps(self, self._items["train"], self.steps_per_epoch), batch_size=None)

    def val_dataloader(self) -> DataLoader[AlbumBatch]:
        """Return the batches that are measured on."""
        return DataLoader(_Measured(self, self._items["validation"]), batch_size=None)

    def with_counting(
        self, batch: AlbumBatch, items: Items, counts: tuple[int, int], draw: random.Random
    ) -> AlbumBatch:
        """Add albums in which things are counted, half as many, where the tower learns to count."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        if not module.model.config.counting:
            return batch
        return batch._replace(counting=counted_batch(items, self.albums // 2, counts, draw))

    def description(self) -> dict[str, Any]:
        """Return what the model card says of the rows that train: source -> rows and licences."""
        if not self._rows:
            self.check()
        sources = [source for config in self.items_configs for source in config.sources]
        described: dict[str, Any] = {}
        for source, rows in zip(sources, self._rows["train"], strict=True):
            told = described.setdefault(source.name, {"rows": 0, "licences": []})
            told["rows"] += len(rows)
            told["licences"] = sorted({*told["licences"], *(row.licence for row in rows if row.licence)})
        return described


def embedded_rows(
    embedder: Embedder, modality: Modality, rows: Sequence[Row], shards: Shards, cache: Path, title: str
) -> tuple[Tensor, list[int]]:
    """Return unit vectors (M, D) of the rows that can be read, from the cache or computed now, and which these are."""

    def read(number: int) -> Any:
        return embedder.reader.windows(modality, shards.read(rows[number].media))[0]  # of a long sound the first

    def encode(windows: list[Any]) -> list[Tensor]:
        return list(torch.from_numpy(embedder.embed_windows(modality, windows))[:, None])

    key = cache_key({"model": embedder.fingerprint, "media": [row.media for row in rows], "folder": str(shards.folder)})
    folder = cache / f"{title.replace(' ', '-')}-{key}"
    features = build_features(folder, len(rows), read, encode, title=title)
    readable = np.flatnonzero(features.readable)
    vectors = torch.from_numpy(np.array(features.pooled[readable], np.float32))
    return torch.nn.functional.normalize(vectors, dim=-1), readable.tolist()


def drawn_album(items: Items, count: int, draw: random.Random) -> list[int]:
    """Return items of one source, or as often of all."""
    of_one = draw.random() < 0.5
    chosen = (
        draw.choices(items.sources, items.weights, k=1) * count
        if of_one
        else draw.choices(items.sources, items.weights, k=count)
    )
    return [draw.choice(source) for source in chosen]


def drawn_numbers(count: int, draw: random.Random) -> list[int]:
    """Return ascending numbers: from 1, from anywhere, or with gaps. So all numbers are learnt in short albums."""
    kind = draw.random()
    first = 1 if kind < 0.3 else draw.randint(1, NUMBERED + 1 - count)
    if kind < 0.65:
        return list(range(first, first + count))
    return sorted(draw.sample(range(1, NUMBERED + 1), count))


def drawn_batch(
    items: Items, albums: int, counts: tuple[int, int], draw: random.Random, numbered: bool = True
) -> AlbumBatch:
    """Return albums of so many items at least and at most, with questions."""
    vectors, numbers, asked, told = [], [], [], []
    for album in range(albums):
        count = draw.randint(*counts)
        chosen = drawn_album(items, count, draw)
        given = drawn_numbers(count, draw) if numbered else list(range(1, count + 1))
        texts, concepts = [items.texts[i] for i in chosen], [items.concepts[i] for i in chosen]
        asked += [(album, question) for question in pointed(texts, concepts, given, draw)]
        told += [(album, statement) for statement in stated(texts, concepts, draw)]
        vectors.append(items.vectors[chosen])
        numbers.append(torch.tensor(given))
    telling = [n for n, (_, question) in enumerate(asked) if question.by == "content"][: albums // 4]
    others = [(n, draw.sample([a for a in range(albums) if a != asked[n][0]], OTHER_ALBUMS)) for n in telling]
    padding = torch.nn.utils.rnn.pad_sequence([torch.zeros(len(n), dtype=torch.bool) for n in numbers], True, True)
    return AlbumBatch(
        torch.nn.utils.rnn.pad_sequence(vectors, True),
        torch.nn.utils.rnn.pad_sequence(numbers, True, 1),
        padding,
        asked,
        told,
        others,
    )


class _Steps(Dataset[AlbumBatch]):
    """An epoch of steps; each has its own seed, so that a run that goes on sees what it would have seen."""

    def __init__(self, data: AlbumData, items: Items, steps: int) -> None:
        self.data, self.items, self.steps = data, items, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> AlbumBatch:
        assert self.data.trainer is not None
        draw = _generator(self.data.seed, "train", self.data.trainer.current_epoch, number)
        batch = drawn_batch(self.items, self.data.albums, (1, self.data.most), draw)
        return self.data.with_counting(batch, self.items, (1, self.data.most), draw)


class _Measured(Dataset[AlbumBatch]):
    """The same albums each time, of so many items, numbered from 1."""

    def __init__(self, data: AlbumData, items: Items) -> None:
        self.data, self.items = data, items

    def __len__(self) -> int:
        return -(-self.data.validation_albums // self.data.albums)

    def __getitem__(self, number: int) -> AlbumBatch:
        draw = _generator(self.data.seed, "validation", 0, number)
        batch = drawn_batch(self.items, self.data.albums, (MEASURED, MEASURED), draw, numbered=False)
        return self.data.with_counting(batch, self.items, (MEASURED, MEASURED), draw)


def _generator(*parts: object) -> random.Random:
    return random.Random(" ".join(map(str, parts)))  # noqa: S311 - no secret
