"""What a model takes from a checkpoint of another stage, against what the official code takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity_figures import Figures, read_checkpoint

from encoders.modality import Modality
from onepeace.convert import official_state, pretraining_model
from onepeace.model import OnePeace, TaskModel
from onepeace.official_config import official_config, official_task
from onepeace.official_names import COMPUTED, our_name, rename
from onepeace.training.fine_tuning import HEAD_ONLY, fine_tuning_config
from onepeace.training.optim import OptimizerConfig, parameter_groups, train_only
from onepeace.training.start import load_start

TASKS = ("grounding", "nlvr2", "vqa", "aqa", "vggsound")


def ours(official: list[str]) -> set[str]:
    """Names of ours for official ones; buffers and what nothing reads have none."""
    named = (our_name(name) for name in official if not COMPUTED.fullmatch(name))
    return {name for name in named if name is not None}


def tuned_model(goldens: Path, task: str, drop_path: float | None = None) -> TaskModel:
    """A task's model as the official code sets it up from the three-modality checkpoint."""
    state = read_checkpoint(goldens / "tinyA" / "one_peace_val.pt.xz")
    tuned = read_checkpoint(goldens / "tinyA" / f"ft_{task}.pt.xz")
    config = official_task(tuned["cfg"], tuned["model"])
    assert config is not None
    start = official_config(state["cfg"], state["model"])
    size = tuned["cfg"]["task"]["patch_image_size"]
    return TaskModel(fine_tuning_config(start, config.modalities, config.pictures, drop_path, size), config)


def start_state(goldens: Path) -> dict[str, torch.Tensor]:
    """The three-modality checkpoint under our names, in our shapes."""
    state = read_checkpoint(goldens / "tinyA" / "one_peace_val.pt.xz")
    shapes = OnePeace(official_config(state["cfg"], state["model"])).state_dict()
    return {name: tensor.view(shapes[name].shape) for name, tensor in rename(state["model"]).items()}


def test_stage_2_takes_from_stage_1_what_the_official_code_takes(goldens: Path) -> None:
    report = json.loads((goldens / "tinyA" / "stage1_to_stage2_loading.json").read_text())
    models = []
    for stage in (1, 2):
        state = read_checkpoint(goldens / "tinyA" / f"pretrain_stage{stage}.pt.xz")
        model, decoder = pretraining_model(state["cfg"], state["model"])
        model.add_module("decoder", decoder)
        models.append(model)
    first, second = models
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    done = load_start(second, before)
    assert set(done.loaded) - {"logit_scale.log"} == ours(report["from_checkpoint"])  # equal in both, says the report
    assert set(done.initial) == ours(report["reinitialised"])
    assert set(done.dropped) == ours(report["dropped"])
    assert all(torch.equal(second.state_dict()[name], before[name]) for name in done.loaded)


def test_stage_2_goes_on_from_its_own_checkpoint_where_the_official_code_fails(goldens: Path) -> None:
    report = json.loads((goldens / "tinyA" / "stage2_reload_error.json").read_text())
    assert "image_mask_token" in report["error_when_reloading_stage2_ckpt_with_its_own_cfg"]
    state = read_checkpoint(goldens / "tinyA" / "pretrain_stage2.pt.xz")
    (model, decoder), (again, _) = (pretraining_model(state["cfg"], state["model"]) for _ in range(2))
    done = load_start(again, model.state_dict())
    assert (done.initial, done.dropped, done.created) == ((), (), ())
    assert load_start(decoder, decoder.state_dict()).initial == ()


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuning_takes_what_the_official_code_takes(task: str, goldens: Path) -> None:
    report = json.loads((goldens / "tinyA" / "finetune_loading.json").read_text())[task]
    model, state = tuned_model(goldens, task), start_state(goldens)
    done = load_start(model, state)
    assert set(done.created) == ours(report["created_from_checkpoint"])
    assert set(done.initial) == ours(report["reinitialised"])
    assert set(done.dropped) == ours(report["dropped"])
    assert set(done.resized) == ({"adapters.image.bias.tables.0"} if task == "grounding" else set())
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in done.loaded)
    official = read_checkpoint(goldens / "tinyA" / f"ft_{task}.pt.xz")
    assert model.config == official_config(official["cfg"], official["model"])
    assert set(model.state_dict()) == set(rename(official["model"]))
    assert len(official_state(model.config, model.state_dict())) == report["n_params"]  # buffers included


