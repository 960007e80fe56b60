"""Our forward pass against the official code's, from the same weights on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from parity_figures import GOLDEN, Figures, build, read_figures
from torch import Tensor

from encoders.audio.adapter import frame_count
from encoders.modality import Modality
from encoders.position_bias import bucket_1d, index_2d, resize_table_2d
from onepeace.model import OnePeace

LENGTHS = torch.tensor([16_000, 40_000, 26_080])  # samples of the three sounds in `retrieval`


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def assert_equal(ours: Tensor, official: Tensor, tolerance: float = 1e-4) -> None:
    assert ours.shape == official.shape
    difference = (ours.float() - official.float()).abs().max() / official.float().abs().max()
    assert difference <= tolerance, f"relative difference {difference:.1e}"


def test_embeddings_equal_the_subset_in_the_repository() -> None:
    model, figures = build(GOLDEN / "one_peace_val.pt.xz"), read_figures(GOLDEN / "retrieval.safetensors")
    assert_equal(model.embed_text(figures["tok"]), figures["text_emb"])
    assert_equal(model.embed_text(figures["tok_long"]), figures["text_emb_long"])
    assert_equal(model.embed_image(figures["img"]), figures["image_emb"])
    assert_equal(model.embed_audio(figures["aud_long"], torch.tensor([160_000])), figures["audio_emb_long"])
    assert_equal(model.embed_audio(figures["aud"], LENGTHS)[:1], figures["audio_emb_single1"])
    assert_equal(model.logit_scale(), figures["logit_scale_exp"])


def test_the_official_batch_is_reproduced_when_padding_may_leak() -> None:
    model = build(GOLDEN / "one_peace_val.pt.xz", padding_leaks=True)
    figures = read_figures(GOLDEN / "retrieval.safetensors")
    assert_equal(model.embed_audio(figures["aud"], LENGTHS), figures["audio_emb"])


def inputs_of(modality: Modality, figures: Figures) -> tuple[Tensor, ...]:
    return {
        Modality.TEXT: (figures["tok"],),
        Modality.IMAGE: (figures["img"][:1],),
        Modality.AUDIO: (figures["aud"], LENGTHS),
    }[modality]


@pytest.mark.parametrize("modality", Modality)
def test_adapters_and_every_layer_equal_the_official_ones(
    modality: Modality, official: Callable[..., OnePeace], figures: Callable[[str], Figures]
) -> None:
    model, expected = official("one_peace_val", padding_leaks=True), figures("tinyA/retrieval_intermediates")
    layers: list[Tensor] = []
    for block in model.fusion.blocks:
        block.register_forward_hook(lambda _module, _args, out: layers.append(out))
    sequence = model.tokens(modality, *inputs_of(modality, figures("tinyA/retrieval")))
    (features,) = model.features([sequence])
    assert_equal(sequence.embeddings, expected[f"{modality}/{modality}.adapter.x"])
    assert torch.equal(sequence.padding, expected[f"{modality}/{modality}.adapter.padding_mask"])
    bias = expected.get(f"{modality}/bias", expected.get(f"{modality}/bias_rows24"))
    assert bias is not None
    assert_equal(sequence.bias[0][0, :, : bias.shape[1]], bias)
    for i, layer in enumerate(layers):
        assert_equal(layer, expected[f"{modality}/{modality}.layer{i}"])
    assert_equal(features.embeddings, expected[f"{modality}/final"])


def test_parts_of_the_adapters_equal_the_official_ones(
    official: Callable[..., OnePeace], figures: Callable[[str], Figures]
) -> None:
    model, inputs = official("one_peace_val", padding_leaks=True), figures("tinyA/retrieval")
    expected = figures("tinyA/retrieval_intermediates")
    audio = model.adapters["audio"]
    extracted = audio.extractor(inputs["aud"].unsqueeze(1))
    projected = audio.projection(extracted.transpose(1, 2))
    positions = audio.positions(projected, torch.zeros(projected.shape[:2], dtype=torch.bool))
    assert_equal(model.adapters["image"].stem(inputs["img"][:1]), expected["image/hmlp"])
    rows = len(expected["audio/embed"])
    longest = LENGTHS.argmax()
    row = slice(0, rows) if rows > 1 else slice(0, 1)
    del longest
    assert_equal(extracted[row], expected["audio/conv_extractor"])
    assert_equal(projected[row], expected["audio/embed"])
    assert_equal(positions[row], expected["audio/conv_pos"])


def test_joint_sequences_equal_the_official_ones(
    official: Callable[..., OnePeace], figures: Callable[[str], Figures]
) -> None:
    model, inputs = official("one_peace_val", padding_leaks=True), figures("tinyA/retrieval")
    expected = figures("tinyA/joint_features")
    text, image = model.features(
        [model.tokens(Modality.TEXT, inputs["tok"][:2]), model.tokens(Modality.IMAGE, inputs["img"][:2])]
    )
    assert_equal(text.embeddings, expected["vl.text"])
    assert_equal(image.embeddings, expected["vl.image"])
    text, audio = model.features(
        [model.tokens(Modality.TEXT, inputs["tok"][:3]), model.tokens(Modality.AUDIO, inputs["aud"], LENGTHS)]
    )
    assert_equal(text.embeddings, expected["al.text"])
    assert_equal(audio.embeddings, expected["al.audio"])


@pytest.mark.parametrize("size", [320, 384])
def test_larger_pictures_read_interpolated_positions(
    size: int, official: Callable[..., OnePeace], figures: Callable[[str], Figures]
) -> None:
    model, expected = official("one_peace_val"), figures(f"tinyA/retrieval_{size}")
    count = len(expected["img"])
    assert_equal(model.embed_image(expected["img"]), expected["image_emb"][:count])
    table = resize_table_2d(model.adapters["image"].bias.tables[0], 16, size // 16)
    assert_equal(table, expected["rel_pos_table"])


@pytest.mark.parametrize("name", ["alt1", "alt2"])
def test_every_optional_flag_equals_the_official_one(
    name: str, official: Callable[..., OnePeace], figures: Callable[[str], Figures]
) -> None:
    model, expected = official(name, padding_leaks=True), figures(f"tinyA/{name}")
    lengths = torch.tensor([16_000, 20_000])
    assert torch.equal(frame_count(lengths) + 1, (~expected["aud_pad"]).sum(1))
    assert_equal(model.embed_text(expected["tok"]), expected["text_emb"])
    assert_equal(model.embed_image(expected["img"]), expected["image_emb"])
    assert_equal(model.embed_audio(expected["aud"], lengths), expected["audio_emb"])


def test_bfloat16_stays_within_its_tolerance(
    official: Callable[..., OnePeace], figures: Callable[[str], Figures]
) -> None:
    model = official("one_peace_val", padding_leaks=True).bfloat16()
    inputs, expected = figures("tinyA/retrieval"), figures("tinyA/retrieval_bf16")
    rows = {
        "text_emb": model.embed_text(inputs["tok"]),
        "image_emb": model.embed_image(inputs["img"].bfloat16()),
        "audio_emb": model.embed_audio(inputs["aud"].bfloat16(), LENGTHS),
    }
    for name, row in rows.items():
        assert (row.float() - expected[name].float()).abs().max() <= 2e-2


@pytest.mark.parametrize("bucket_size", [128, 256, 512])
def test_distance_buckets_equal_the_official_ones(bucket_size: int, figures: Callable[[str], Figures]) -> None:
    expected = figures("misc/masks_buckets")[f"bucket{bucket_size}.rel_-1023..1023"]
    assert torch.equal(bucket_1d(torch.arange(-1023, 1024), bucket_size)[1:-1], expected[1:-1])


@pytest.mark.parametrize("grid", [4, 16, 20])
def test_grid_buckets_equal_the_official_ones(grid: int, figures: Callable[[str], Figures]) -> None:
    expected = figures("misc/masks_buckets")
    index = index_2d(grid, grid, grid)
    assert torch.equal(index[:3], expected[f"imgbucket{grid}.rows3"])
    assert torch.equal(index[-1], expected[f"imgbucket{grid}.last"])
