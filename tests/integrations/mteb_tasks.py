"""Two small tasks of MTEB's kinds, on sounds of the gallery."""

from __future__ import annotations

from typing import Any

import datasets
from mteb import mocks
from mteb.mocks.mock_run import mock_run

from retrieval.gallery import GALLERY, read_gallery

__all__ = ["SOUNDS", "SoundsByCaption", "SoundsByLabel", "mock_run", "mocks", "of_files"]

SOUNDS = [item for item in read_gallery() if item.modality == "audio"][:12]


def of_files(items: list[Any]) -> list[dict[str, Any]]:
    return [{"bytes": (GALLERY / item.file).read_bytes(), "path": None} for item in items]


class SoundsByCaption(mocks.MockAny2AnyRetrievalT2ATask):
    """Twelve sounds, each to be found by its caption."""

    def load_data(self, **_: Any) -> None:
        count = range(len(SOUNDS))
        queries = {"id": [f"q{n}" for n in count], "text": [item.caption for item in SOUNDS]}
        corpus = {"id": [f"d{n}" for n in count], "audio": of_files(SOUNDS)}
        self.queries = datasets.DatasetDict(test=datasets.Dataset.from_dict(queries))
        rows = datasets.Dataset.from_dict(corpus).cast_column("audio", datasets.Audio())
        self.corpus = datasets.DatasetDict(test=rows)
        self.relevant_docs = {"test": {f"q{n}": {f"d{n}": 1} for n in count}}
        self.data_loaded = True


class SoundsByLabel(mocks.MockAudioZeroshotClassificationTask):
    """The same sounds, each to be told by its concept."""

    def load_data(self, **_: Any) -> None:
        labels = self.get_candidate_labels()
        columns = {"audio": of_files(SOUNDS), "label": [labels.index(item.concept) for item in SOUNDS]}
        rows = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
        self.dataset = datasets.DatasetDict(test=rows)
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        return sorted({item.concept for item in SOUNDS})
