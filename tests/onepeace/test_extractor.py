"""The extractor for encoding against the adapter's own."""

from __future__ import annotations

import pytest
import torch

from encoders.adapter import Shape
from encoders.audio import WaveformAdapter, WaveformConfig
from onepeace.extractor import STRETCH, StretchedExtractor

HOP, FIELD = 320, 400  # samples, of the official extractor


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "samples", [FIELD, FIELD + HOP - 1, FIELD + HOP * (STRETCH - 1), FIELD + HOP * STRETCH, 3 * HOP * STRETCH + 17]
)
def test_frames_are_those_of_the_whole_sound(samples: int, bias: bool) -> None:
    torch.manual_seed(0)
    adapter = WaveformAdapter(WaveformConfig(channels=12, extractor_bias=bias), Shape(width=16, heads=2)).eval()
    for parameter in adapter.extractor.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5)
    extractor = StretchedExtractor(adapter.extractor, torch.float32)
    assert (extractor.hop, extractor.field) == (HOP, FIELD)
    sound = torch.randn(2, 1, samples)
    with torch.inference_mode():
        torch.testing.assert_close(extractor(sound), adapter.extractor(sound), rtol=1e-4, atol=1e-5)
