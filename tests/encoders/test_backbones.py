"""Backbones and their adapters: equal to the networks they stand for, and blind to batch mates."""

from __future__ import annotations

import pytest
import torch

from encoders import Shape
from encoders.audio import LogMelConfig
from encoders.image import EfficientNetLiteConfig, TimmConfig
from encoders.image.efficientnet_lite import EfficientNetLite0

SHAPE = Shape(width=32, heads=4)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Give batch norms statistics that matter, so that a swapped layer shows."""
    torch.manual_seed(0)
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(child.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(child.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(child.weight, 0.5, 1.5)
    return module.eval()


def test_efficientnet_lite0_equals_timm() -> None:
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model("efficientnet_lite0", pretrained=False, num_classes=0))
    ours = EfficientNetLite0().eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    pixels = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(pixels), theirs.forward_features(pixels))


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_any_timm_backbone_gives_its_feature_map_as_tokens(backbone: str) -> None:
    adapter = TimmConfig(backbone=backbone, position_grid=7, bias_grid=7).build(SHAPE).eval()
    sequence = adapter(torch.randn(2, 3, 224, 224))
    side = adapter.features(torch.randn(1, 3, 224, 224)).shape[1]
    assert sequence.embeddings.shape == (2, side**2 + 1, 32)
    assert sequence.bias[0].shape == (1, 4, side**2 + 1, side**2 + 1)


def test_a_frozen_backbone_neither_learns_nor_counts() -> None:
    adapter = EfficientNetLiteConfig(frozen=True).build(SHAPE).train()
    before = {name: tensor.clone() for name, tensor in adapter.backbone.state_dict().items()}
    adapter(torch.randn(2, 3, 64, 64)).embeddings.sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in adapter.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in adapter.backbone.parameters())
    assert adapter.projection.linear.weight.grad is not None


@pytest.mark.parametrize("blocks", [1, 5, 16])
def test_the_last_blocks_of_a_frozen_backbone_can_train(blocks: int) -> None:
    torch.manual_seed(0)
    adapter = EfficientNetLiteConfig(tuned_blocks=blocks).build(SHAPE).train()
    whole = EfficientNetLiteConfig().build(SHAPE)
    whole.load_state_dict(adapter.state_dict())
    pixels = torch.randn(2, 3, 64, 64)
    features = adapter.features(pixels)
    assert not features.requires_grad  # so that they may be kept
    sequence = adapter.from_features(features)
    torch.testing.assert_close(sequence.embeddings, whole.train()(pixels).embeddings, rtol=1e-4, atol=1e-5)
    before = {name: tensor.clone() for name, tensor in adapter.backbone.named_buffers()}
    sequence.embeddings.square().sum().backward()
    trained = {name for name, parameter in adapter.backbone.named_parameters() if parameter.grad is not None}
    first = len(adapter.backbone.blocks) - blocks
    assert {int(name.split(".")[1]) for name in trained if name.startswith("blocks")} == set(range(first, 16))
    assert {name.split(".")[0] for name in trained} == {"blocks", "head"}
    assert all(torch.equal(before[name], tensor) for name, tensor in adapter.backbone.named_buffers())


def test_more_blocks_than_there_are_cannot_be_tuned() -> None:
    with pytest.raises(ValueError, match="has 16 blocks"):
        EfficientNetLiteConfig(tuned_blocks=17).build(SHAPE)
    with pytest.raises(ValueError, match="no tuned_blocks"):
        TimmConfig(backbone="resnet10t", tuned_blocks=1).build(SHAPE)


def test_a_sound_has_the_same_tokens_alone_and_among_longer_ones() -> None:
    torch.manual_seed(0)
    adapter = LogMelConfig(bucket_size=16).build(SHAPE)
    randomised(adapter)
    lengths = torch.tensor([20_480, 40_960, 20_480])
    samples = torch.randn(3, 40_960) * 0.1 * (torch.arange(40_960) < lengths[:, None])
    with torch.no_grad():
        together = adapter(samples, lengths)
        for i, length in enumerate(lengths.tolist()):
            alone = adapter(samples[i : i + 1, :length], lengths[i : i + 1])
            count = alone.embeddings.shape[1]
            torch.testing.assert_close(together.embeddings[i : i + 1, :count], alone.embeddings)
            assert together.padding[i].sum() == together.padding.shape[1] - count


def test_features_can_be_kept_and_used_later() -> None:
    adapter = EfficientNetLiteConfig().build(SHAPE).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        later = adapter.from_features(adapter.features(pixels))
        torch.testing.assert_close(later.embeddings, adapter(pixels).embeddings)
