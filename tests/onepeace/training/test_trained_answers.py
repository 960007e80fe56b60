"""What a head says while it is trained is what its predictor answers, for the same rows of a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from question_pack import write_question_pack
from random_models import write_random_model
from test_joint_tasks import TASKS, build, trainer

import onepeace
from onepeace.checkpoint import write_folder

# Lightning's own, of its use of others
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_question_pack(tmp_path_factory.mktemp("questions"))


@pytest.mark.parametrize("name", TASKS)
def test_a_predictor_answers_as_the_head_did_in_training(name: str, pack: Path, tmp_path: Path) -> None:
    start = write_random_model(tmp_path / "start", "backbones")
    module, data = build(pack, start, name, tmp_path / "cache", "all")
    trainer(tmp_path).validate(module, data, verbose=False)
    module.eval()
    with torch.no_grad():
        (batch,) = data.val_dataloader()
        logits = module.logits(batch).float()
    task = module.model.task
    tokenizer = module.reader.folder.tokenizer()
    write_folder(tmp_path / "head", "head", module.model.config, module.model.state_dict(), tokenizer, task=task)
    predictor = onepeace.load_task(tmp_path / "head")
    rows = [json.loads(line) for line in (pack / f"{name}.jsonl").read_text().splitlines()]
    inputs: list[dict[str, Any]] = [
        {part: str(pack / row[part]) if part in ("image", "image2", "audio") else row[part] for part in predictor.reads}
        for row in rows
    ]
    answers = predictor.predict(inputs)
    if name == "boxes":
        shares = np.array([answer.box for answer in answers]) / 64  # pixels a side
        corners = logits.sigmoid().numpy()
        np.testing.assert_allclose(shares[:, :2], np.minimum(corners[:, :2], corners[:, 2:]), atol=1e-4)
        np.testing.assert_allclose(shares[:, 2:], np.maximum(corners[:, :2], corners[:, 2:]), atol=1e-4)
        return
    told = np.array([list(answer.probabilities.values()) for answer in answers])
    wanted = logits.sigmoid() if task.kind == "tag" else logits.softmax(dim=1)
    np.testing.assert_allclose(told, wanted.numpy(), atol=1e-4)
