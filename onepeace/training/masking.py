"""Which tokens a student sees: random patches, whole words, spans of sound, or a few tokens to save time.

Places count from the class token, 0, which is never masked. P: visible tokens, L: tokens of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from encoders.tokens import TokenSequence

SPAN = 5  # frames that one start masks
SPAN_SURPLUS = 0.1  # share of frames drawn on top, since spans overlap


def keep_tokens(sequence: TokenSequence, count: int) -> TokenSequence:
    """Return the class token and `count` others, chosen anew for each row; the rest is never computed.

    Fewer tokens make a step faster and the task harder (Li et al., 2022, arXiv:2212.00794). Padding is chosen last,
    and a sequence of no more tokens comes back as it is. The position bias becomes (B, H, count + 1, count + 1).

    >>> from encoders import Modality
    >>> tokens = TokenSequence(Modality.IMAGE, torch.zeros(2, 65, 8), torch.zeros(2, 65, dtype=torch.bool))
    >>> keep_tokens(tokens, 16).embeddings.shape
    torch.Size([2, 17, 8])
    """
    length = sequence.embeddings.shape[1]
    if length - 1 <= count:
        return sequence
    order_BL = torch.rand(sequence.padding.shape, device=sequence.padding.device) + sequence.padding
    order_BL[:, 0] = -1.0  # the class token stays, and stays first
    return sequence.at(order_BL.argsort(dim=1)[:, : count + 1])


def mask_words(starts: Tensor, ratio: float, generator: Generator) -> Tensor:
    """Return a mask (L,) over whole words: `ratio` of them, rounded up. `starts` (L,) is True where a word begins.

    >>> starts = torch.tensor([True, False, True, True, False])  # three words in five pieces
    >>> mask = mask_words(starts, 0.34, Generator().manual_seed(0))  # two of them
    >>> bool(mask[0] == mask[1]), bool(mask[3] == mask[4])  # a word is masked whole
    (True, True)
    """
    words = starts.cumsum(0) - 1  # the word of each piece
    count = int(starts.sum())
    chosen = torch.randperm(count, generator=generator)[: math.ceil(count * ratio)]
    return torch.isin(words, chosen)


def mask_tokens(length: int, ratio: float, generator: Generator, spared: Tensor | None = None) -> Tensor:
    """Return a mask (L,) over `ratio` of the tokens, rounded down; those `spared` (L,) bool come last.

    >>> int(mask_tokens(64, 0.75, Generator().manual_seed(0)).sum())
    48
    """
    order = torch.rand(length, generator=generator)
    if spared is not None:
        order = order + spared
    return _first(order, int(length * ratio))


def mask_spans(length: int, ratio: float, generator: Generator) -> Tensor:
    """Return a mask (L,) of exactly `ratio` of the frames, rounded down, mostly in spans of `SPAN` frames.

    >>> int(mask_spans(50, 0.55, Generator().manual_seed(0)).sum())
    27
    """
    centres = torch.randint(0, length, (int(length * (ratio + SPAN_SURPLUS) / SPAN),), generator=generator)
    offsets = torch.arange(SPAN) - SPAN // 2
    mask = torch.zeros(length, dtype=torch.bool)
    mask[(centres[:, None] + offsets).clamp(0, length - 1).flatten()] = True
    surplus = int(mask.sum()) - int(length * ratio)
    if surplus:
        changed = torch.multinomial((mask if surplus > 0 else ~mask).float(), abs(surplus), generator=generator)
        mask[changed] = ~mask[changed]
    return mask


def mask_more(visible: Tensor, ratio: float, generator: Generator) -> Tensor:
    """Return a mask (L,) of `ratio` of the patches that contains every one that another view shows.

    Both views together then show each patch at most once.

    Raises:
        ValueError: the other view shows more than the ratio masks.

    >>> visible = torch.tensor([True, False, False, False])
    >>> mask = mask_more(visible, 0.75, Generator().manual_seed(0))
    >>> int(mask.sum()), bool(mask[0])
    (3, True)
    """
    extra = int(len(visible) * ratio) - int(visible.sum())
    if extra < 0:
        raise ValueError(f"a ratio of {ratio} masks fewer patches than the other view shows, {int(visible.sum())}")
    order = torch.rand(len(visible), generator=generator) + visible
    return visible | _first(order, extra)


def visible_places(masks: Sequence[Tensor]) -> Tensor:
    """Return (B, P) places of the tokens that stay, the class token first, padded with -1. Masks (L,) leave it out.

    >>> visible_places([torch.tensor([True, False, False]), torch.tensor([True, True, False])])
    tensor([[ 0,  2,  3],
            [ 0,  3, -1]])
    """
    places = [torch.cat([torch.zeros(1, dtype=torch.long), 1 + (~mask).nonzero().squeeze(1)]) for mask in masks]
    return torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)


def masked_places(masks: Sequence[Tensor]) -> Tensor:
    """Return (B, L + 1) bool, True where a token is masked, the class token's False first, padded with False.

    >>> masked_places([torch.tensor([True, False]), torch.tensor([True])])
    tensor([[False,  True, False],
            [False,  True, False]])
    """
    rows = [torch.cat([torch.zeros(1, dtype=torch.bool), mask]) for mask in masks]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=False)


def _first(order: Tensor, count: int) -> Tensor:
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order.argsort()[:count]] = True
    return mask
