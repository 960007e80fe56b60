"""The cache of what a teacher makes of texts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from encoders.teachers import Lesson, Teacher
from onepeace.training.text_features import cached_text_features


class LetterCounter(Teacher):
    """Counts letters; `seen` texts were counted."""

    width = 26

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def prepare(self, medium: str) -> Tensor:
        self.seen += 1
        return torch.tensor([ord(letter) - ord("a") for letter in medium if letter.isalpha()])

    def forward(self, items: list[Tensor]) -> Lesson:
        return Lesson(torch.stack([torch.bincount(item, minlength=26).float() for item in items]))


def count(texts: list[str]) -> Tensor:
    return torch.tensor([[float(text.count(chr(ord("a") + i))) for i in range(26)] for text in texts]).half()


def test_each_text_is_asked_once_and_comes_back_in_order(tmp_path: Path) -> None:
    teacher, texts = LetterCounter(), ["a dog", "two dogs in the rain", "cat"]
    torch.testing.assert_close(cached_text_features(teacher, "k", texts, tmp_path), count(texts))
    more = ["rain", *reversed(texts)]
    torch.testing.assert_close(cached_text_features(teacher, "k", more, tmp_path), count(more))
    assert teacher.seen == 4
    cached_text_features(teacher, "other weights", texts, tmp_path)
    assert teacher.seen == 7


def test_a_damaged_cache_is_computed_anew(tmp_path: Path) -> None:
    teacher = LetterCounter()
    cached_text_features(teacher, "k", ["a dog"], tmp_path)
    (cache,) = tmp_path.glob("*.safetensors")
    data = bytearray(cache.read_bytes())
    data[-8] ^= 0xFF
    cache.write_bytes(data)
    torch.testing.assert_close(cached_text_features(teacher, "k", ["a dog"], tmp_path), count(["a dog"]))
    assert teacher.seen == 2
