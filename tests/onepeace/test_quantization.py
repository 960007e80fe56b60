"""Vectors of fewer digits: as sentence-transformers makes them, whatever else is in the batch."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from later import Later

import onepeace
from onepeace.quantization import PRECISIONS, default_ranges, dequantize, quantize
from retrieval.gallery import GALLERY, read_gallery

theirs_of = Later("sentence_transformers.util.quantization")


@pytest.fixture
def rows(rng: np.random.Generator) -> np.ndarray:
    rows = rng.normal(size=(200, 36)).astype(np.float32)
    rows[0, :3] = [0.0, -0.0, 1e-30]  # at the edges of bits
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "float16"])
def test_types_shapes_and_numbers_are_those_of_sentence_transformers(precision: str, rows: np.ndarray) -> None:
    ranges = np.stack([rows[50:].min(0), rows[50:].max(0)])  # some of the others lie beyond
    for own in (default_ranges(36), ranges):
        theirs = theirs_of.quantize_embeddings(rows, precision, ranges=own)
        ours = quantize(rows, precision, own if precision in ("int8", "uint8") else None)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    empty = quantize(rows[:0], precision)
    assert (empty.dtype, empty.shape) == (ours.dtype, (0, ours.shape[1]))


def test_a_number_that_never_changes_keeps_its_place(rows: np.ndarray) -> None:
    ranges = np.stack([rows.min(0), rows.max(0)])
    ranges[:, 5] = rows[:, 5] = 0.25
    np.testing.assert_array_equal(quantize(rows, "uint8", ranges), theirs_of.quantize_embeddings(rows, "uint8", ranges))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_quantising_loses_half_a_step_at_most(precision: str, rows: np.ndarray) -> None:
    back = dequantize(quantize(rows, precision), precision, dimension=36)
    assert back.dtype == np.float32
    if precision in ("binary", "ubinary"):
        np.testing.assert_array_equal(back, np.where(rows > 0, 1, -1))
    else:
        edge = default_ranges(36)[1]
        step = {"float32": 0, "float16": 2**-10, "int8": edge / 255, "uint8": edge / 255}[precision]
        assert (np.abs(back - np.clip(rows, -edge, edge)) <= step * 1.001).all()


@pytest.mark.parametrize(
    ("precision", "ranges", "message"),
    [
        ("int4", None, "must be one of float32, float16, int8, uint8, binary, ubinary, got 'int4'"),
        ("binary", np.zeros((2, 36)), "belong to precision int8 and uint8"),
        ("int8", np.zeros((36, 2)), r"shape \(2, 36\)"),
        ("uint8", np.stack([np.ones(36), np.zeros(36)]), "no lowest number above"),
        ("uint8", np.full((2, 36), np.nan), "must be finite"),
    ],
)
def test_what_cannot_be_is_refused(precision: str, ranges: np.ndarray | None, message: str, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(rows, precision, ranges)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_encode_gives_the_same_digits_alone_and_in_a_batch(precision: str, embedder: onepeace.Embedder) -> None:
    texts = ["a dog", "the cat of the night", "rain", "a street in the rain"]
    together = embedder.encode(texts, precision=precision)
    np.testing.assert_array_equal(together, quantize(embedder.encode(texts), precision))
    for text, row in zip(texts, together, strict=True):
        alone = embedder.encode(text, precision=precision)
        assert alone.dtype == row.dtype
        # Batch mates cost the seventh digit, so a number at the edge of a step may fall on its other side.
        assert np.abs(alone.astype(np.float64) - row.astype(np.float64)).max() <= (
            1 if precision.endswith("8") else 1e-3
        )
    assert embedder.encode([], precision=precision).shape == (0, together.shape[1])
    tensors = embedder.encode(texts, precision=precision, convert_to_tensor=True)
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_array_equal(tensors.numpy(), together)


def test_truncated_vectors_are_brought_to_length_one_before_they_are_quantised(embedder: onepeace.Embedder) -> None:
    whole = embedder.encode("a dog")[:16]
    np.testing.assert_array_equal(
        embedder.encode("a dog", truncate_dim=16, precision="int8"), quantize(whole / np.linalg.norm(whole), "int8")
    )


def test_ranges_of_ones_own_are_used(embedder: onepeace.Embedder) -> None:
    ranges = np.stack([np.full(embedder.dimension, -0.2), np.full(embedder.dimension, 0.3)])
    texts = ["a dog", "rain"]
    np.testing.assert_array_equal(
        embedder.encode(texts, precision="uint8", ranges=ranges),
        theirs_of.quantize_embeddings(embedder.encode(texts), "uint8", ranges=ranges),
    )


def recall_at_10(queries: np.ndarray, rows: np.ndarray, precision: str) -> float:
    exact = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    coarse = dequantize(quantize(rows, precision), precision)
    coarse /= np.linalg.norm(coarse, axis=1, keepdims=True)
    near = np.argsort(-(queries @ coarse.T), axis=1)[:, :10]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, near, strict=True)]))


def test_the_nearest_stay_the_nearest_in_the_gallery() -> None:
    model = onepeace.load("onepeace-tiny", dtype="float32")
    items = read_gallery()
    media = np.concatenate(
        [
            model.encode_images([GALLERY / item.file for item in items if item.modality == "image"]),
            model.encode_audio([GALLERY / item.file for item in items if item.modality == "audio"]),
        ]
    )
    captions = model.encode_text([item.caption for item in items])
    assert np.mean(np.abs(media) > default_ranges(512)[1]) < 1e-3  # hardly a number lies beyond the range
    for precision, least in {"float16": 0.995, "int8": 0.97, "uint8": 0.97, "binary": 0.7}.items():
        found = recall_at_10(captions, media, precision)
        logging.getLogger(__name__).info("recall@10 in the gallery, %s: %.3f", precision, found)
        assert found > least, precision


def test_the_nearest_stay_the_nearest_among_the_captions_of_the_data_pack(data_pack: Path) -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(data_pack / "manifest-test.parquet", columns=["source", "texts"])
    rows_of = (row for row in table.to_pylist() if row["source"] == "flickr8k")
    captions = [text["text"] for row in rows_of for text in row["texts"]][:600]
    rows = onepeace.load("onepeace-tiny").encode_text(captions)
    for precision, least in {"int8": 0.97, "binary": 0.7}.items():
        found = recall_at_10(rows[:100], rows, precision)
        logging.getLogger(__name__).info("recall@10 in the data pack, %s: %.3f", precision, found)
        assert found > least, precision
