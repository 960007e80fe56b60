from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from onepeace.official_names import our_name
from onepeace.training.optim import OptimizerConfig, build_optimizer, cosine_lr, is_decayed, parameter_groups

SCHEDULES = {"stage1": (200_000, 3000, 5e-4), "ratio_1000": (1000, 100, 1e-4)}  # updates, warm-up, highest rate


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_is_the_official_one(name: str, goldens: Path) -> None:
    steps, warmup, lr = SCHEDULES[name]
    figures = json.loads((goldens / "misc" / "lr_schedule.json").read_text())[name]
    updates = [(step, rate) for step, rate in figures if step != "initial" and step < steps]
    assert len(updates) > 8
    for step, rate in updates:
        assert cosine_lr(step, steps, warmup, lr, 1e-6) == pytest.approx(rate, rel=1e-9), step


def test_weight_decay_falls_on_the_parameters_that_the_official_training_decays(goldens: Path) -> None:
    groups = json.loads((goldens / "tinyA" / "stage1_param_groups.json").read_text())
    checked = 0
    for group in groups if isinstance(groups, list) else groups.values():
        decay = group["weight_decay"] > 0
        for entry in group.get("params", group.get("names", [])):
            official = entry if isinstance(entry, str) else entry["name"]
            ours = our_name(official)
            if ours is None:
                continue  # the pretraining decoder
            dimensions = 1 if ours.endswith((".bias", "scale", "norm.weight")) or "norm" in ours else 2
            if ours.endswith(("class_token", "type_embedding", "class_position", "mask_token")):
                dimensions = 1
            if ours == "logit_scale.log":
                dimensions = 0
            assert is_decayed(ours, torch.empty([2] * dimensions)) == decay, ours
            checked += 1
    assert checked > 50


def test_a_factor_of_the_rate_holds_for_the_parameters_it_names() -> None:
    model = nn.ModuleDict({"slow": nn.Linear(2, 2), "fast": nn.Linear(2, 2)})
    config = OptimizerConfig(lr=1e-2, lr_scale={"slow": 0.1}, warmup=0.0)
    optimizer, _ = build_optimizer(model.named_parameters(), config, steps=10)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model["slow"].weight)] == pytest.approx(1e-3)
    assert rates[id(model["fast"].bias)] == pytest.approx(1e-2)


def test_a_factor_that_names_nothing_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nothing_like_it"):
        parameter_groups(nn.Linear(2, 2).named_parameters(), OptimizerConfig(lr_scale={"nothing_like_it": 0.1}))


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), OptimizerConfig())
    assert [id(p) for group in groups for p in group["params"]] == [id(model.bias)]
