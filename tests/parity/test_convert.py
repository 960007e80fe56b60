"""Official-layout checkpoints -> export folders."""

from __future__ import annotations

import csv
import lzma
from pathlib import Path

import pytest
import torch
import yaml
from parity_figures import GOLDEN, read_checkpoint, read_figures

from onepeace.checkpoint import CheckpointError, open_folder
from onepeace.convert import convert, read_official, tensor_shapes
from onepeace.model import ModelConfig
from onepeace.official_names import our_name, rename

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "one_peace_val.pt"
    path.write_bytes(lzma.decompress((GOLDEN / "one_peace_val.pt.xz").read_bytes()))
    return path


def changed(checkpoint: Path, **changes: object) -> Path:
    state = torch.load(checkpoint, weights_only=True)
    for name, tensor in changes.items():
        if tensor is None:
            del state["model"][name]
        else:
            state["model"][name] = tensor
    torch.save(state, checkpoint)
    return checkpoint


def test_every_official_name_of_the_released_size_has_one_place_of_the_same_size(goldens: Path) -> None:
    config = ModelConfig.from_dict(yaml.safe_load((ROOT / "configs/model/4b.yaml").read_text()))
    ours = tensor_shapes(config)
    with open(goldens / "params_4b" / "retrieval_val.tsv", newline="") as stream:
        rows = [row for row in csv.reader(stream, delimiter="\t") if row and not row[0].startswith("#")]
    official = {row[0]: row for row in rows if our_name(row[0])}
    assert {our_name(name) for name in official} == set(ours)
    for name, row in official.items():
        dimensions = [int(number) for number in "".join(c if c.isdigit() else " " for c in row[1]).split()]
        assert ours[our_name(name) or ""].numel() == torch.Size(dimensions).numel(), name


def test_a_converted_folder_gives_the_official_vectors(checkpoint: Path, tmp_path: Path) -> None:
    report = convert(checkpoint, tmp_path / "out")
    model = open_folder(tmp_path / "out").model()
    figures = read_figures(GOLDEN / "retrieval.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(model.embed_image(figures["img"]), figures["image_emb"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.embed_text(figures["tok"]), figures["text_emb"], rtol=1e-4, atol=1e-5)
    assert report.left_over == ()
    assert not report.has_vocabulary


def test_a_missing_temperature_is_made_up_and_said(checkpoint: Path, tmp_path: Path) -> None:
    report = convert(changed(checkpoint, logit_scale=None), tmp_path / "out")
    assert report.added == ("logit_scale.log",)
    assert open_folder(tmp_path / "out").model().logit_scale().item() == pytest.approx(1 / 0.07)


def test_what_has_no_place_is_named(checkpoint: Path, tmp_path: Path) -> None:
    report = convert(changed(checkpoint, **{"decoder_text_embed.bias": torch.zeros(3)}), tmp_path / "out")
    assert report.left_over == ("decoder_text_embed.bias",)


def test_missing_weights_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"fusion\.norms\.text\.weight"):
        convert(changed(checkpoint, **{"encoder_wrapper.fusion_model.text_layer_norm.weight": None}), tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04\x95"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.pt") as error:
        read_official(tmp_path / "bad.pt")
    assert "\n" not in str(error.value)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "owned",))  # type: ignore[return-value]

    torch.save({"cfg": Evil(), "model": {}}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        read_official(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["pretrain_stage1", "pretrain_stage2"])
def test_a_pretraining_checkpoint_gives_its_encoder_and_names_the_decoder(
    name: str, goldens: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.pt"
    path.write_bytes(lzma.decompress((goldens / "tinyA" / f"{name}.pt.xz").read_bytes()))
    report = convert(path, tmp_path / "out")
    kept = set(read_checkpoint(goldens / "tinyA" / f"{name}.pt.xz")["model"]) - set(report.left_over)
    assert all("decoder" in key or "mask_" in key for key in report.left_over)
    assert not any("decoder" in key for key in kept)


def test_a_vocabulary_gives_text_input(checkpoint: Path, goldens: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "out", goldens / "vocab")
    tokenizer = open_folder(tmp_path / "out").tokenizer()
    assert tokenizer is not None
    assert tokenizer.encode(" cow", add_special_tokens=False).ids == [12094]


def test_every_key_of_a_checkpoint_is_renamed_once(goldens: Path) -> None:
    model = read_checkpoint(goldens / "tinyA" / "one_peace_val.pt.xz")["model"]
    tensors = rename(model)
    buffers = [key for key in model if "rp_bucket" in key or "position_idx" in key or key.endswith("version")]
    assert len(tensors) + len(buffers) == len(model)
