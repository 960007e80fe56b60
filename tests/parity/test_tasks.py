"""Our fine-tuned models against the official ones, from the same weights on the same inputs; and there and back."""

from __future__ import annotations

import csv
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from parity_figures import Figures, build, build_task, read_checkpoint, task_inputs
from torch import Tensor

from encoders.modality import Modality
from onepeace.checkpoint import CheckpointError, build_model, open_folder
from onepeace.convert import convert, convert_back, official_state, read_official
from onepeace.model import OnePeace, TaskConfig
from onepeace.official_config import official_cfg, official_config, official_task
from onepeace.official_names import official_name, our_name
from onepeace.training.task_losses import task_loss

TASKS = ("grounding", "nlvr2", "vqa", "aqa", "vggsound")
EMBEDDING = ("one_peace_val", "alt1", "alt2")
RELEASED = (  # with how many parameters
    *(("retrieval_val", 3_884_740_545), ("retrieval_vl_ft_copytables", 2_731_704_193)),
    *(("classify_grounding", 2_740_006_276), ("classify_nlvr2", 2_743_525_250), ("classify_vqa", 2_750_772_153)),
    *(("classify_aqa", 2_754_507_009), ("classify_vggsound", 1_543_945_397), ("classify_fsd50k", 1_543_610_440)),
)


def relative_difference(ours: Tensor, official: Tensor) -> float:
    assert ours.shape == official.shape
    return float((ours.detach() - official).abs().max() / official.abs().max())


def unpacked(goldens: Path, name: str, folder: Path) -> Path:
    path = folder / f"{name}.pt"
    path.write_bytes(lzma.decompress((goldens / "tinyA" / f"{name}.pt.xz").read_bytes()))
    return path


@pytest.mark.parametrize("task", TASKS)
def test_logits_loss_and_gradient_equal_the_official_ones(
    task: str, goldens: Path, figures: Callable[[str], Figures]
) -> None:
    model = build_task(goldens / "tinyA" / f"ft_{task}.pt.xz", padding_leaks=True)
    expected = figures(f"tinyA/ft_{task}")
    logits = model(*task_inputs(expected))
    assert relative_difference(logits.view_as(expected["logits"]), expected["logits"]) <= 1e-4
    # The official criteria add up over the rows, all but the one of grounding.
    loss = task_loss(model.task.kind, logits, expected["target"]) * int(expected["sample_size"])
    assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-4)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert norm.item() == pytest.approx(expected["grad_norm_total"].item(), rel=1e-4)
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert all(name.endswith("mask_token") or "fusion" in name for name in unused), unused


@pytest.mark.parametrize("task", TASKS)
def test_a_head_leaves_the_features_below_it_as_they_are(
    task: str, goldens: Path, figures: Callable[[str], Figures]
) -> None:
    """A task's model and one that embeds, with the same trunk, agree bit by bit."""
    model = build_task(goldens / "tinyA" / f"ft_{task}.pt.xz")
    trunk = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    bare = OnePeace(model.config).eval()
    assert not bare.load_state_dict(trunk, strict=False).unexpected_keys
    inputs, _ = task_inputs(figures(f"tinyA/ft_{task}"))
    with torch.no_grad():
        for modality, tensors in inputs.items():
            (features,) = bare.features([bare.tokens(modality, *tensors)])
            (same,) = model.features([model.tokens(modality, *tensors)])
            assert torch.equal(features.embeddings, same.embeddings)
            assert torch.equal(bare.heads[modality](features), bare.embed(modality, *tensors))


@pytest.mark.parametrize("task", TASKS)
def test_padding_and_neighbours_never_change_an_answer(
    task: str, goldens: Path, figures: Callable[[str], Figures]
) -> None:
    model = build_task(goldens / "tinyA" / f"ft_{task}.pt.xz")
    inputs, second = task_inputs(figures(f"tinyA/ft_{task}"))
    choices = model.task.choices
    with torch.no_grad():
        together = model(inputs, second)
        for row in range(len(together)):
            rows = {
                m: slice(row * choices, (row + 1) * choices) if m == "text" else slice(row, row + 1) for m in inputs
            }
            alone = {m: tuple(t[rows[m]] for t in tensors) for m, tensors in inputs.items()}
            if Modality.AUDIO in alone:
                samples, length = alone[Modality.AUDIO]
                alone[Modality.AUDIO] = samples[:, : int(length)], length
            if Modality.TEXT in alone:
                (ids,) = alone[Modality.TEXT]
                alone[Modality.TEXT] = (ids[:, : int((ids != 1).sum(1).max())],)
            answer = model(alone, tuple(t[row : row + 1] for t in second))
            torch.testing.assert_close(answer[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*EMBEDDING, *(f"ft_{task}" for task in TASKS)])
