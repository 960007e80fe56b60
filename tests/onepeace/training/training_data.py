"""The training batches of a folder of media, without a trainer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from training_model import MODEL

from encoders.modality import Modality
from onepeace.manifest import Shards
from onepeace.model.config import ModelConfig
from onepeace.training.augment import AugmentConfig, build_reader
from onepeace.training.data import Source, Stream, StreamConfig, TrainingSteps
from onepeace.training.rows import load_rows
from onepeace.training.texts import TextBank

CONFIG = ModelConfig.from_dict(MODEL)


def load(
    folder: Path,
    stream: StreamConfig,
    rank: int = 0,
    processes: int = 1,
    distilled: int = 0,
    augment: AugmentConfig = AugmentConfig(),  # noqa: B008 - frozen
) -> TrainingSteps:
    """Return the steps of one stream."""
    modality = Modality(stream.modality)
    reader = build_reader(CONFIG, modality, augment)
    sources = [
        Source(config, load_rows(config, modality, folder / "manifest.jsonl"), Shards(folder), reader)
        for config in stream.sources
    ]
    texts = dict.fromkeys(text for source in sources for row in source.rows for text in row.texts)
    preprocessor = CONFIG.adapters[Modality.TEXT].preprocessor(Tokenizer.from_file(str(folder / "tokenizer.json")))
    bank = TextBank(list(texts), preprocessor)
    return TrainingSteps([Stream(stream, sources, bank, {})], bank, distilled, 7, rank, processes)
