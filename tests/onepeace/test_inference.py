from __future__ import annotations

from typing import Any

import pytest
import torch
from random_models import DESIGNS
from torch import Tensor, nn

from encoders.modality import Modality
from encoders.position_bias import PositionBias1d, PositionBias2d
from onepeace import inference
from onepeace.checkpoint import open_folder
from onepeace.inference import EncodingModel, rounded_in_sum
from onepeace.model import ModelConfig, OnePeace
from onepeace.reader import SHIPPED
from retrieval.gallery import GALLERY, read_gallery

SIZES = {"width": 48, "layers": 3, "heads": 4, "hidden": 96, "embedding_dim": 32}
OPTIONS: dict[str, dict[str, Any]] = {
    "released": {},
    "every norm": {"attention_output_norm": True, "head_scale": True, "bias_per_layer": True},
    "no norm": {"attention_norm": False, "hidden_norm": False, "layer_scale": None, "head_scale": True},
    "output norm alone": {"attention_norm": False, "attention_output_norm": True, "layer_scale": None},
}
CLOSE = {torch.float32: 0.99999, torch.bfloat16: 0.999, torch.int8: 0.99}


def random_model(design: str = "official", **options: Any) -> OnePeace:
    """Return a model of which nothing is at its start: norms, scales and biases are all random."""
    torch.manual_seed(0)
    model = OnePeace(ModelConfig.from_dict(SIZES | {"layer_scale": 0.5, "adapters": DESIGNS[design]} | options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name and (parameter.ndim == 1 or ".bias.tables" in name):
                parameter.add_(0.3 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


def ragged_ids() -> Tensor:
    ids_BN = torch.randint(3, 14, (7, 12))
    for row, length in enumerate((12, 3, 7, 7, 1, 12, 2)):
        ids_BN[row, length:] = 0
    return ids_BN


def inputs(modality: str, rate: int = 16_000) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    if modality == Modality.TEXT:
        return (ragged_ids(),)
    if modality == Modality.IMAGE:
        return (torch.randn(3, 3, 64, 64),)
    lengths_B = torch.tensor([rate, rate // 2, 2 * rate, rate])
    samples_BN = torch.randn(4, 2 * rate)
    samples_BN[torch.arange(2 * rate) >= lengths_B[:, None]] = 0.0
    return samples_BN, lengths_B


def worst_cosine(model: OnePeace, encoder: EncodingModel, modality: Modality, *tensors: Tensor) -> float:
    with torch.inference_mode():
        return float((model.embed(modality, *tensors) * encoder.embed(modality, *tensors)).sum(dim=1).min())


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("modality", Modality)
def test_vectors_equal_the_plain_models(options: str, modality: Modality, dtype: torch.dtype) -> None:
    model = random_model(**OPTIONS[options])
    assert worst_cosine(model, EncodingModel(model, dtype), modality, *inputs(modality)) >= CLOSE[dtype]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("modality", Modality)
def test_backbones_too(modality: Modality, dtype: torch.dtype) -> None:
    model = random_model("backbones")
    assert worst_cosine(model, EncodingModel(model, dtype), modality, *inputs(modality, 32_000)) >= CLOSE[dtype]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("modality", Modality)
def test_a_gpu_gives_the_vectors_of_the_cpu(options: str, modality: Modality) -> None:
    model, tensors = random_model(**OPTIONS[options]), inputs(modality)
    expected = model.embed(modality, *tensors)
    encoder = EncodingModel(model.cuda(), torch.bfloat16)
    with torch.inference_mode():
        for _ in range(2):  # the second time from a recording
            got = encoder.embed(modality, *(tensor.cuda() for tensor in tensors)).cpu()
            assert float((got * expected).sum(dim=1).min()) >= CLOSE[torch.bfloat16]


def test_it_changes_nothing_of_the_model() -> None:
    model = random_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encoder = EncodingModel(model, torch.bfloat16)
    with torch.inference_mode():
        encoder.embed(Modality.TEXT, ragged_ids())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("modality", Modality)
def test_a_row_is_the_same_alone(modality: Modality) -> None:
    encoder, tensors = EncodingModel(random_model()), inputs(modality)
    with torch.inference_mode():
        together = encoder.embed(modality, *tensors)
        for row, expected in enumerate(together):
            alone = [tensor[row : row + 1] for tensor in tensors]
            if modality is Modality.AUDIO:
                alone[0] = alone[0][:, : int(alone[1])]
            elif modality is Modality.TEXT:
                alone[0] = alone[0][:, alone[0][0] != 0]
            torch.testing.assert_close(encoder.embed(modality, *alone)[0], expected, rtol=0, atol=1e-5)


def test_biases_that_are_kept_equal_those_that_are_gathered() -> None:
    line, square = PositionBias1d(16, 4, 2), PositionBias2d(5, 4, 2)
    for bias in (line, square):
        for table in bias.tables:
            nn.init.normal_(table)
    lengths, shapes = (9, 70, 3, 1024), ((5, 5), (7, 4), (5, 5), (3, 8))
    plain = [line(length) for length in lengths], [square(*shape) for shape in shapes]
    line.gather_once()
    square.gather_once()
    for kept, gathered in zip(([line(n) for n in lengths], [square(*s) for s in shapes]), plain, strict=True):
        for ours, theirs in zip(kept, gathered, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    with pytest.raises(ValueError, match="at most 1024 tokens"):
        line(1025)


def test_a_model_that_leaks_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="padding_leaks"):
        EncodingModel(random_model(padding_leaks=True))


@pytest.fixture(scope="module")
def tiny() -> OnePeace:
    return open_folder(SHIPPED / "onepeace-tiny").model()


@pytest.mark.parametrize("modality", Modality)
def test_real_media_give_the_plain_models_vectors_in_every_type(tiny: OnePeace, modality: Modality) -> None:
    exhibits = [exhibit for exhibit in read_gallery(GALLERY) if exhibit.modality == modality][:40]
    sources: list[Any] = [GALLERY / exhibit.file for exhibit in exhibits]
    if modality is Modality.TEXT:
        sources = [exhibit.caption for exhibit in read_gallery(GALLERY)][:40]
    preprocessor: Any = tiny.config.adapters[modality].preprocessor(open_folder(SHIPPED / "onepeace-tiny").tokenizer())
    items = [preprocessor(source) for source in sources]
    tensors = preprocessor.collate([item[0].samples if isinstance(item, list) else item for item in items])
    assert len(sources) == 40
    for dtype, close in CLOSE.items():
        assert worst_cosine(tiny, EncodingModel(tiny, dtype), modality, *tensors) >= close


def test_kernels_keep_their_sums_when_they_are_rounded() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 1, 5, 5)
    rounded = rounded_in_sum(weight, torch.bfloat16)
    assert torch.equal(rounded, rounded.bfloat16().float())
    plainly = weight.bfloat16().float()
    errors = [(w.sum(dim=(1, 2, 3)) - weight.sum(dim=(1, 2, 3))).abs() for w in (rounded, plainly)]
    assert errors[0].max() < 0.1 * errors[1].max()  # what the smallest weight cannot hold is left
    assert ((rounded - weight).abs() <= 2 * (plainly - weight).abs().max()).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # its compiler imports what it deprecates
@pytest.mark.parametrize("modality", Modality)
def test_compiled_blocks_give_the_same_for_shapes_old_and_new(
    modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "SHAPES", 2)
    model = random_model()
    encoder, compiled = EncodingModel(model), EncodingModel(model, compiled=True)
    (first, *rest) = inputs(modality)
    for rows in (3, 4, 1, 2):  # filled up to 4, 4 and 1; a third shape is left as it is
        tensors = first[:1].repeat(rows, *[1] * (first.ndim - 1)), *(tensor[:1].repeat(rows) for tensor in rest)
        with torch.inference_mode():
            got, expected = compiled.embed(modality, *tensors), encoder.embed(modality, *tensors)
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert {group.rows for _, group in compiled._shapes} == {1, 4}


def test_int8_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="int8 products cannot be compiled"):
        EncodingModel(random_model(), torch.int8, compiled=True)