def test_a_checkpoint_comes_back_bit_by_bit(name: str, goldens: Path, tmp_path: Path) -> None:
    path = unpacked(goldens, name, tmp_path)
    official = read_official(path)
    report = convert(path, tmp_path / "folder")
    assert (report.left_over, report.added) == ((), ())
    folder = open_folder(tmp_path / "folder")
    assert (folder.task is None) == (name in EMBEDDING)
    written = convert_back(folder, tmp_path / "back.pt")
    back = read_official(tmp_path / "back.pt")
    assert written == len(back["model"]) == len(official["model"])
    for key, tensor in official["model"].items():
        assert back["model"][key].dtype == tensor.dtype, key
        assert torch.equal(back["model"][key], tensor), key
    again = convert(tmp_path / "back.pt", tmp_path / "again")
    assert (again.config, again.task) == (report.config, report.task)
    names = ("model.safetensors", "config.json")
    assert [(tmp_path / "folder" / n).read_bytes() for n in names[:1]] == [
        (tmp_path / "again" / n).read_bytes() for n in names[:1]
    ]


@pytest.mark.parametrize("name", [*EMBEDDING, *(f"ft_{task}" for task in TASKS)])
def test_what_we_write_as_cfg_is_what_the_official_code_wrote(name: str, goldens: Path) -> None:
    state = read_checkpoint(goldens / "tinyA" / f"{name}.pt.xz")
    ours = official_cfg(official_config(state["cfg"], state["model"]), official_task(state["cfg"], state["model"]))

    def same(mine: Any, theirs: Any, where: str) -> None:
        for key, value in (mine or {}).items():
            if isinstance(value, dict):
                same(value, theirs[key], f"{where}.{key}")
            elif key == "feature_encoder_spec":
                assert eval(value) == [(c, k, s) for c, k, s in eval(theirs[key])]
            elif not (key.startswith("use_") and key.endswith("_moe")):  # experts of modalities that are not there
                assert value == theirs[key], f"{where}.{key}"

    same(ours["model"], state["cfg"]["model"], "model")
    same(ours["task"], state["cfg"]["task"], "task")
    same(ours["criterion"], state["cfg"]["criterion"], "criterion")


@pytest.mark.parametrize(("name", "parameters"), RELEASED)
def test_every_released_layout_has_one_place_for_each_name(name: str, parameters: int, goldens: Path) -> None:
    cfg = yaml.safe_load((goldens / "params_4b" / f"{name}.cfg.yaml").read_text())
    with open(goldens / "params_4b" / f"{name}.tsv", newline="") as stream:
        rows = [row for row in csv.reader(stream, delimiter="\t") if row and not row[0].startswith("#")]
    with torch.device("meta"):
        official = {
            row[0]: torch.empty(json.loads(row[1].replace("(", "[").replace(",)", "]").replace(")", "]")))
            for row in rows
        }
        config, task = official_config(cfg, official), official_task(cfg, official)
        model = build_model(config, task)
    assert (task is None) == name.startswith("retrieval")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    if name == "retrieval_vl_ft_copytables":
        assert [len(model.adapters[m].bias.tables) for m in ("text", "image")] == [40, 40]
    back = official_state(config, model.state_dict())
    assert {key: tensor.shape for key, tensor in back.items()} == {key: t.shape for key, t in official.items()}


@pytest.mark.parametrize("name", ["pretrain_stage1", "pretrain_stage2"])
def test_names_of_a_pretraining_checkpoint_read_both_ways(name: str, goldens: Path) -> None:
    for official in read_checkpoint(goldens / "tinyA" / f"{name}.pt.xz")["model"]:
        ours = our_name(official)
        assert ours is None or official_name(ours) == official


def test_a_temperature_in_a_fine_tuned_checkpoint_is_named_and_left(goldens: Path, tmp_path: Path) -> None:
    """The official code refuses such a file: `finetune_loading.json`."""
    path = unpacked(goldens, "ft_vggsound", tmp_path)
    state = torch.load(path, weights_only=True)
    state["model"]["logit_scale"] = torch.tensor(2.0)
    torch.save(state, path)
    assert convert(path, tmp_path / "out").left_over == ("logit_scale",)


def test_what_cannot_be_written_back_is_refused_in_one_line(goldens: Path, tmp_path: Path) -> None:
    convert(unpacked(goldens, "ft_vggsound", tmp_path), tmp_path / "out")
    folder = open_folder(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"ft_vggsound\.pt already exists"):
        convert_back(folder, tmp_path / "ft_vggsound.pt")
    with pytest.raises(CheckpointError, match="does not embed"):
        folder.model()
    with pytest.raises(CheckpointError, match=r"no place for head\.more"):
        official_state(folder.config, {"head.more": torch.zeros(1)})


def test_an_embedding_model_has_no_task(goldens: Path, tmp_path: Path) -> None:
    convert(unpacked(goldens, "one_peace_val", tmp_path), tmp_path / "out")
    folder = open_folder(tmp_path / "out")
    with pytest.raises(CheckpointError, match="no task's head"):
        folder.task_model()
    model = build(goldens / "tinyA" / "one_peace_val.pt.xz")
    again = folder.model().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_a_converted_task_folder_gives_the_official_logits(
    goldens: Path, tmp_path: Path, figures: Callable[[str], Figures]
) -> None:
    convert(unpacked(goldens, "ft_nlvr2", tmp_path), tmp_path / "out")
    folder = open_folder(tmp_path / "out")
    assert isinstance(folder.task, TaskConfig)
    expected = figures("tinyA/ft_nlvr2")
    with torch.no_grad():
        logits = folder.task_model()(*task_inputs(expected))
    assert relative_difference(logits, expected["logits"]) <= 1e-4
