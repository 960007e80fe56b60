"""Questions of every kind: the same answers by every way of training, and that each learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from question_pack import write_question_pack
from random_models import write_random_model
from torch import Tensor

import onepeace
from onepeace.checkpoint import open_folder, write_folder
from onepeace.model.task_head import TaskConfig
from onepeace.model.task_model import TaskModel
from onepeace.training.export import export_checkpoint
from onepeace.training.lora import LoraConfig
from onepeace.training.optim import OptimizerConfig
from onepeace.training.task_data import TaskData
from onepeace.training.task_inputs import kept_sequence
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


@pytest.mark.parametrize("name", TASKS)
def test_no_head_changes_the_model_that_embeds(name: str, pack: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    start = starts["official"]
    inputs = ["a dog", onepeace.Image(pack / "0.png"), onepeace.Audio(pack / "0.wav")]
    files = {path.name: path.read_bytes() for path in start.iterdir()}
    before = onepeace.load(start, dtype="float32").encode(inputs)
    module, data = build(pack, start, name, tmp_path / "cache", "head", optimizer=OptimizerConfig(lr=1e-2))
    fitted = trainer(tmp_path, 2)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    export_checkpoint(tmp_path / "last.ckpt", tmp_path / "exported", "exported", storage=None)
    assert {path.name: path.read_bytes() for path in start.iterdir()} == files
    assert (onepeace.load(start, dtype="float32").encode(inputs) == before).all()
    whole, exported = open_folder(start).tensors(), open_folder(tmp_path / "exported").tensors()
    trunk = [tensor for tensor in exported if not tensor.startswith("head.")]
    assert len(trunk) > 20
    assert all(torch.equal(exported[tensor], whole[tensor]) for tensor in trunk)
    assert any(tensor.startswith("head.") for tensor in exported)


def test_low_rank_changes_are_merged_at_export(pack: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    module, data = build(
        pack,
        starts["official"],
        "vqa",
        tmp_path / "cache",
        "fusion",
        lora=LoraConfig(rank=4),
        optimizer=OptimizerConfig(lr=3e-2),
    )
    trained = {name for name, parameter in module.model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        name for name, _ in module.model.named_parameters() if name.startswith("head.")
    }
    assert sum("lora_A" in name for name in trained) == 2 * 4  # two blocks, four matrices each
    fitted = trainer(tmp_path, 5)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    export_checkpoint(tmp_path / "last.ckpt", tmp_path / "exported", "exported", storage=None)
    module.eval()
    (batch,) = data.val_dataloader()
    first = [kept_sequence(module.model, m, batch.inputs[m]) for m in module.model.task.modalities]
    plain = open_folder(tmp_path / "exported").task_model()
    assert not any("lora" in name or "base_layer" in name for name in plain.state_dict())
    with torch.no_grad():
        unmerged = module.logits(batch)
        merged = plain.answer(plain.passes_of(first))
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        plain.fusion.blocks[0].attention.query.weight,
        open_folder(starts["official"]).tensors()["fusion.blocks.0.attention.query.weight"],
    )
    import peft  # whose own way of merging is the reference

    for layer in module.model.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.merge()
    theirs, ours = module.model.fusion.blocks[1].attention.value, plain.fusion.blocks[1].attention.value
    torch.testing.assert_close(theirs.base_layer.weight, ours.weight)


def test_rare_classes_count_more_on_request(pack: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    module, data = build(pack, starts["official"], "vqa", tmp_path, "head", class_weights="balanced")
    data.questions["train"] = [q for q in data.questions["train"] if q.answers == {"red": 1.0}][:2] + [
        q for q in data.questions["train"] if q.answers == {"blue": 1.0}
    ]
    trainer(tmp_path).fit(module, data)
    weights = dict(zip(module.model.task.labels, module.weight_C.tolist(), strict=True))
    assert weights == pytest.approx({"red": 10 / (2 * 2), "blue": 10 / (2 * 8)})  # rows / (classes x rows of it)


@pytest.mark.parametrize(
    ("name", "train", "options", "reason"),
    [
        ("vqa", "head", {"drop_path": 0.1}, "set model.train to fusion or all"),
        ("vqa", "head", {"lora": LoraConfig()}, "set model.train to fusion or all"),
        ("vqa", "head", {"layers": 3}, "set model.train to fusion or all"),
        ("vqa", "fusion", {"layers": 1}, "at least the 2 blocks"),
        ("vqa", "fusion", {"frozen_backbones": False}, "set model.train to all"),
        ("tag", "head", {"class_weights": "balanced"}, "for tasks that classify"),
        ("vqa", "head", {"smoothing": 1.0}, "model.smoothing"),
        ("vqa", "fusion", {"image_size": 100}, "multiple"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    name: str, train: str, options: dict[str, Any], reason: str, pack: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=reason):
        build(pack, starts["official"], name, tmp_path, train, **options)


def test_larger_pictures_get_larger_tables(pack: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    module, data = build(pack, starts["official"], "vqa", tmp_path, "fusion", image_size=96, drop_path=0.3)
    trainer(tmp_path).validate(module, data, verbose=False)
    (batch,) = data.val_dataloader()
    assert batch.inputs["image"][0].shape[1] == 6 * 6 + 1
    assert len(module.model.adapters["image"].bias.tables) == 2  # one a block
    assert module.model.fusion.blocks[-1].attention_branch.drop_path.share == pytest.approx(0.3)
    assert any("image.bias" in n for n, p in module.model.named_parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")  # frozen backbones always are
@pytest.mark.parametrize("design", ["official", "backbones"])
def test_further_blocks_begin_with_the_same_answers(
    design: str, pack: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    answers = []
    for layers in (None, 4):
        module, data = build(pack, starts[design], "vqa", tmp_path, "fusion", layers=layers)
        if layers is None:
            head = module.model.head.state_dict()
        module.model.head.load_state_dict(head)
        trainer(tmp_path).validate(module, data, verbose=False)
        module.eval()
        (batch,) = data.val_dataloader()
        answers.append(module.logits(batch))
    torch.testing.assert_close(answers[1], answers[0])
    module, data = build(pack, starts[design], "vqa", tmp_path, "fusion", layers=4)
    trainer(tmp_path, epochs=2).fit(module, data)
    assert all(block.attention_branch.scale.abs().min() > 0 for block in module.model.fusion.blocks)


@pytest.mark.parametrize("labels", [("red", "blue"), ("blue", "red"), ("blue", "red", "green")])
def test_a_head_is_taken_over_where_its_outputs_mean_the_same_and_else_begins_anew(
    labels: tuple[str, ...], pack: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    module, data = build(pack, starts["official"], "vqa", tmp_path, "fusion")
    learnt = replace(module.model.task, labels=labels, outputs=len(labels))
    model = TaskModel(module.model.config, learnt)
    write_folder(
        tmp_path / "learnt", "learnt", model.config, model.state_dict(), module.reader.folder.tokenizer(), task=learnt
    )
    again, _ = build(pack, tmp_path / "learnt", "vqa", tmp_path, "fusion")
    assert again.model.task.labels == data.task.labels == ("blue", "red")
    taken = {
        name: torch.equal(weight, again.model.state_dict()[name])
        for name, weight in model.state_dict().items()
        if weight.ndim == 2 and weight.shape == again.model.state_dict()[name].shape
    }
    assert all(same for name, same in taken.items() if not name.startswith("head."))
    heads = {same for name, same in taken.items() if name.startswith("head.")}
    assert heads == {labels == ("blue", "red")}


@pytest.mark.parametrize(("first", "then"), [("vqa", "pairs"), ("pairs", "boxes"), ("asked sound", "sounds")])
def test_the_trunk_of_a_model_for_another_kind_of_task_is_taken_over(
    first: str, then: str, pack: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    if first == "asked sound":
        module, _ = build(pack, starts["official"], then, tmp_path, "fusion")
        task = TaskConfig(kind="locate", modalities=module.model.task.modalities, outputs=3)
        model = TaskModel(module.model.config, task)
    else:
        module, _ = build(pack, starts["official"], first, tmp_path, "fusion")
        model, task = module.model, module.model.task
    tokenizer = module.reader.folder.tokenizer()
    write_folder(tmp_path / "learnt", "learnt", model.config, model.state_dict(), tokenizer, task=task)
    again, data = build(pack, tmp_path / "learnt", then, tmp_path, "fusion")
    assert again.model.task.kind == data.task.kind
    fusion = model.fusion.state_dict()
    assert all(torch.equal(weight, fusion[name]) for name, weight in again.model.fusion.state_dict().items())


def test_media_that_cannot_be_read_are_left_out(
    pack: Path, starts: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.loads(line) for line in (pack / "vqa.jsonl").read_text().splitlines()]
    rows[0]["image"] = "absent.png"
    (pack / "gaps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for way in WAYS:
        torch.manual_seed(3)
        paths = [pack / "gaps.jsonl"]
        data = TaskData(paths, paths, cache=tmp_path, batch_size=16, **TASKS["vqa"])
        module = TaskModule(str(starts["official"]), data.task, way)  # type: ignore[arg-type]
        trainer(tmp_path).validate(module, data, verbose=False)
        (batch,) = data.val_dataloader()
        assert len(batch.target) == len(rows) - 1
        assert "absent.png" in caplog.text
        caplog.clear()
