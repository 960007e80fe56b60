"""A start for a sequence tower's numbers, by least squares: which words name one, and its phases."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from encoders.modality import Modality
from onepeace.model.onepeace import OnePeace
from onepeace.model.sequence import MOST, SequenceTower, phases
from onepeace.reader import InputReader
from onepeace.training.album_questions import BY_NUMBER

SURELY = 3.0  # how much the words of a number ask for it
SAYS = 8.0  # how much they say of the item that is meant
RIDGE = 1.0


@torch.no_grad()
def begin_numbers(
    tower: SequenceTower, model: OnePeace, reader: InputReader, others: Sequence[str], seed: int, count: int = 250
) -> None:
    """Let words that are numbers ask for them: what frozen features tell of them, found by least squares.

    From nothing this takes most of a training: no gradient looks first for the phases of 400 numbers.
    `others` are texts without a number, whose words ask for none; each question is asked with `count` numbers.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret
    texts = list(dict.fromkeys(others))
    numbers = [0] * len(texts)
    for words in BY_NUMBER:
        drawn = draw.sample(range(1, MOST + 1), count)
        texts += [words.format(number) for number in drawn]
        numbers += drawn
    features_WD, named_W = _words(model, reader, texts, numbers)
    places_WD = (named_W > 0)[:, None] * torch.cat(phases(named_W, features_WD.shape[1]), dim=-1)
    mean, spread = features_WD.mean(dim=0), features_WD.std(dim=0).clamp_min(1e-6)
    x = torch.cat([(features_WD - mean) / spread, torch.ones(len(features_WD), 1)], dim=1)
    y = torch.cat([places_WD, (named_W > 0)[:, None].float()], dim=1)
    solved = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ y)
    weight = solved[:-1] / spread[:, None]
    bias = solved[-1] - mean @ weight
    for number in tower.number_queries:
        number.weight.copy_(SURELY * weight[:, :-1].T)
        number.bias.copy_(SURELY * bias[:-1])
    tower.says.weight[0].copy_(SAYS * weight[:, -1])


def _words(model: OnePeace, reader: InputReader, texts: list[str], numbers: list[int]) -> tuple[Tensor, Tensor]:
    """Return the features of all words (W, D), and which number each is: 0 where it is none."""
    preprocessor, tokenizer = reader.preprocessors[Modality.TEXT], reader.folder.tokenizer()
    assert tokenizer is not None
    rows, named = [], []
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), 128):
        some = order[start : start + 128]
        read = [preprocessor(texts[i]) for i in some]
        (features,) = model.features([model.tokens(Modality.TEXT, *preprocessor.collate(read))])
        for i, x_TD, padding_T in zip(some, features.embeddings, features.padding, strict=True):
            x_TD = x_TD[~padding_T]
            pieces = tokenizer.encode(texts[i]).tokens
            is_number = torch.tensor(
                [False, *(piece.strip("#").isdigit() for piece in pieces)]
            )  # behind the class token
            rows.append(x_TD)
            named.append(is_number[: len(x_TD)].long() * numbers[i])
    return torch.cat(rows).float(), torch.cat(named)
