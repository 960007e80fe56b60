"""From a picture to normalised pixels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from encoders.image import ImagePreprocess, ImagePreprocessor
from encoders.media import Image, Limits, MediaError


def picture(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 50), (31, 97), (1, 1), (3_000, 10)])
def test_pixels_equal_those_of_torchvision(width: int, height: int, interpolation: Any) -> None:
    config = ImagePreprocess(size=64, interpolation=interpolation)
    from torchvision.transforms import v2  # slow to import

    reference = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize((64, 64), v2.InterpolationMode(interpolation), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(config.mean, config.std),
        ]
    )
    image = picture(width, height)
    pixels = ImagePreprocessor(config)(image)
    assert pixels.dtype == torch.float32
    one_level = 1 / 255 / min(config.std)  # both round to 8 bits on the way
    torch.testing.assert_close(pixels, reference(image), rtol=0, atol=one_level + 1e-6)


def test_a_batch_stacks_and_every_item_has_the_same_length() -> None:
    preprocess = ImagePreprocessor(ImagePreprocess(size=32))
    items = [preprocess(picture(40, 30)), preprocess(picture(300, 20))]
    (batch,) = preprocess.collate(items)
    assert batch.shape == (2, 3, 32, 32)
    assert torch.equal(batch[1], items[1])
    assert {preprocess.length(item) for item in items} == {32 * 32}


def test_threads_share_one_preprocessor() -> None:
    preprocess = ImagePreprocessor(ImagePreprocess(size=32))
    pictures = [picture(50, 40, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(preprocess, pictures))
    assert all(torch.equal(ours, preprocess(image)) for ours, image in zip(together, pictures, strict=True))


def test_limits_and_drafts_reach_the_opener(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    picture(1_024, 1_024).save(path, quality=95)
    config = ImagePreprocess(size=128)
    with pytest.raises(MediaError, match="limit of 100 pixels"):
        ImagePreprocessor(config, limits=Limits(max_pixels=100))(Image(path))
    exact, draft = ImagePreprocessor(config)(path), ImagePreprocessor(config, draft_size=256)(path)
    assert not torch.equal(exact, draft)
    assert (exact - draft).abs().max() < 0.2


def test_a_picture_that_cannot_be_read_is_a_media_error() -> None:
    with pytest.raises(MediaError, match="BytesIO"):
        ImagePreprocessor(ImagePreprocess())(BytesIO(b"GIF89a"))


@pytest.mark.parametrize(
    "nonsense", [{"size": 0}, {"std": (1.0, 0.0, 1.0)}, {"mean": (1.0, 2.0)}, {"interpolation": "nicest"}]
)
def test_a_config_that_cannot_work_is_refused_by_name(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"image.*{next(iter(nonsense))}"):
        ImagePreprocess(**nonsense)
