"""From a text to token ids, with a small byte-level BPE and a small WordPiece vocabulary."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from encoders.media import Limits, MediaError, Text
from encoders.text import TextPreprocess, TextPreprocessor, official_tokenizer
from encoders.text.preprocess import _strip_signs_and_spaces

BYTES = pre_tokenizers.ByteLevel.alphabet()  # the 256 signs that stand for the bytes
PIECES = [*sorted(BYTES), "Ġc", "at", "Ġcat", "<|endoftext|>"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the official form; the dictionary lists the pieces backwards and lacks "Ġcat"."""
    folder = tmp_path_factory.mktemp("vocabulary")
    numbers = {piece: number for number, piece in enumerate(PIECES)}
    (folder / "encoder.json").write_text(json.dumps(numbers))
    (folder / "vocab.bpe").write_text("#version: 0.2\nĠ c\na t\nĠc at\n", encoding="utf-8")
    listed = [str(numbers[piece]) for piece in reversed(PIECES) if piece != "Ġcat"] + ["madeupword0000"]
    (folder / "dict.txt").write_text("".join(f"{row} 1\n" for row in listed))
    return folder


@pytest.fixture(scope="module")
def byte_level(vocabulary: Path) -> TextPreprocessor:
    size = 4 + len(PIECES)  # one piece less, one made-up word more
    return TextPreprocessor(TextPreprocess(vocabulary_size=size, max_tokens=70), official_tokenizer(vocabulary))