def test_tables_grow_with_the_picture_as_the_official_ones(goldens: Path, figures: Callable[[str], Figures]) -> None:
    model = tuned_model(goldens, "grounding")  # 320 pixels, from 256
    load_start(model, start_state(goldens))
    for table in model.adapters["image"].bias.tables:
        torch.testing.assert_close(table.data, figures("tinyA/retrieval_320")["rel_pos_table"], rtol=1e-5, atol=1e-6)


def test_absolute_positions_grow_to_a_larger_table_bicubically(goldens: Path) -> None:
    state = start_state(goldens)
    first = read_checkpoint(goldens / "tinyA" / "one_peace_val.pt.xz")
    config = official_config(first["cfg"], first["model"])
    image = replace(config.adapters[Modality.IMAGE], position_grid=20)
    model = OnePeace(replace(config, adapters={Modality.IMAGE: image}))
    done = load_start(model, state)
    assert done.resized == ("adapters.image.position_embedding",)
    grown, table = model.adapters["image"].position_embedding.data, state["adapters.image.position_embedding"]
    assert torch.equal(grown[0], table[0])
    picture = table[1:].T.reshape(1, -1, 16, 16)
    expected = torch.nn.functional.interpolate(picture, (20, 20), mode="bicubic").flatten(2)[0].T
    assert torch.equal(grown[1:], expected)
    with pytest.raises(ValueError, match="need the same sizes"):  # smaller ones are not made of larger ones
        load_start(OnePeace(config), model.state_dict())


def test_retrieval_with_sound_takes_what_the_official_code_takes(goldens: Path) -> None:
    report = json.loads((goldens / "tinyA" / "al_retrieval_loading.json").read_text())
    first = read_checkpoint(goldens / "tinyA" / "one_peace_val.pt.xz")
    config = official_config(first["cfg"], first["model"])
    adapters = {m: a for m, a in config.adapters.items() if m in (Modality.TEXT, Modality.AUDIO)}
    model = OnePeace(replace(config, adapters=adapters, bias_per_layer=True))
    done = load_start(model, start_state(goldens))
    assert set(done.created) == ours(report["added"])
    assert set(done.dropped) == ours(report["dropped"])
    assert set(model.state_dict()) == ours(report["keys"])
    tables = model.adapters["text"].bias.tables
    assert torch.equal(tables[0], tables[1])


def test_a_checkpoint_of_other_sizes_or_of_another_model_is_refused() -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"weight has shape \(2, 4\) in the checkpoint and \(2, 3\)"):
        load_start(model, torch.nn.Linear(4, 2).state_dict())
    with pytest.raises(ValueError, match="another kind of model"):
        load_start(model, {"other": torch.zeros(1)})


@pytest.mark.parametrize(("task", "decay"), [("vqa", 0.85), ("aqa", 0.9)])
def test_rates_fall_from_block_to_block_as_the_official_ones(task: str, decay: float, goldens: Path) -> None:
    official = json.loads((goldens / "tinyA" / f"param_groups_{task}.json").read_text())
    model = tuned_model(goldens, task)
    groups = parameter_groups(model.named_parameters(), OptimizerConfig(lr=1.0, weight_decay=0.05, layer_decay=decay))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (group["weight_decay"], group["lr"]) for group in groups for p in group["params"]}
    expected = {
        name: (group["weight_decay"], pytest.approx(group["lr_scale"]))
        for group in official
        for name in ours(group["params"])
    }
    expected.pop("adapters.audio.mask_token", None)  # nothing reads it, so ours does not train it
    assert found == expected
    assert len({rate for _, rate in found.values()}) == 4
    assert len(groups) == len(official)


def test_drop_path_rises_from_block_to_block(goldens: Path) -> None:
    model = tuned_model(goldens, "vqa", drop_path=0.4)
    rates = [block.feedforward_branch.drop_path.share for block in model.fusion.blocks]
    assert rates == pytest.approx([0.0, 0.4])
    assert [block.attention_branch.drop_path.share for block in model.fusion.blocks] == rates


def test_with_the_trunk_frozen_the_head_alone_trains(goldens: Path) -> None:
    model = tuned_model(goldens, "vggsound")
    train_only(model.named_parameters(), HEAD_ONLY, "trainable")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n in model.state_dict() if n.startswith("head.")
    }
    with pytest.raises(ValueError, match="trainable: no parameter is named like nothing"):
        train_only(model.named_parameters(), ("nothing",), "trainable")
