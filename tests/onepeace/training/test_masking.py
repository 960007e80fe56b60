from __future__ import annotations

import torch

from encoders.tokens import Modality, TokenSequence
from onepeace.training.masking import keep_tokens


def sequence(batch: int = 3, length: int = 6, heads: int = 2) -> TokenSequence:
    """Tokens and bias that say which token they belong to."""
    embeddings = torch.arange(length).float()[None, :, None].expand(batch, -1, 4).clone()
    padding = torch.zeros(batch, length, dtype=torch.bool)
    padding[1, 4:] = True
    pair = (torch.arange(length)[:, None] * 10 + torch.arange(length)[None, :]).float()
    return TokenSequence(Modality.IMAGE, embeddings, padding, (pair.expand(1, heads, -1, -1),))


def test_the_class_token_stays_first_and_others_are_distinct() -> None:
    kept = keep_tokens(sequence(batch=50), 3).embeddings[:, :, 0]
    assert (kept[:, 0] == 0).all()
    assert all(len(set(row.tolist())) == 4 for row in kept)
    assert len({tuple(row.tolist()) for row in kept}) > 10  # chosen anew for each row


def test_the_bias_is_that_of_the_kept_pairs() -> None:
    kept = keep_tokens(sequence(), 3)
    positions = kept.embeddings[:, :, 0]
    expected = positions[:, :, None] * 10 + positions[:, None, :]
    torch.testing.assert_close(kept.bias[0], expected[:, None].expand(-1, 2, -1, -1))


def test_padding_is_chosen_last() -> None:
    kept = keep_tokens(sequence(), 3)
    assert not kept.padding.any()  # row 1 has exactly three tokens beside the class token


def test_a_short_sequence_comes_back_as_it_is() -> None:
    whole = sequence()
    assert keep_tokens(whole, 5) is whole
