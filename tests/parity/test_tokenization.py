"""Our token ids against the official ones, on the full official vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from encoders.text import TextPreprocess, TextPreprocessor, official_tokenizer


@pytest.fixture(scope="module")
def official(goldens: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((goldens / "misc" / "tokenization.json").read_text(encoding="utf-8"))
    return figures


@pytest.fixture(scope="module")
def tokenizer(goldens: Path) -> Tokenizer:
    return official_tokenizer(goldens / "vocab")


@pytest.mark.parametrize("normalise", ["hub", "dataset"])
def test_every_text_gets_its_official_ids(official: dict[str, Any], tokenizer: Tokenizer, normalise: Any) -> None:
    preprocess = TextPreprocessor(TextPreprocess(normalise=normalise), tokenizer)
    assert len(official["rows"]) > 60
    for row in official["rows"]:
        assert preprocess(row["text"]).tolist() == row[f"{normalise}_ids"], row["text"]


def test_the_vocabulary_has_the_official_size_and_special_ids(official: dict[str, Any], tokenizer: Tokenizer) -> None:
    config = TextPreprocess()
    assert tokenizer.get_vocab_size() == config.vocabulary_size == official["dict_size"]
    assert (config.pad_id, config.unknown_id, config.end_ids) == (official["pad"], official["unk"], (official["eos"],))
    assert sorted(tokenizer.get_vocab().values()) == list(range(config.vocabulary_size))  # holes would not be saved


def test_a_batch_is_padded_as_the_official_one(official: dict[str, Any], tokenizer: Tokenizer) -> None:
    preprocess = TextPreprocessor(TextPreprocess(), tokenizer)
    (ids,) = preprocess.collate([preprocess(row["text"]) for row in official["rows"][:12]])
    assert ids.dtype == torch.int64
    assert ids.tolist() == official["batch_first12"]


def test_the_tokenizer_file_gives_the_same_ids(official: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    preprocess = TextPreprocessor(TextPreprocess(), Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
    for row in official["rows"]:
        assert preprocess(row["text"]).tolist() == row["hub_ids"], row["text"]


def test_pieces_outside_a_small_dictionary_become_unknown(goldens: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("encoder.json", "vocab.bpe"):
        (tmp_path / name).symlink_to(goldens / "vocab" / name)
    (tmp_path / "dict.txt").symlink_to(goldens / "tinyA" / "dict.txt")
    small = TextPreprocessor(TextPreprocess(vocabulary_size=304), official_tokenizer(tmp_path))
    full = TextPreprocessor(TextPreprocess(), tokenizer)
    text = "the cat and the supercalifragilistic dog"
    # The small dictionary is the beginning of the full one.
    assert small(text).tolist() == [id_ if id_ < 304 else 3 for id_ in full(text).tolist()]
    assert 3 in small(text)
