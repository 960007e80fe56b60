"""`onepeace eval` against recall and accuracy computed by hand from the same vectors."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from little_media import picture, sound

from onepeace import Audio, Embedder, Image, ZeroShotClassifier
from onepeace.evaluate import evaluate
from onepeace.manifest import ManifestError, Shards, read_manifest

LABELS = ["dog", "cat"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    rows = []
    with tarfile.open(folder / "media.tar", "w") as archive:

        def put(name: str, data: bytes) -> str:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            return f"media.tar/{name}"

        for i in range(6):
            texts = [{"lang": "en", "text": f"a photo of {w}"} for w in ("dog", "rain")[: 1 + i % 2]]
            rows.append({"source": "captions", "image": put(f"{i}.png", picture(i)), "texts": texts, "fold": i % 3})
        for i in range(6):
            row = {"source": "sounds", "audio": put(f"{i}.flac", sound(i)), "label": LABELS[i % 2], "fold": i % 3}
            rows.append(row)
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_retrieval_and_accuracy_are_those_of_the_vectors(embedder: Embedder, manifest: Path) -> None:
    figures = {(m.source, m.task, m.metric): m for m in evaluate(embedder, [manifest])}
    images = embedder.encode([Image(picture(i)) for i in range(6)])
    texts = [(i, f"a photo of {w}") for i in range(6) for w in ("dog", "rain")[: 1 + i % 2]]
    scores = embedder.encode([text for _, text in texts]) @ images.T
    right = np.mean([scores[j].argmax() == i for j, (i, _) in enumerate(texts)])
    found = figures["captions", "text to image", "R@1"]
    assert (found.value, found.queries, found.candidates) == (pytest.approx(100 * right), 9, 6)
    classifier = ZeroShotClassifier(embedder, sorted(LABELS), ("{}", "the sound of {}", "this is a sound of {}"))
    predictions = classifier.predict([Audio(sound(i)) for i in range(6)])
    expected = 100 * np.mean([p.label == LABELS[i % 2] for i, p in enumerate(predictions)])
    assert figures["sounds", "zero-shot audio", "accuracy"].value == pytest.approx(expected)


def test_rows_are_chosen_by_their_columns(embedder: Embedder, manifest: Path) -> None:
    chosen = evaluate(embedder, [manifest], {"source": ["sounds"], "fold": ["0", "1"]})
    assert [(m.source, m.queries) for m in chosen] == [("sounds", 4)]
    with pytest.raises(ManifestError, match="no column colour"):
        evaluate(embedder, [manifest], {"colour": ["red"]})
    with pytest.raises(ManifestError, match="source=nothing"):
        evaluate(embedder, [manifest], {"source": ["nothing"]})


def test_shards_give_the_bytes_that_were_put_in(manifest: Path) -> None:
    shards = Shards(manifest.parent)
    assert shards.read("media.tar/3.png") == picture(3)
    assert shards.read("manifest.jsonl") == manifest.read_bytes()


def test_shards_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "words").write_text(folder)
        with tarfile.open(tmp_path / folder / "x.tar", "w") as archive:
            archive.add(tmp_path / folder / "words", f"{folder}.txt")
    shards = Shards(tmp_path)
    assert [shards.read(f"{folder}/x.tar/{folder}.txt") for folder in ("a", "b")] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("media.tar/nothing.png", "no member"),
        ("nothing.tar/1.png", "cannot be read"),
        ("../secret", "leaves"),
        ("/etc/passwd", "leaves"),
        ("nothing.png", "cannot be read"),
    ],
)
def test_what_is_not_there_or_outside_is_refused(reference: str, reason: str, manifest: Path) -> None:
    with pytest.raises(ManifestError, match=reason):
        Shards(manifest.parent).read(reference)


def test_a_truncated_shard_is_named(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "media.tar").write_bytes((manifest.parent / "media.tar").read_bytes()[:700])
    with pytest.raises(ManifestError, match=r"media\.tar"):
        Shards(tmp_path).read("media.tar/3.png")


@pytest.mark.parametrize(("name", "content"), [("m.parquet", b"no parquet"), ("m.xlsx", b""), ("m.jsonl", b"{broken")])
def test_a_manifest_that_cannot_be_read_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=name):
        read_manifest(tmp_path / name)
