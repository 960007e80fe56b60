"""Questions of every kind: the same answers by every way of training, and that each learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from question_pack import write_question_pack
from random_models import write_random_model
from torch import Tensor

from onepeace.training.optim import OptimizerConfig
from onepeace.training.task_data import TaskData
from onepeace.training.task_module import TaskModule

# Lightning's own, of its use of others and of what is meant here
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

TASKS: dict[str, dict[str, Any]] = {
    "vqa": {"modalities": ["text", "image"]},
    "tag": {"modalities": ["text", "image"], "kind": "tag"},
    "pairs": {"modalities": ["text", "image"], "pictures": 2},
    "sounds": {"modalities": ["text", "audio"], "kind": "choose"},
    "boxes": {"modalities": ["text", "image"], "kind": "ground"},
}
WAYS = ("head", "fusion", "all")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_question_pack(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("starts")
    return {design: write_random_model(folder / design, design) for design in ("official", "backbones")}


def build(pack: Path, start: Path, name: str, cache: Path, train: Any, **model: Any) -> tuple[TaskModule, TaskData]:
    torch.manual_seed(3)
    rows = [pack / f"{name}.jsonl"]
    data = TaskData(rows, rows, cache=cache, batch_size=16, **TASKS[name])
    return TaskModule(str(start), data.task, train, **model), data


def trainer(folder: Path, epochs: int = 1, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        **quiet,
        **options,
    )


@pytest.mark.parametrize("design", ["official", "backbones"])
@pytest.mark.parametrize("name", TASKS)
def test_every_way_of_training_begins_with_the_same_answers(
    name: str, design: str, pack: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    answers: dict[str, Tensor] = {}
    for way in WAYS:
        module, data = build(pack, starts[design], name, tmp_path, way)
        trainer(tmp_path).validate(module, data, verbose=False)
        module.eval()
        with torch.no_grad():
            (batch,) = data.val_dataloader()
            answers[way] = module.logits(batch)
    spread = answers["all"].std()
    assert spread > 1e-3
    for way in ("head", "fusion"):  # what is kept is kept in float16
        torch.testing.assert_close(answers[way], answers["all"], rtol=0.0, atol=float(0.02 * spread))


@pytest.mark.parametrize(
    ("name", "train", "least"),
    [("vqa", "fusion", 90.0), ("tag", "head", 90.0), ("pairs", "fusion", 90.0), ("sounds", "head", 90.0)],
)
def test_questions_are_learned(
    name: str, train: str, least: float, pack: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    module, data = build(
        pack, starts["official"], name, tmp_path, train, optimizer=OptimizerConfig(lr=3e-3, betas=(0.9, 0.999))
    )
    trainer(tmp_path, 60, check_val_every_n_epoch=60).fit(module, data)
    assert module.figures["accuracy on the validation rows"] >= least


def test_boxes_are_learned_with_inputs_read_anew(pack: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    module, data = build(pack, starts["official"], "boxes", tmp_path, "all", optimizer=OptimizerConfig(lr=2e-3))
    assert module.model.task.pooled == "image"
    before = trainer(tmp_path).validate(module, data, verbose=False)[0]["val/overlap"]
    trainer(tmp_path, 60, check_val_every_n_epoch=60).fit(module, data)
    assert module.figures["overlap on the validation rows"] > before + 20.0