@pytest.fixture(scope="module")
def word_piece() -> TextPreprocessor:
    """As BERT models ship it: it lowers case, and would add signs, cut to 3 and pad to 8, which must not happen."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "bark", "##ing", "[", "]", "se", "##p"]
    tokenizer = Tokenizer(WordPiece({word: id_ for id_, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    config = TextPreprocess(
        max_tokens=6,
        lower=False,
        prefix="",
        normalise="none",
        end_ids=(3,),
        pad_id=0,
        unknown_id=1,
        vocabulary_size=len(words),
    )
    return TextPreprocessor(config, tokenizer)


def byte_ids(preprocess: TextPreprocessor, ids: torch.Tensor) -> bytes:
    """Turn ids back into bytes by the table of byte-level BPE, without any tokenizer."""
    rows = ["<s>", "<pad>", "</s>", "<unk>", *(piece for piece in reversed(PIECES) if piece != "Ġcat")]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
    pieces = [" cat" if id_ == preprocess.config.unknown_id else rows[id_] for id_ in ids.tolist()]
    return b"".join(piece.encode() if piece == " cat" else bytes(table[sign] for sign in piece) for piece in pieces)


@given(st.text(max_size=15))
def test_ids_spell_the_text(byte_level: TextPreprocessor, text: str) -> None:
    ids = byte_level(text)
    assert ids.dtype == torch.int64
    assert ids[-1] == 2
    assert byte_ids(byte_level, ids[:-1]) == (" " + text.lower()).encode()


@pytest.mark.parametrize(
    "text",
    ["", " ", "\0", "a\0b", "😀👨‍👩‍👧", "שלום עולם", "\u202eabc", "Straße İ", "cat.jpg", "http://cat", "cat cat"],
)
def test_odd_texts_are_spelled_too(byte_level: TextPreprocessor, text: str) -> None:
    assert byte_ids(byte_level, byte_level(text)[:-1]) == (" " + text.lower()).encode()
    assert torch.equal(byte_level(Text(text)), byte_level(text))


def test_a_piece_outside_the_dictionary_becomes_unknown(byte_level: TextPreprocessor) -> None:
    assert byte_level("cat").tolist() == [3, 2]
    assert 3 not in byte_level("dog")


def test_ten_thousand_words_are_cut_to_their_beginning(byte_level: TextPreprocessor) -> None:
    ids = byte_level("dog " * 10_000)
    assert len(ids) == 70 + 1
    assert torch.equal(ids[:-1], byte_level("dog " * 30)[:70])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (",.!?*#:;~a", "a"),
        ("  a ", "a"),
        ("a\tb", "a b"),
        ("a  b\n\nc", "a b c"),
        ("a\nb\n", "a\nb"),
        ("a!", "a!"),
        ("!!!", ""),
        ("- a", "- a"),
    ],
)
def test_dataset_normalisation_strips_signs_and_spaces(
    vocabulary: Path, byte_level: TextPreprocessor, text: str, expected: str
) -> None:
    config = TextPreprocess(vocabulary_size=4 + len(PIECES), normalise="dataset")
    dataset = TextPreprocessor(config, official_tokenizer(vocabulary))
    assert dataset(text).tolist() == byte_level(expected).tolist()


def test_a_word_piece_vocabulary_works_the_same_way(word_piece: TextPreprocessor) -> None:
    assert word_piece("A dog BARKING").tolist() == [4, 5, 6, 7, 3]
    assert word_piece("").tolist() == [3]
    assert word_piece("cat").tolist() == [1, 3]
    assert word_piece("a " * 100).tolist() == [4] * 6 + [3]


def test_special_signs_in_a_text_are_text(word_piece: TextPreprocessor) -> None:
    assert word_piece("[SEP]").tolist() == [8, 10, 11, 9, 3]


def test_begin_ids_come_first_and_on_top(word_piece: TextPreprocessor) -> None:
    config = TextPreprocess(
        max_tokens=2, prefix="", begin_ids=(2,), end_ids=(3, 3), pad_id=0, unknown_id=1, vocabulary_size=12
    )
    preprocess = TextPreprocessor(config, word_piece._tokenizer)
    assert preprocess("a dog barking").tolist() == [2, 4, 5, 3, 3]


def test_the_given_tokenizer_stays_as_it_was() -> None:
    tokenizer = Tokenizer(WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.enable_truncation(5)
    TextPreprocessor(TextPreprocess(vocabulary_size=4), tokenizer)
    assert tokenizer.truncation["max_length"] == 5


def test_a_batch_is_padded_and_lengths_count_tokens(word_piece: TextPreprocessor) -> None:
    items = [word_piece("a"), word_piece("a dog")]
    (ids,) = word_piece.collate(items)
    assert ids.tolist() == [[4, 3, 0], [4, 5, 3]]
    assert [word_piece.length(item) for item in items] == [2, 3]


def test_threads_share_one_preprocessor(byte_level: TextPreprocessor) -> None:
    texts = [f"cat {number} dog" for number in range(200)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(byte_level, texts))
    assert [ids.tolist() for ids in together] == [byte_level(text).tolist() for text in texts]


def test_what_is_no_text_is_a_media_error(byte_level: TextPreprocessor) -> None:
    for source, message in (("a\udc80", "surrogate"), (b"a", "bytes")):
        with pytest.raises(MediaError, match=message):
            byte_level(source)  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="limit is 5"):
        TextPreprocessor(byte_level.config, byte_level._tokenizer, Limits(max_characters=5))("a long dog")


def test_a_folder_without_the_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not hold the official vocabulary"):
        official_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"max_tokens": 0},
        {"normalise": "twice"},
        {"pad_id": -1},
        {"end_ids": (2, 50_264)},
        {"begin_ids": (-1,)},
        {"unknown_id": 9, "vocabulary_size": 9},
    ],
)
def test_a_config_that_cannot_work_is_refused_by_name(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"text.{next(iter(nonsense))}"):
        TextPreprocess(**nonsense)


@given(text=st.text(st.sampled_from(" \t\nc,a!tİdé🐕Σ"), max_size=24))
@pytest.mark.parametrize("normalise", ["none", "dataset"])
def test_each_id_lies_where_its_characters_stand(normalise: Any, text: str, vocabulary: Path) -> None:
    config = TextPreprocess(vocabulary_size=4 + len(PIECES), normalise=normalise)
    preprocessor = TextPreprocessor(config, official_tokenizer(vocabulary))
    spans = preprocessor.spans(text)
    assert len(spans) == len(preprocessor(text)) - 1  # its end has none
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert spans == sorted(spans)
    covered = {place for start, end in spans for place in range(start, end)}
    kept = text
    if normalise == "dataset":  # spaces that are merged or cut may be left out, and signs in front
        kept = re.sub(r"\s", "", text.lstrip(",.!?*#:;~"))
        covered = {place for place in covered if not text[place].isspace()}
        assert "".join(text[place] for place in sorted(covered)) == kept
    else:
        assert covered == set(range(len(text)))


@given(text=st.text(st.sampled_from(" \t\nc,a!t"), max_size=24))
def test_the_official_datasets_form_of_a_text(text: str) -> None:
    merged = re.sub(r"\s{2,}|\t", " ", text.lstrip(",.!?*#:;~")).rstrip("\n").strip(" ")
    found, places = _strip_signs_and_spaces(text)
    assert found == merged
    assert len(places) == len(found)
    assert all(text[place] == sign or sign == " " for place, sign in zip(places, found, strict=True))
