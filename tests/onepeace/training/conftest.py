"""A whole training run in small: pictures and sounds in tar shards, a manifest, a tokenizer, a model."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from training_model import MODEL

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (250, 250, 250)}
NOTES = {"low": 220.0, "high": 880.0}  # Hz
WORDS = ("[PAD]", "[UNK]", "[END]", "a", "an", "the", "picture", "of", "sound", "note", "is", "on", "paper", "in")


@pytest.fixture(scope="session")
def small_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifest.jsonl, two tar shards, tokenizer.json and model.yaml."""
    folder = tmp_path_factory.mktemp("pack")
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    with tarfile.open(folder / "image.tar", "w") as shard:
        for number in range(24):
            colour = list(COLOURS)[number % len(COLOURS)]
            pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "png")
            _add(shard, f"{number}.png", stream.getvalue())
            texts = [f"a {colour} picture", f"the picture is {colour}", f"paper in {colour}"]
            rows.append(_row(f"picture-{number}", "colours", colour, texts, image=f"image.tar/{number}.png"))
    with tarfile.open(folder / "audio.tar", "w") as shard:
        for number in range(12):
            note = list(NOTES)[number % len(NOTES)]
            time = np.arange(int(4000 * rng.uniform(0.3, 0.6))) / 4000
            stream = io.BytesIO()
            soundfile.write(stream, 0.5 * np.sin(2 * np.pi * NOTES[note] * time), 4000, format="wav")
            _add(shard, f"{number}.wav", stream.getvalue())
            rows.append(_row(f"sound-{number}", "notes", note, [f"a {note} note"], audio=f"audio.tar/{number}.wav"))
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vocabulary = {word: number for number, word in enumerate((*WORDS, *COLOURS, *NOTES))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "model.yaml").write_text(yaml.safe_dump(MODEL))
    return folder


def _row(
    name: str, source: str, label: str, texts: list[str], image: str | None = None, audio: str | None = None
) -> dict[str, object]:
    listed = [{"lang": "en", "text": text} for text in texts]
    return {"id": name, "source": source, "label": label, "texts": listed, "image": image, "audio": audio, "fold": 1}


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))
