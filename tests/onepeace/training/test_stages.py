"""Stage plans on the small pack: what a stage leaves alone, what its optimiser holds, and what a kill costs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_training import SCRIPT, losses, pytestmark, weights  # noqa: F401 - pytestmark silences Lightning here too

import onepeace
from encoders.modality import Modality
from onepeace.training.cli import main
from onepeace.training.stages import loss_curve, read_plan, run_plan

FIRST, SECOND = "1-pictures", "2-sounds"
SECOND_TRAINABLE = [r"(?<!\w)audio", r"^decoder\."]
DENOISING = {"text": 0.5, "media": 1.0, "joint_text": 0.5, "joint_media": 0.5}


def write_plan(folder: Path, pack: Path) -> Path:
    """Write two stages of the plain recipe, with dropout, and a checkpoint after every step."""
    model = yaml.safe_load((pack / "model.yaml").read_text()) | {"drop_path": 0.2, "dropout": 0.1}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    decoder = {"width": 16, "layers": 1, "heads": 2, "hidden": 16}

    def stream(modality: str, source: str, **more: Any) -> dict[str, Any]:
        return {"modality": modality, "batch_size": 8, "sources": [{"source": source, "positives": "label"}], **more}

    plan = {
        "out": str(folder / "run"),
        "checkpoint_every": 1,
        "base": {
            "trainer": {
                "accelerator": "cpu",
                "log_every_n_steps": 1,
                "enable_progress_bar": False,
                "enable_model_summary": False,
            },
            "model": {"model": str(folder / "model.yaml"), "tokenizer": str(pack / "tokenizer.json")},
            "data": {"root": str(pack), "manifest": "manifest.jsonl"},
        },
        "stages": [
            {
                "name": "pictures",
                "steps": 6,
                "lr": 3e-3,
                "loss": {"denoising": DENOISING, "decoder": decoder},
                "data": {"streams": [stream("image", "colours")]},
            },
            {
                "name": "sounds",
                "steps": 6,
                "lr": 1e-3,
                "batch_size": {"audio": 4},
                "trainable": SECOND_TRAINABLE,
                "loss": {"denoising": {**DENOISING, "text": 0.0, "joint_teacher": True}, "decoder": decoder},
                "data": {"streams": [stream("audio", "notes", train_text=False)]},
            },
        ],
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def digests(path: Path) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in weights(path).items()}


@pytest.fixture(scope="module")
def done(small_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a plan that ran through."""
    folder = tmp_path_factory.mktemp("plan")
    main(["plan", str(write_plan(folder, small_pack))])
    return folder / "run"


def test_a_stage_changes_nothing_outside_its_patterns(done: Path) -> None:
    before, after = digests(done / FIRST / "last.ckpt"), digests(done / SECOND / "last.ckpt")
    changed = {name for name in after if name in before and after[name] != before[name]}
    patterns = re.compile("|".join(SECOND_TRAINABLE))
    assert all(patterns.search(name.removeprefix("model.")) for name in changed)
    assert {name.split(".")[0] for name in changed} == {"model", "decoder"}
    untouched = [name for name in after if name.startswith("model.") and "audio" not in name]
    assert len(untouched) > 40
    assert set(untouched) <= set(before)


def test_the_optimiser_holds_exactly_what_trains(done: Path) -> None:
    checkpoint = torch.load(done / SECOND / "last.ckpt", weights_only=True)
    optimizer = checkpoint["optimizer_states"][0]
    held = sorted(
        tuple(optimizer["state"][number]["exp_avg"].shape)
        for group in optimizer["param_groups"]
        for number in group["params"]
    )
    patterns, others = re.compile("|".join(SECOND_TRAINABLE)), set(Modality) - {"text", "audio"}
    trained = [
        tuple(tensor.shape)
        for name, tensor in checkpoint["state_dict"].items()
        if patterns.search(name.removeprefix("model.")) and not set(name.split(".")) & others
        if name != "model.adapters.audio.mask_token"  # the official layout has it, and nothing reads it
    ]
    assert held == sorted(trained)


@pytest.mark.slow
def test_a_killed_plan_goes_on_to_the_same_losses(done: Path, small_pack: Path, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, small_pack)
    (tmp_path / "train.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(onepeace.__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "train.py"), "plan", str(plan)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "run" / SECOND / "last.ckpt").exists() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    first_written = (tmp_path / "run" / FIRST / "last.ckpt").stat().st_mtime_ns
    main(["plan", str(plan)])
    assert (tmp_path / "run" / FIRST / "last.ckpt").stat().st_mtime_ns == first_written
    whole, resumed = losses(done / SECOND), losses(tmp_path / "run" / SECOND)
    assert resumed
    assert resumed == pytest.approx({step: whole[step] for step in resumed}, abs=1e-6)
    assert max(resumed) == 5


@pytest.mark.parametrize("starts", [["pictures", "sounds"], ["pictures"], []])
def test_a_stage_begins_with_the_mean_of_those_it_names(
    starts: list[str], done: Path, small_pack: Path, tmp_path: Path
) -> None:
    data = yaml.safe_load(write_plan(tmp_path, small_pack).read_text())
    data["stages"].append(data["stages"][0] | {"name": "third", "steps": 1, "trainable": ["scale"]})
    data["stages"][2]["start_from"] = starts
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(data))
    shutil.copytree(done, tmp_path / "run")
    for stage in (FIRST, SECOND):
        (tmp_path / "run" / stage / "stage.yaml").unlink()
    main(["plan", str(tmp_path / "plan.yaml")])
    begun = weights(tmp_path / "run/3-third/last.ckpt")
    earlier = {"pictures": weights(done / FIRST / "last.ckpt"), "sounds": weights(done / SECOND / "last.ckpt")}
    untouched = [name for name in begun if "scale" not in name]
    assert len(untouched) > 40
    for name in untouched:
        if starts:
            mean = sum(earlier[stage][name] for stage in starts) / len(starts)
            torch.testing.assert_close(begun[name], mean, rtol=1e-6, atol=1e-7)
    if not starts:
        assert not torch.equal(begun["model.heads.text.weight"], earlier["pictures"]["model.heads.text.weight"])


