"""Measuring a model on a manifest: retrieval where rows have captions of their own, zero-shot where they share labels.

A fold or a source is chosen with `where`; nothing here trains, and nothing chooses by what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.media import Audio, Image
from encoders.tokens import Modality
from onepeace.embedder import Embedder
from onepeace.manifest import ManifestError, Shards, read_manifest
from onepeace.metrics import accuracy, recall_at_k
from onepeace.zero_shot import AUDIO_TEMPLATES, IMAGE_TEMPLATES, ZeroShotClassifier

KS = (1, 5, 10)
TEMPLATES = {Modality.IMAGE: IMAGE_TEMPLATES, Modality.AUDIO: AUDIO_TEMPLATES}
WRAPPERS: dict[Modality, Callable[[bytes], Any]] = {Modality.IMAGE: Image, Modality.AUDIO: Audio}


@dataclass(frozen=True)
class Measurement:
    """One figure."""

    source: str
    task: str  # "text to image", "zero-shot image", ...
    metric: str  # "R@1", "accuracy"
    value: float  # percent
    queries: int
    candidates: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def evaluate(
    model: Embedder,
    manifests: Sequence[Path],
    where: Mapping[str, Sequence[str]] | None = None,
    templates: Sequence[str] | None = None,
    *,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
) -> list[Measurement]:
    """Return the figures of each source in the manifests, their rows taken together.

    A source whose rows share labels is classified zero-shot among all its labels, each in `templates`; one whose rows
    have texts of their own is searched both ways, every text a query, every text of a row a right answer for it.
    `where` keeps rows whose columns have one of the given values, compared as text.

    Raises:
        ManifestError: a manifest or shard cannot be read, an unknown column, or no row is left.
    """
    rows = _rows(manifests, where or {})
    measurements: list[Measurement] = []
    for source in sorted({row["source"] for row in rows}):
        own = [row for row in rows if row["source"] == source]
        for modality in TEMPLATES:
            members = [row for row in own if row.get(modality) and model.supports(modality)]
            # A spoken description names its picture too; the picture's own row is where it is measured.
            if modality is Modality.IMAGE:
                members = [row for row in members if not row.get("image_ref")]
            if len(members) < 2:
                continue
            media = _embed_media(model, modality, members, batch_size, show_progress_bar)
            if _shares_labels(members):
                measurements.append(_zero_shot(model, source, modality, members, media, templates))
            else:
                measurements += _retrieval(model, source, modality, members, media, batch_size)
    if not measurements:
        raise ManifestError(
            f"nothing to measure in {', '.join(map(str, manifests))}: a manifest has a column image or audio, and "
            "text, texts or label beside it"
        )
    return measurements


def _rows(manifests: Sequence[Path], where: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in manifests:
        shards = Shards(path.parent)
        for row in read_manifest(path):
            if unknown := [column for column in where if column not in row]:
                raise ManifestError(f"{path} has no column {unknown[0]}; it has {', '.join(row)}")
            if all(str(row[column]) in values for column, values in where.items()):
                rows.append({"source": path.stem, **row, "shards": shards})
    if not rows:
        kept = ", ".join(f"{column}={'|'.join(values)}" for column, values in where.items())
        raise ManifestError(f"no row of {', '.join(map(str, manifests))} has {kept}")
    return rows


def _shares_labels(rows: Sequence[Mapping[str, Any]]) -> bool:
    labels = [row.get("label") for row in rows]
    return all(labels) and 2 <= len(set(labels)) <= len(labels) / 2


def _embed_media(
    model: Embedder, modality: Modality, rows: Sequence[Mapping[str, Any]], batch_size: int, progress: bool | None
) -> NDArray[np.float32]:
    media = [WRAPPERS[modality](row["shards"].read(row[modality])) for row in rows]
    vectors: NDArray[np.float32] = model.encode(media, batch_size=batch_size, show_progress_bar=progress)
    return vectors


def _zero_shot(
    model: Embedder,
    source: str,
    modality: Modality,
    rows: Sequence[Mapping[str, Any]],
    media: NDArray[np.float32],
    templates: Sequence[str] | None,
) -> Measurement:
    labels = sorted({str(row["label"]) for row in rows})
    classifier = ZeroShotClassifier(model, labels, templates or TEMPLATES[modality])
    predicted = [labels[i] for i in classifier.probabilities(media).argmax(axis=1)]
    value = accuracy(predicted, [str(row["label"]) for row in rows])
    return Measurement(source, f"zero-shot {modality}", "accuracy", value, len(rows), len(labels))


def _retrieval(
    model: Embedder,
    source: str,
    modality: Modality,
    rows: Sequence[Mapping[str, Any]],
    media: NDArray[np.float32],
    batch_size: int,
) -> Iterable[Measurement]:
    pairs = [(i, text) for i, row in enumerate(rows) for text in row_texts(row)]
    owners = np.array([i for i, _ in pairs])
    texts = model.encode_text([text for _, text in pairs], batch_size=batch_size)
    scores = texts @ media.T
    ids = np.arange(len(rows))
    for task, recalls, queries, candidates in (
        (f"text to {modality}", recall_at_k(scores, owners, ids, KS), len(owners), len(rows)),
        (f"{modality} to text", recall_at_k(scores.T, ids, owners, KS), len(rows), len(owners)),
    ):
        for k, value in recalls.items():
            yield Measurement(source, task, f"R@{k}", value, queries, candidates)


def row_texts(row: Mapping[str, Any], language: str = "en") -> list[str]:
    """Return the captions of a manifest row: its `texts` in `language` (or all, where there is none), or its `text`."""
    entries = row.get("texts")
    if not entries:
        return [str(row["text"])] if row.get("text") else []
    texts = [entry if isinstance(entry, str) else entry["text"] for entry in entries]
    own = [e["text"] for e in entries if not isinstance(e, str) and e.get("lang") == language]
    return own or texts
