from __future__ import annotations

import torch
from torch import Tensor

from encoders.adapter import Shape
from encoders.audio import LogMelConfig
from encoders.audio.log_mel_cnn import HOP
from encoders.audio.spec_augment import hide_spans


def test_spans_are_hidden_and_nothing_else() -> None:
    picture_B1MT = torch.randn(2, 1, 8, 10)
    frames_BK2 = torch.tensor([[[2, 5], [0, 0]], [[8, 12], [3, 4]]])
    bins_BK2 = torch.tensor([[[1, 2]], [[6, 8]]])
    hidden = hide_spans(picture_B1MT, frames_BK2, bins_BK2)
    for sound, (times, rows) in enumerate((([2, 3, 4], [1]), ([3, 8, 9], [6, 7]))):
        expected = picture_B1MT[sound, 0].clone()
        expected[:, times] = 0.0
        expected[rows, :] = 0.0
        torch.testing.assert_close(hidden[sound, 0], expected, rtol=0, atol=0)


def test_the_adapter_hides_what_each_sound_says_whatever_it_is_batched_with() -> None:
    torch.manual_seed(0)
    adapter = LogMelConfig(width_multiplier=0.1).build(Shape(width=16, heads=2)).eval()
    samples_BN, lengths_B = torch.randn(3, 20 * 320), torch.tensor([6400, 3200, 6400])
    samples_BN[1, 3200:] = 0.0
    times_BK2 = torch.tensor([[[0, 0]], [[HOP, 4 * HOP]], [[2 * HOP, 9 * HOP]]])
    bins_BK2 = torch.tensor([[[0, 0]], [[3, 30]], [[100, 128]]])
    with torch.inference_mode():
        plain = adapter.features(samples_BN, lengths_B)
        hidden = adapter.features(samples_BN, lengths_B, times_BK2, bins_BK2)
        for sound in range(3):
            part = slice(sound, sound + 1)
            (alone,) = adapter.features(
                samples_BN[part, : lengths_B[sound]], lengths_B[part], times_BK2[part], bins_BK2[part]
            )
            assert difference(hidden[sound], alone) < 1e-4
    assert difference(hidden[0], plain[0]) < 1e-4  # empty spans hide nothing
    assert min(difference(hidden[1], plain[1]), difference(hidden[2], plain[2])) > 1e-2


def difference(one: Tensor, other: Tensor) -> float:
    """Return the relative difference: an untrained network's features are tiny."""
    return float((one - other).norm() / other.norm())
