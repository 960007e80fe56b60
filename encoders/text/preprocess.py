"""Text -> token ids that the text adapter takes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from encoders.media import DEFAULT_LIMITS, Limits, Text, open_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPECIAL_PIECES = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3, in front of the rows of dict.txt


@dataclass(frozen=True, kw_only=True)
class TextPreprocess:
    """How a text becomes token ids. The defaults are those of the official hub API and vocabulary."""

    max_tokens: int = 70  # of the text itself; longer ones are cut; `begin_ids` and `end_ids` come on top
    lower: bool = True  # lower case first
    prefix: str = " "  # put in front, because the vocabulary's words begin with their space
    # "dataset": strip and merge spaces and leading signs as the official datasets do. "hub", "none": leave them.
    normalise: Literal["hub", "dataset", "none"] = "hub"
    begin_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = (2,)
    pad_id: int = 1
    unknown_id: int = 3  # for pieces from `vocabulary_size` on
    vocabulary_size: int = 50_264

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.max_tokens < 1:
            raise ValueError(f"text.max_tokens must be positive, got {self.max_tokens}")
        if self.normalise not in ("hub", "dataset", "none"):
            raise ValueError(f"text.normalise must be hub, dataset or none, got {self.normalise!r}")
        for name in ("begin_ids", "end_ids", "pad_id", "unknown_id"):
            ids = getattr(self, name)
            if not all(0 <= id_ < self.vocabulary_size for id_ in (ids if isinstance(ids, tuple) else (ids,))):
                raise ValueError(f"text.{name} must lie below text.vocabulary_size {self.vocabulary_size}, got {ids}")


class TextPreprocessor:
    """Normalises and tokenises texts. Holds no state that changes: one may serve many threads.

    Of `tokenizer`, only its splitting into pieces counts. It is copied, and what it adds, cuts or pads by itself is
    left out; signs such as [SEP] or </s> in a text are text.
    """

    def __init__(self, config: TextPreprocess, tokenizer: Tokenizer, limits: Limits = DEFAULT_LIMITS) -> None:
        self.config = config
        self.limits = limits
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def __call__(self, source: str | Text) -> Tensor:
        """Return the ids of a text, int64 (N,).

        Raises:
            MediaError: not a text, too long for the limits, or without a UTF-8 form.
        """
        config = self.config
        text = open_text(source, self.limits)
        if config.lower:
            text = text.lower()
        if config.normalise == "dataset":
            text = _strip_signs_and_spaces(text)[0]
        pieces = self._tokenizer.encode(config.prefix + text, add_special_tokens=False).ids[: config.max_tokens]
        known = [id_ if id_ < config.vocabulary_size else config.unknown_id for id_ in pieces]
        return torch.tensor([*config.begin_ids, *known, *config.end_ids], dtype=torch.int64)

    def spans(self, source: str | Text) -> list[tuple[int, int]]:
        """Return where in a text each id lies, less `begin_ids` and `end_ids`: first character, behind the last.

        A piece of the prefix alone has an empty span at the beginning.

        Raises:
            MediaError: as for the ids.
        """
        config = self.config
        text = open_text(source, self.limits)
        origin = list(range(len(text)))  # of each character, its place in the text as given
        if config.lower:
            origin = [place for place, character in enumerate(text) for _ in character.lower()]
            text = text.lower()
        if config.normalise == "dataset":
            text, kept = _strip_signs_and_spaces(text)
            origin = [origin[place] for place in kept]
        pieces = self._tokenizer.encode(config.prefix + text, add_special_tokens=False).offsets[: config.max_tokens]
        bounds = [(max(0, start - len(config.prefix)), max(0, end - len(config.prefix))) for start, end in pieces]
        return [(origin[start], origin[end - 1] + 1) if start < end else (0, 0) for start, end in bounds]

    def collate(self, items: Sequence[Tensor]) -> tuple[Tensor]:
        """Return the batch as (ids (B, N),), `pad_id` behind shorter ones."""
        return (pad_sequence(list(items), batch_first=True, padding_value=self.config.pad_id),)

    def length(self, item: Tensor) -> int:
        """Return the number of tokens: what a batch's cost grows with."""
        return len(item)


def official_tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer that dict.txt, encoder.json and vocab.bpe in `folder` describe, with the official ids.

    GPT-2's byte-level BPE numbers its pieces in encoder.json; row r of dict.txt names the number whose id is 4 + r.
    Pieces without a row get ids behind all rows, which a `TextPreprocessor` turns into the unknown id.

    Raises:
        ValueError: a file is missing or not of this form.
    """
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    folder = Path(folder)
    try:
        numbers: dict[str, int] = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        rows = [line.split(" ")[0] for line in (folder / "dict.txt").read_text(encoding="utf-8").splitlines()]
        merges = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
        pairs = [(left, right) for left, _, right in (line.partition(" ") for line in merges if line)]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} does not hold the official vocabulary (dict.txt, encoder.json, vocab.bpe): {error}"
        ) from error

    pieces = {str(number): piece for piece, number in numbers.items()}
    # Rows that name no piece (<s>, madeupword0000) keep their place: a vocabulary with holes is not saved whole.
    vocabulary = {pieces.get(row, row): id_ for id_, row in enumerate((*_SPECIAL_PIECES, *rows))}
    for piece in numbers:
        vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = Tokenizer(BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def _strip_signs_and_spaces(text: str) -> tuple[str, list[int]]:
    """Return the official datasets' form of a text, and the place that each of its characters had."""
    start = len(text) - len(text.lstrip(",.!?*#:;~"))
    gaps = {match.start(): match.end() for match in re.finditer(r"\s{2,}|\t", text[start:])}
    places, characters, place = [], [], 0
    while place < len(text) - start:
        places.append(start + place)
        characters.append(" " if place in gaps else text[start + place])
        place = gaps.get(place, place + 1)
    merged = "".join(characters)
    kept = merged.rstrip("\n").strip(" ")
    first = len(merged.rstrip("\n")) - len(merged.rstrip("\n").lstrip(" "))
    return kept, places[first : first + len(kept)]
