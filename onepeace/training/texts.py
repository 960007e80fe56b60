"""All texts of a training run: each once, tokenised once, with a teacher's vector where there is one."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from encoders.adapter import Preprocessor

BYTE_LEVEL_SPACE = "\u0120"  # how byte-level BPE writes a space
OFFICIAL_SIGNS = ("<s>", "<pad>", "</s>", "<unk>")
_JOINT = re.compile(
    r"\s(?=(?:in|on|at|with|near|through|over|by|while|under|into|behind|next to|in front of|down|across|wearing"
    r"|holding)\s)"
)
_VERB = re.compile(r"\s(?=(?:is|are|runs|running|jumps|jumping|standing|sitting|playing|walking)\s)")


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Names of things without media: they teach the text side words that no caption has."""

    names: Path | None = None  # CSV with a column `display_name`; None: the classes of ImageNet-1k, from timm
    templates: tuple[str, ...] = ("{}",)
    articles: bool = True  # "a" or "an" in front of each name


def word_starts(tokenizer: Tokenizer) -> Tensor:
    """Return for each id whether its piece starts a word, (V,) bool: masks cover whole words.

    Byte-level pieces of a word's start hold its space, WordPiece marks those that go on with ##.
    """
    pieces = {id_: piece for piece, id_ in tokenizer.get_vocab(with_added_tokens=True).items()}
    spaced = any(piece.startswith(BYTE_LEVEL_SPACE) for piece in pieces.values())
    starts_V = torch.ones(max(pieces) + 1, dtype=torch.bool)
    for id_, piece in pieces.items():
        starts_V[id_] = not piece.startswith("##")
        if spaced and piece not in OFFICIAL_SIGNS and not piece.startswith("madeupword"):
            starts_V[id_] = piece.startswith(BYTE_LEVEL_SPACE)
    return starts_V


class TextBank:
    """Unique texts by number. N: texts."""

    def __init__(self, texts: Sequence[str], preprocessor: Preprocessor) -> None:
        self.texts = list(texts)
        self.numbers = {text: number for number, text in enumerate(self.texts)}
        self.preprocessor = preprocessor
        self.lessons: dict[int, Tensor] = {}  # number of the distillation -> (texts, F)
        self._ids: list[Tensor | None] = [None] * len(self.texts)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def ids(self, number: int) -> Tensor:
        """Return a text's token ids, (L,) int64."""
        ids = self._ids[number]
        if ids is None:
            ids = self._ids[number] = self.preprocessor(self.texts[number])
        return ids

    def batch(self, texts: Iterable[int | str]) -> Tensor:
        """Return padded token ids, (B, L), of texts by number, or as they are worded where the bank lacks them."""
        (ids_BL,) = self.preprocessor.collate(
            [self.preprocessor(text) if isinstance(text, str) else self.ids(int(text)) for text in texts]
        )
        return ids_BL

    def lessons_of(self, numbers: Sequence[Sequence[int]]) -> dict[int, Tensor]:
        """Return what each teacher says of texts, (B, F) float32: of one text, or the mean of those that are joined."""
        first_B, last_B = (torch.tensor([joint[end] for joint in numbers], dtype=torch.long) for end in (0, -1))
        return {key: (rows[first_B].float() + rows[last_B].float()) / 2 for key, rows in self.lessons.items()}


def with_article(name: str) -> str:
    """Return a name with "a" or "an" in front, unless it has an article."""
    if re.match(r"(a|an|the|some)\s", name, re.IGNORECASE):
        return name
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def fill(templates: Sequence[str], name: str, articles: bool) -> list[str]:
    """Return each template with the name in place of its braces, and again with an article."""
    names = [name, with_article(name)] if articles else [name]
    return list(dict.fromkeys(template.replace("{}", form) for template in templates for form in names))


def label_names(config: LabelConfig) -> list[str]:
    """Return the names of a label list.

    Raises:
        ValueError: no such file, or it has no column `display_name`.
    """
    if config.names is None:
        from timm.data.imagenet_info import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        return [info.index_to_description(index).split(",")[0] for index in range(1000)]
    try:
        with open(config.names, newline="", encoding="utf-8") as stream:
            return [row["display_name"].lower() for row in csv.DictReader(stream)]
    except (OSError, KeyError) as error:
        raise ValueError(f"labels.names: {config.names} cannot be read as CSV with a column display_name") from error


def recombine(captions: Sequence[str], names: Sequence[str], count: int, seed: int) -> list[str]:
    """Return `count` new texts made of parts of captions: beginnings with other ends, other subjects, words left out.

    They need make no sense: a teacher says what they mean, and a student that agrees on them agrees on real ones.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    split = [parts for parts in (_JOINT.split(caption, 1) for caption in captions) if len(parts) == 2]
    acts = [parts[1] for parts in (_VERB.split(caption, 1) for caption in captions) if len(parts) == 2]
    if not split or not acts or not names:
        raise ValueError("recombine needs captions with a preposition and with a verb, and names")
    made: dict[str, None] = {}
    for _ in range(20 * count):
        kind = rng.random()
        beginning, end = rng.choice(split)[0], rng.choice(split)[1]
        name = with_article(rng.choice(names))
        if kind < 0.55:
            text = f"{beginning} {end}"
        elif kind < 0.7:
            words = rng.choice(captions).split()
            text = " ".join(word for word in words if rng.random() > 0.2)
        elif kind < 0.85:
            text = f"{name} {rng.choice(acts)}"
        else:
            text = f"{beginning} {rng.choice(('and', 'while', 'next to', 'near'))} {name}"
        if len(text) > 1:
            made.setdefault(text)
        if len(made) == count:
            break
    return list(made)