def test_the_curve_of_a_stage_is_that_of_all_its_runs(done: Path) -> None:
    assert loss_curve(done / FIRST) == pytest.approx(list(losses(done / FIRST).values()))


def test_a_plan_that_changed_is_not_mixed_with_what_it_was(done: Path, small_pack: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(write_plan(tmp_path, small_pack).read_text())
    data["out"] = str(done)
    data["stages"][1]["lr"] = 0.5
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=r"the plan has changed since .*1-pictures"):  # its model.yaml lies elsewhere
        run_plan(read_plan(tmp_path / "plan.yaml"), lambda arguments: pytest.fail("trained"), lambda config: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.update(colour=1), "colour"),
        (lambda plan: plan["stages"][0].update(stepps=1), "stepps"),
        (lambda plan: plan["stages"][0].update(steps=0), "at least 1"),
        (lambda plan: plan["stages"][0].update(name="a/b"), "slashes"),
        (lambda plan: plan["stages"][1].update(name="pictures"), "different names"),
        (lambda plan: plan.update(stages=[]), "different names"),
        (lambda plan: plan.update(stages=None), "a list of stages"),
        (lambda plan: plan["stages"][1].update(trainable=["nothing_like_it"]), "nothing_like_it"),
        (lambda plan: plan["stages"][0].update(start_from=["sounds"]), "no earlier stage is called sounds"),
        (lambda plan: plan["stages"][0].update(start_from="sounds"), "no earlier stage is called sounds"),
    ],
)
def test_what_cannot_work_is_refused_by_name(change: Any, message: str, small_pack: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(write_plan(tmp_path, small_pack).read_text())
    data["stages"][0]["steps"] = 1
    change(data)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=message):
        main(["plan", str(tmp_path / "plan.yaml")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stage: stage["data"]["streams"][0].update(modality="smell"), "smell"),
        (lambda stage: stage["data"]["streams"][0]["sources"][0].update(source="nowhere"), "nowhere"),
        (lambda stage: stage["data"].update(manifest="nothing.jsonl"), r"nothing\.jsonl"),
        (lambda stage: stage["loss"].update(contrastive=-1.0), "contrastive"),
        (lambda stage: stage.update(model={"colour": 1}), "colour"),
    ],
)
def test_a_mistake_in_the_last_stage_is_found_before_the_first_one_trains(
    change: Any, message: str, small_pack: Path, tmp_path: Path
) -> None:
    data = yaml.safe_load(write_plan(tmp_path, small_pack).read_text())
    change(data["stages"][1])
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=message):
        main(["plan", str(tmp_path / "plan.yaml")])
    assert not (tmp_path / "run" / FIRST / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data": {"manifst": "x"}}, "unknown key 'manifst', did you mean 'manifest'"),
        ({"data": {"streams": [{"modality": "image", "batchsize": 4}]}}, "'batchsize', did you mean 'batch_size'"),
        ({"model": {"optimizer": {"warmpu": 1}}}, r"'optimizer\.warmpu', did you mean 'warmup'"),
        ({"trainer": {"precison": 32}}, "'precison', did you mean 'precision'"),
        (
            {"model": {"pretrained": {"image": "lite9"}}},
            r"model\.pretrained\.image must be one of 'efficientnet_lite0'",
        ),
    ],
)
def test_a_misspelt_key_is_named_with_its_stage_and_leaves_nothing(
    wrong: dict[str, Any], message: str, small_pack: Path, tmp_path: Path
) -> None:
    path = write_plan(tmp_path, small_pack)
    plan = yaml.safe_load(path.read_text())
    plan["stages"][-1] |= wrong
    path.write_text(yaml.safe_dump(plan))
    with pytest.raises(ValueError, match=rf"^stage {plan['stages'][-1]['name']}: .*{message}"):
        main(["plan", str(path)])
    assert not Path(plan["out"]).exists()


def test_a_plan_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml: no such plan"):
        read_plan(tmp_path / "none.yaml")


@pytest.mark.parametrize("args", [[], ["--help"], ["plan", "--help"]])
def test_help_shows_plans_and_examples(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(args)
    shown = capsys.readouterr().out
    assert "onepeace train plan FILE" in shown
    named = [word for word in shown.split() if word.startswith("configs/")]
    root = Path(onepeace.__file__).parents[1]
    assert named
    assert all((root / name).is_file() for name in named)
