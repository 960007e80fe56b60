"""What a model takes from a checkpoint of another stage, against what the official code takes."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity_figures import read_checkpoint

from encoders.tokens import Modality
from onepeace.convert import COMPUTED, official_config, our_name, pretraining_model, rename
from onepeace.model import OnePeace
from onepeace.training.optim import OptimizerConfig, parameter_groups
from onepeace.training.start import load_start

# An official fine-tuned model has a task's head in place of these, which every one of our models has.
HEADS = ("classify_head.", "text_proj.", "image_proj.", "audio_proj.", "logit_scale")
TASKS = {
    "grounding": ("text", "image"),
    "nlvr2": ("text", "image"),
    "vqa": ("text", "image"),
    "aqa": ("text", "audio"),
    "vggsound": ("audio",),
}


def ours(official: list[str]) -> set[str]:
    """Names of ours for official ones; buffers and what nothing reads have none."""
    named = (our_name(name) for name in official if not COMPUTED.fullmatch(name))
    return {name for name in named if name is not None}


def without_heads(names: Collection[str]) -> set[str]:
    return {name for name in names if not name.startswith(("heads.", "logit_scale"))}


def tuned_model(goldens: Path, modalities: Collection[str], type_embeddings: bool = False) -> OnePeace:
    """A model for fine-tuning as the official code sets it up: tables for each block, some modalities."""
    state = read_checkpoint(goldens / "tinyA" / "one_peace_val.pt.xz")
    config = official_config(state["cfg"], state["model"])
    adapters = {m: replace(c, type_embedding=type_embeddings) for m, c in config.adapters.items() if m in modalities}
    if type_embeddings:
        adapters[Modality.IMAGE] = replace(adapters[Modality.IMAGE], second_type_embedding=True)
    return OnePeace(replace(config, adapters=adapters, bias_per_layer=True))


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
    model = tuned_model(goldens, TASKS[task], type_embeddings=task == "nlvr2")
    done = load_start(model, start_state(goldens))
    assert set(done.created) == ours(report["created_from_checkpoint"])
    assert set(done.initial) == ours([name for name in report["reinitialised"] if not name.startswith(HEADS)])
    assert without_heads(done.dropped) == without_heads(ours(report["dropped"]))
    official = rename(read_checkpoint(goldens / "tinyA" / f"ft_{task}.pt.xz")["model"])
    assert without_heads(model.state_dict()) == without_heads(official)


def test_retrieval_with_sound_takes_what_the_official_code_takes(goldens: Path) -> None:
    report = json.loads((goldens / "tinyA" / "al_retrieval_loading.json").read_text())
    model = tuned_model(goldens, ("text", "audio"))
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
    model = tuned_model(goldens, TASKS[task])
    groups = parameter_groups(model.named_parameters(), OptimizerConfig(lr=1.0, weight_decay=0.05, layer_decay=decay))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (group["weight_decay"], group["lr"]) for group in groups for p in group["params"]}
    expected = {
        name: (group["weight_decay"], pytest.approx(group["lr_scale"]))
        for group in official
        for name in ours([official_name for official_name in group["params"] if not official_name.startswith(HEADS)])
    }
    assert without_heads(found) == expected.keys() - {"adapters.audio.mask_token"}
    assert len({rate for _, rate in found.values()}) == 4
    assert all(found[name] == figures for name, figures in expected.items() if name in found)
