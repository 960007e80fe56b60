"""Boxes and spans of manifests as targets, rows that cannot teach, and that a little model learns to find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from random_models import write_random_model
from torch import Tensor

from encoders.modality import Modality
from onepeace.evaluate.rows import Medium
from onepeace.model import TaskConfig
from onepeace.training.optim import OptimizerConfig
from onepeace.training.questions import Question, UnusableError, with_boxes, with_spans
from onepeace.training.set_loss import set_loss
from onepeace.training.task_data import TaskData
from onepeace.training.task_inputs import TokenSet
from onepeace.training.task_module import TaskModule
from onepeace.training.task_targets import target_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """White squares on dark pictures, and a tone in silence, asked for or not."""
    folder, rng = tmp_path_factory.mktemp("searched"), np.random.default_rng(2)
    rows: dict[str, list[dict[str, Any]]] = {"detect": [], "locate": []}
    for number in range(8):
        left, top = (int(32 * place) for place in rng.integers(0, 2, 2))
        pixels = np.full((64, 64, 3), 40, np.uint8)
        pixels[top : top + 32, left : left + 32] = 250
        Image.fromarray(pixels).save(folder / f"{number}.png")
        start = 0.125 * number
        time = np.arange(32_000) / 16_000
        tone = np.where((time >= start) & (time < start + 0.75), np.sin(2 * np.pi * 500 * time), 0.0)
        soundfile.write(folder / f"{number}.wav", 0.5 * tone, 16_000)
        box, span = [left, top, left + 32, top + 32], [start, start + 0.75]
        for text, there in (("the cat", True), ("a bird", False)):
            about = {"id": f"{number}-{there}", "text": text}
            rows["detect"].append({**about, "image": f"{number}.png", "boxes": [box] if there else []})
            rows["locate"].append({**about, "audio": f"{number}.wav", "spans": [span] if there else []})
    for name, written in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("start") / "official", "official")


@pytest.mark.parametrize(("kind", "medium"), [("detect", "image"), ("locate", "audio")])
def test_every_way_of_training_begins_with_the_same_answers_and_learns(
    kind: Any, medium: Any, pack: Path, start: Path, tmp_path: Path
) -> None:
    rows = [pack / f"{kind}.jsonl"]
    answers: dict[str, Tensor] = {}
    for way in ("head", "fusion", "all"):
        torch.manual_seed(3)
        data = TaskData(rows, rows, ["text", medium], kind, cache=tmp_path, batch_size=16)
        module = TaskModule(str(start), data.task, way, slots=4, optimizer=OptimizerConfig(lr=3e-3))  # type: ignore[arg-type]
        assert module.model.task.outputs == 4
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=10,
            check_val_every_n_epoch=10,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            default_root_dir=tmp_path,
        )
        trainer.validate(module, data, verbose=False)
        module.eval()
        (batch,) = data.val_dataloader()
        with torch.no_grad():
            answers[way] = module.logits(batch)
            before = set_loss(answers[way], batch.target)
        if way == "fusion":
            trainer.fit(module.train(), data)
            with torch.no_grad():
                assert set_loss(module.eval().logits(batch), batch.target) < 0.9 * before
            assert {name.split(" on ")[0] for name in module.figures} == {"F1", "absence precision"}
    for way in ("head", "fusion"):  # what is kept is kept in float16
        torch.testing.assert_close(answers[way], answers["all"], rtol=0.0, atol=0.02 * float(answers["all"].std()))


def test_boxes_are_targets_in_shares_and_spans_in_shares_of_the_window(pack: Path, start: Path) -> None:
    question = Question("1", "", None, ("the cat",), {Modality.IMAGE: (Medium(pack, "0.png"),)})
    assert with_boxes(question, {"boxes": [[0, 16, 32, 64]]}).boxes == ((0.0, 0.25, 0.5, 1.0),)
    assert with_boxes(question, {"boxes": "[[0, 16, 32, 64]]"}).boxes == ((0.0, 0.25, 0.5, 1.0),)  # as CSV has it
    assert with_boxes(question, {"boxes": []}).boxes == ()
    assert with_boxes(question, {"box": [0, 16, 32, 64]}).boxes == (
        (0.0, 0.25, 0.5, 1.0),
    )  # a row that names one thing
    with pytest.raises(UnusableError, match="box"):
        with_boxes(question, {"box": [32, 16, 0, 64]})
    assert with_spans(question, {"spans": [[0.5, 2], [3, 4.5]]}).spans == ((0.5, 2.0), (3.0, 4.5))


def test_only_what_the_first_window_holds_is_to_be_found_and_the_rest_is_counted(
    pack: Path, start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"audio": "0.wav", "text": "the cat", "spans": [[0.5, 1], [1.5, 3], [2.5, 3]]}] * 2
    path = pack / "long.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i, row in enumerate(rows)))
    data = TaskData([path], [path], ["text", "audio"], "locate", cache=tmp_path)
    module = TaskModule(str(start), data.task, "fusion")
    seconds = module.model.window_seconds
    assert seconds == 2.0
    target = target_of(data.questions["train"][0], data.task, {}, seconds)
    torch.testing.assert_close(target * seconds, torch.tensor([[0.5, 1.0], [1.5, 2.0]]))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    L.Trainer(accelerator="cpu", enable_checkpointing=False, default_root_dir=tmp_path, **quiet).validate(module, data)
    assert "data.train: 2 of 2 rows have spans behind the first window of 2 s, which are left out" in caplog.text


def test_tasks_about_the_same_pictures_share_what_is_kept_of_them(pack: Path, start: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (pack / "detect.jsonl").read_text().splitlines()]
    grounded = [{**row, "id": f"g{row['id']}", "box": row["boxes"][0]} for row in reversed(rows) if row["boxes"]]
    (pack / "ground.jsonl").write_text("".join(json.dumps(row) + "\n" for row in grounded))
    tokens = []
    for kind in ("detect", "ground"):
        data = TaskData([pack / f"{kind}.jsonl"], [pack / f"{kind}.jsonl"], ["text", "image"], kind, cache=tmp_path)
        module = TaskModule(str(start), data.task, "fusion")
        kept = TokenSet(module.model, module.reader, data.questions["train"], tmp_path, "train")
        first = data.questions["train"][0].media[Modality.IMAGE][0]
        (number,) = kept.distinct.shown[0][Modality.IMAGE]
        assert kept.distinct.inputs[Modality.IMAGE][number] == first
        tokens.append(kept.tokens[Modality.IMAGE])
    assert len(list(tmp_path.glob("train-image-tokens-*"))) == 1
    assert torch.equal(tokens[0][3], tokens[1][3])


@pytest.mark.parametrize(
    ("make", "cells", "reason"),
    [
        (with_boxes, {}, "have no boxes: an empty list says"),
        (with_boxes, {"boxes": "0 0 1 1"}, "have a boxes cell that is no list"),
        (with_boxes, {"boxes": [[0, 0, 1]]}, "a box that is not 4 numbers"),
        (with_boxes, {"boxes": [[5, 0, 1, 1]]}, "corners are out of order"),
        (with_boxes, {"boxes": [[0, 0, 65, 1]]}, "outside the picture"),
        (with_spans, {"spans": None}, "have no spans"),
        (with_spans, {"spans": [[2, 1]]}, "out of order"),
        (with_spans, {"spans": [[-1, 1]]}, "before the sound"),
        (with_spans, {"spans": [3, 4]}, "a span that is not 2 numbers"),
    ],
)
def test_rows_that_cannot_teach_are_refused(make: Any, cells: dict[str, Any], reason: str, pack: Path) -> None:
    question = Question("1", "", None, ("the cat",), {Modality.IMAGE: (Medium(pack, "0.png"),)})
    with pytest.raises(UnusableError, match=reason):
        make(question, cells)


def test_slots_are_refused_where_nothing_is_searched_for(start: Path) -> None:
    task = TaskConfig(kind="classify", modalities=(Modality.IMAGE,), outputs=2)
    with pytest.raises(ValueError, match=r"model\.slots is for tasks that detect or locate, got classify"):
        TaskModule(str(start), task, slots=3)
