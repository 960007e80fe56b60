"""Details of the input beside a backbone's tokens: what they hold, and that keeping them changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders.adapter import Adapter, Shape
from encoders.audio.adapter import BANDS, LogMelConfig
from encoders.audio.preprocess import AudioPreprocess
from encoders.image.adapter import EfficientNetLiteConfig
from encoders.image.preprocess import ImagePreprocess

SHAPE = Shape(width=32, heads=4)
PICTURES = EfficientNetLiteConfig(preprocess=ImagePreprocess(size=64), position_grid=2, bias_grid=2, detail=4)
SOUNDS = LogMelConfig(
    preprocess=AudioPreprocess(
        sample_rate=32_000, max_seconds=2.0, min_seconds=0.64, layer_norm=False, pad_multiple_seconds=0.32
    ),
    detail=4,
)


@pytest.fixture(scope="module")
def picture_adapter() -> Adapter:
    torch.manual_seed(0)
    return PICTURES.build(SHAPE).eval()


@pytest.fixture(scope="module")
def sound_adapter() -> Adapter:
    torch.manual_seed(0)
    return SOUNDS.build(SHAPE).eval()


@torch.no_grad()
def check_kept(adapter: Adapter, plain: Adapter, *inputs: Tensor) -> None:
    """What is kept and resumed is what comes at once; without its layer's weights, it is what comes without details."""
    kept, whole = adapter.kept(*inputs), adapter(*inputs)
    assert torch.equal(adapter.resumed(kept.embeddings), whole.embeddings)
    plain.load_state_dict({name: t for name, t in adapter.state_dict().items() if not name.startswith("detail")})
    bare = plain(*inputs)
    assert torch.equal(kept.embeddings[..., : SHAPE.width], bare.embeddings)
    assert isinstance(adapter.detail, nn.Linear)
    difference = whole.embeddings - bare.embeddings
    torch.testing.assert_close(difference, adapter.detail(kept.embeddings[..., SHAPE.width :]), atol=1e-5, rtol=1e-4)
    assert not difference[:, 0].any()  # the class token has no place


def test_kept_tokens_of_pictures_are_those_of_the_adapter(picture_adapter: Adapter) -> None:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    check_kept(picture_adapter, replace(PICTURES, detail=0).build(SHAPE).eval(), pixels)


def test_kept_tokens_of_sounds_are_those_of_the_adapter(sound_adapter: Adapter) -> None:
    samples = torch.randn(2, 40_960, generator=torch.Generator().manual_seed(1))
    check_kept(sound_adapter, replace(SOUNDS, detail=0).build(SHAPE).eval(), samples, torch.tensor([40_960, 20_480]))


@torch.no_grad()
def test_a_token_is_told_the_colours_of_its_place(picture_adapter: Adapter) -> None:
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    kept = picture_adapter.kept(pixels).embeddings[0, 1:, SHAPE.width :]
    squares = pixels[0].numpy().reshape(3, 2, 4, 8, 2, 4, 8).mean(axis=(3, 6))  # colour, row, y, column, x
    expected = squares.transpose(1, 3, 0, 2, 4).reshape(4, 48)
    np.testing.assert_allclose(kept[:, :48].numpy(), expected, atol=1e-6)


@torch.no_grad()
def test_a_token_is_told_where_it_is() -> None:
    """Rows and columns, by the longest waves: positions that backbones are given are a 50th of their tokens."""
    adapter = replace(PICTURES, position_grid=4, bias_grid=4).build(SHAPE).eval()
    told = adapter.kept(torch.zeros(1, 3, 128, 128)).embeddings[0, :, SHAPE.width + 48 :]
    assert not told[0].any()
    down, across = (told[1:].view(4, 4, 2, 8)[:, :, axis, 0] for axis in (0, 1))
    expected = np.cos(np.pi * np.array([1, 3, 5, 7]) / 8)[None].repeat(4, 0)
    np.testing.assert_allclose(across.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(down.numpy(), expected.T, atol=1e-6)


@torch.no_grad()
def test_a_token_is_told_when_it_is(sound_adapter: Adapter) -> None:
    samples = torch.randn(2, 40_960, generator=torch.Generator().manual_seed(3))
    told = sound_adapter.kept(samples, torch.tensor([40_960, 20_480])).embeddings[..., SHAPE.width + 4 * BANDS :]
    expected = np.cos(np.pi * (np.arange(4) + 0.5) / (SOUNDS.positions - 1))
    np.testing.assert_allclose(told[0, 1:, 0].numpy(), expected, atol=1e-6)
    assert torch.equal(told[1, :3], told[0, :3])
    assert not told[1, 3:].any()
    assert not told[:, 0].any()


@torch.no_grad()
def test_a_token_is_told_the_spectrum_of_its_time(sound_adapter: Adapter) -> None:
    """A tone that rises from a token to the next is loudest in a higher band each time, and padding changes nothing."""
    time = torch.arange(40_960) / 32_000
    hertz = 200.0 * 2 ** (time / 0.32).floor()  # 200, 400, 800, 1600 Hz
    samples = torch.sin(2 * torch.pi * torch.cumsum(hertz / 32_000, 0))[None]
    spectrum = slice(SHAPE.width, SHAPE.width + 4 * BANDS)
    alone = sound_adapter.kept(samples, torch.tensor([40_960])).embeddings[0, 1:, spectrum]
    bands = alone.unflatten(1, (4, BANDS))[:, 1:3].mean(dim=1).argmax(dim=1)
    assert (bands.diff() > 0).all()
    padded = torch.cat([samples, torch.zeros(1, 20_480)], dim=1)
    picture_MT = np.pad(sound_adapter.backbone.front_end(samples)[0, 0].numpy(), ((0, 0), (0, 128)))[:, :128]
    bands_Ep = picture_MT.reshape(BANDS, 8, 16, 8).mean(axis=(1, 3))
    overlapping = [bands_Ep[max(0, band - 1) : band + 2].mean(axis=0) for band in range(BANDS)]
    expected = np.stack(overlapping).reshape(BANDS, 4, 4).transpose(1, 2, 0).reshape(4, 4 * BANDS)
    np.testing.assert_allclose(alone.numpy(), expected, atol=1e-5)
    other = torch.randn(1, 61_440)
    together = sound_adapter.kept(torch.cat([padded, other]), torch.tensor([40_960, 61_440]))
    torch.testing.assert_close(together.embeddings[0, 1:5, spectrum], alone)


def test_details_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="detail is a number of squares a side"):
        replace(PICTURES, detail=-1)
    with pytest.raises(ValueError, match="divides 32, or 0, got 5"):
        replace(SOUNDS, detail=5)
