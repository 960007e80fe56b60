"""Labelled pictures, sounds or texts for a head, as features of a frozen trunk that are computed once.

B: batch, L: tokens with the class token, D: width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from encoders.media import Audio, Image
from encoders.tokens import Modality
from onepeace.evaluate.rows import Row, read_inputs
from onepeace.inputs import parts_of
from onepeace.model.task_model import TaskModel
from onepeace.reader import InputReader
from onepeace.training.features import Features, build_features, cache_key, weights_key

WRAPPERS: dict[Modality, Any] = {Modality.IMAGE: Image, Modality.AUDIO: Audio}

Batch = tuple[Tensor, Tensor, Tensor]  # features (B, L, D), their padding (B, L), labels (B,)


class LabelledFeatures(Dataset[tuple[Tensor, int]]):
    """The rows of one list that could be read: features (L, D) and the label's number."""

    def __init__(self, features: Features, targets: Sequence[int]) -> None:
        self.features, self.targets = features, targets
        self.readable = features.readable.nonzero()[0].tolist()

    def __len__(self) -> int:
        return len(self.readable)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        row = self.readable[item]
        return self.features[row].float(), self.targets[row]


class TaskData(L.LightningDataModule):
    """Rows of manifests, or of folders with one sub-folder a class, with their labels.

    Args:
        train: manifests (Parquet, CSV, JSONL) or class folders to learn from.
        validation: those to measure on; their labels must occur in `train`.
        modality: image or audio.
        where: column -> value, or values, that rows must have.
        cache: folder that keeps the features.
        batch_size: rows of a step.

    Raises:
        ValueError: no rows, fewer than two labels, or a label that is not learned.
    """

    def __init__(
        self,
        train: list[Path],
        validation: list[Path],
        modality: Literal["image", "audio"],
        where: dict[str, str | list[str]] | None = None,
        cache: Path = Path("runs/features"),
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {batch_size}")
        self.modality, self.cache, self.batch_size = Modality(modality), Path(cache), batch_size
        conditions = {k: [v] if isinstance(v, str) else v for k, v in (where or {}).items()}
        self.rows = {
            name: labelled_rows(paths, conditions, self.modality, name)
            for name, paths in (("train", train), ("validation", validation))
        }
        self.labels = tuple(sorted({str(row.label) for row in self.rows["train"]}))
        if len(self.labels) < 2:
            raise ValueError(f"data.train has one label only: {', '.join(self.labels)}")
        if unknown := sorted({str(row.label) for row in self.rows["validation"]} - set(self.labels)):
            raise ValueError(f"data.validation has labels that data.train lacks: {', '.join(unknown[:5])}")
        self._sets: dict[str, LabelledFeatures] = {}

    def setup(self, stage: str) -> None:
        """Compute what the module's trunk makes of each row, or read it from the cache."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        numbers = {label: number for number, label in enumerate(self.labels)}
        for name, rows in self.rows.items():
            if name not in self._sets:
                features = trunk_features(module.model, module.reader, rows, self.modality, self.cache, name)
                self._sets[name] = LabelledFeatures(features, [numbers[str(row.label)] for row in rows])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Return shuffled batches."""
        return DataLoader(self._sets["train"], self.batch_size, shuffle=True, collate_fn=collate)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Return batches in order."""
        return DataLoader(self._sets["validation"], self.batch_size, collate_fn=collate)

    def description(self) -> dict[str, Any]:
        """Return what the model card says of the rows that train: source -> rows and licences."""
        by_source: dict[str, list[Row]] = {}
        for row in self.rows["train"]:
            by_source.setdefault(row.source, []).append(row)
        return {
            source: {"rows": len(rows), "licences": sorted({row.licence for row in rows if row.licence})}
            for source, rows in by_source.items()
        }


def labelled_rows(
    paths: Sequence[Path], where: Mapping[str, Sequence[str]], modality: Modality, name: str
) -> list[Row]:
    """Return the rows that have a label and a medium of the modality.

    Raises:
        ValueError: there is none.
    """
    rows = [row for row in read_inputs(paths, where).rows if row.label is not None and modality in row.media]
    if not rows:
        raise ValueError(f"data.{name}: no row has a label and {modality}")
    return rows


def trunk_features(
    model: TaskModel, reader: InputReader, rows: Sequence[Row], modality: Modality, cache: Path, title: str
) -> Features:
    """Return the tokens (L, D) that a frozen trunk makes of each row, of a long sound's first window.

    They are computed once for the same rows and weights. Rows that cannot be read are logged and stay empty.
    """
    preprocessor = reader.preprocessors[modality]

    def read(item: int) -> Tensor:
        (part,) = parts_of(WRAPPERS[modality](rows[item].media[modality].open()))
        return reader.read(part)[0][0]

    @torch.no_grad()
    def encode(items: list[Tensor]) -> list[Tensor]:
        device = next(model.parameters()).device
        inputs = tuple(tensor.to(device) for tensor in preprocessor.collate(items))
        (features,) = model.passes({modality: inputs})
        return [x_LD[~padding_L] for x_LD, padding_L in zip(features.embeddings, features.padding, strict=True)]

    parts = {
        "trunk": [weights_key(model.adapters), weights_key(model.fusion)],
        "config": model.config.to_dict(),
        "rows": [row.id for row in rows],
    }
    training = model.training
    model.eval()
    features = build_features(cache / f"{title}-{modality}-{cache_key(parts)}", len(rows), read, encode, title=title)
    model.train(training)
    return features


def collate(items: Sequence[tuple[Tensor, int]]) -> Batch:
    """Return features padded with zeros, where they are padding, and labels."""
    lengths_B = torch.tensor([len(features) for features, _ in items])
    features_BLD = pad_sequence([features for features, _ in items], batch_first=True)
    padding_BL = torch.arange(features_BLD.shape[1]) >= lengths_B[:, None]
    return features_BLD, padding_BL, torch.tensor([label for _, label in items])
