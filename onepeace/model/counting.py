"""How many items of a sequence are what a text names. B: texts, T: tokens of one, N: items, W: width, D: dimension."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_COUNTED = 10  # what texts state exactly; more is "more"
HIDDEN = 16  # width of what judges an item
SHARP = 20.0  # of likeness, whose differences are small
SMALLEST = 1e-6  # probability


class Counted(NamedTuple):
    """What a text counts."""

    chances: Tensor  # (B, N), 0 to 1: how likely each item is one of them, each by itself
    stated: Tensor  # (B, MOST_COUNTED + 3) logits of the number that the text states: 0, 1, ..., more, or none
    counts: Tensor  # (B,) logits of whether the text is about a number of things at all

    def fits(self) -> Tensor:
        """Return the log of how likely the stated number is, (B,): 0 where the text states none, or counts nothing."""
        rows_B, fits_B = self.counts > 0, torch.zeros_like(self.counts)
        if rows_B.any():  # a step for each item is no small part of what a question to a long album costs
            stated_QK = self.stated[rows_B].softmax(dim=-1)
            number_QK = F.pad(count_chances(self.chances[rows_B]), (0, 1), value=1.0)
            fits_B[rows_B] = (stated_QK * number_QK).sum(dim=-1).clamp_min(SMALLEST).log()
        return fits_B


class Counting(nn.Module):
    """Judges each item by itself, so that any number of them can be meant, and reads the number that a text states.

    An item is judged by its likeness to the text, to the item that is likest to the text, and by how like that one is:
    pictures of a thing are more like each other than like its name. Then all are judged once more, beside what was
    found. It reads the tower and does not train it.

    >>> counting = Counting(384)
    >>> vectors, padding = F.normalize(torch.randn(1, 7, 512), dim=-1), torch.zeros(1, 7, dtype=torch.bool)
    >>> words, likeness = torch.ones(1, 5, dtype=torch.bool), torch.rand(1, 5, 7)
    >>> counted = counting(torch.randn(1, 5, 384), words, likeness, vectors, padding)
    >>> counted.chances.shape, counted.fits().shape
    (torch.Size([1, 7]), torch.Size([1]))
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.says = nn.Linear(width, 2)  # how much each word says of what is counted, and of the number
        self.judge, self.judge_again = (
            nn.Sequential(nn.Linear(inputs, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1)) for inputs in (3, 5)
        )
        self.number = nn.Linear(width, MOST_COUNTED + 3)
        self.counts = nn.Linear(width, 1)

    def forward(
        self, x_BTW: Tensor, words_BT: Tensor, likeness_BTN: Tensor, vectors_BND: Tensor, padding_BN: Tensor
    ) -> Counted:
        """Judge items with these unit vectors, by the cosine of each word's query with each of them."""
        says_BT2 = self.says(x_BTW).float().masked_fill(~words_BT[..., None], -torch.inf).softmax(dim=1)
        like_BN = (says_BT2[..., :1] * likeness_BTN).sum(dim=1)
        likest_BN = (SHARP * like_BN).masked_fill(padding_BN, -torch.inf).softmax(dim=-1)
        best_B1 = like_BN.masked_fill(padding_BN, -1.0).amax(dim=-1, keepdim=True)
        told_BN3 = SHARP * torch.stack([like_BN, nearness(likest_BN, vectors_BND), best_B1.expand_as(like_BN)], dim=-1)
        first_BN = self.judge(told_BN3).squeeze(-1).float()
        near_BN = nearness(first_BN.sigmoid().masked_fill(padding_BN, 0.0), vectors_BND)
        told_BN5 = torch.cat([told_BN3, SHARP * near_BN[..., None], first_BN[..., None]], dim=-1)
        logits_BN = first_BN + self.judge_again(told_BN5).squeeze(-1).float()
        chances_BN = logits_BN.sigmoid().masked_fill(padding_BN, 0.0)
        number_BW = (says_BT2[..., 1:] * x_BTW).sum(dim=1)
        return Counted(chances_BN, self.number(number_BW).float(), self.counts(number_BW).squeeze(-1).float())


def nearness(weights_BN: Tensor, vectors_BND: Tensor) -> Tensor:
    """Return the cosine of each item with the mean of all by these weights, (B, N)."""
    mean_BD = F.normalize((weights_BN[..., None] * vectors_BND.float()).sum(dim=1), dim=-1)
    return (vectors_BND.float() @ mean_BD[..., None]).squeeze(-1)


def count_chances(chances_BN: Tensor) -> Tensor:
    """Return how likely 0, 1, ..., MOST_COUNTED and more of independent events are, (B, MOST_COUNTED + 2).

    The Poisson binomial distribution, one event after the other.

    >>> count_chances(torch.tensor([[0.5, 1.0]]))[0, :4]
    tensor([0.0000, 0.5000, 0.5000, 0.0000])
    """
    found_BK = F.pad(torch.ones_like(chances_BN[:, :1]), (0, MOST_COUNTED + 1))
    for chance_B1 in chances_BN.split(1, dim=1):
        more_BK = F.pad(found_BK[:, :-1], (1, 0))
        more_BK = torch.cat([more_BK[:, :-1], more_BK[:, -1:] + found_BK[:, -1:]], dim=1)
        found_BK = (1 - chance_B1) * found_BK + chance_B1 * more_BK
    return found_BK
